"""What the gallery holds, and the voice that a name stands for.

A voice is kept as recordings or as a mixture of others, never as a converter's numbers: each converter embeds
it anew, in a fraction of a second, so that new weights need nothing but themselves.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs
from jaxtyping import Float
from torch import Tensor

from data.audio import load
from engine.json_config import load_config
from engine.user_error import UserError, nearest

if TYPE_CHECKING:
    from w2w.converter import Converter

Voice = Float[Tensor, "1 dim"]

PACKAGED = Path(__file__).parent
"""The gallery that comes with the package."""


@dataclass(frozen=True, kw_only=True)
class NamedVoice:
    """A voice and where it is from: people's recordings, a ``blend`` of others, or ``words``."""

    name: str
    about: str = ""
    """What to expect, in some words."""
    recordings: tuple[Path, ...] = ()
    """Speech of one voice, averaged."""
    blend: dict[str, float] = field(default_factory=dict)
    """Weights of other voices, by name."""
    words: str = ""
    """What the recording was made from, by a converter tied to words: so that others need no tie."""
    source: str = ""
    licence: str = ""
    portrait: Path | None = None
    """A picture of a mel: of the recording, or of what a mixture makes of the first sentence."""

    @property
    def made(self) -> str:
        """Where it is from, in a line."""
        if self.words:
            return f"made from words: {self.words}"
        if self.blend:
            return "made of " + " and ".join(f"{weight:g} {name}" for name, weight in self.blend.items())
        return ", ".join(filter(None, (self.source, self.licence)))


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A recording to try voices on, by somebody who is none of them."""

    name: str
    recording: Path
    text: str
    source: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """A folder's ``voices.json``."""

    voices: tuple[NamedVoice, ...] = ()
    sentences: tuple[Sentence, ...] = ()


def own_folder() -> Path:
    """Where one's own voices are kept: ``TIMBRE_VOICES``, or the system's place for a user's data."""
    return Path(os.environ.get("TIMBRE_VOICES") or platformdirs.user_data_path("timbre") / "voices")


def read(folder: Path) -> Shelf:
    """A folder's voices and sentences, with whole paths; of a folder without any, none."""
    file = folder / "voices.json"
    shelf = load_config(Shelf, file) if file.is_file() else Shelf()
    voices = [
        replace(
            voice,
            recordings=tuple(folder / path for path in voice.recordings),
            portrait=folder / "portraits" / f"{voice.name}.png",
        )
        for voice in shelf.voices
    ]
    sentences = [replace(one, recording=folder / one.recording) for one in shelf.sentences]
    return Shelf(voices=tuple(voices), sentences=tuple(sentences))


def gallery() -> dict[str, NamedVoice]:
    """Every voice by its name: the package's, then one's own."""
    return {voice.name: voice for folder in (PACKAGED, own_folder()) for voice in read(folder).voices}


def sentences() -> dict[str, Sentence]:
    """The example sentences by their names."""
    return {one.name: one for one in read(PACKAGED).sentences}


def find(name: str) -> NamedVoice:
    """The voice of a name, whatever its capitals."""
    known = gallery()
    if name.lower() not in known:
        raise UserError(
            f"there is no voice {name!r}{nearest(name, known)}: `timbre voices` lists them, and"
            " `timbre voices add NAME REF.wav` keeps one of your own"
        )
    return known[name.lower()]


def embed(converter: "Converter", name: str, fit_steps: int | None = 0) -> Voice:
    """A converter's voice of this name, fitted to its recordings by so many steps (None: the usual)."""
    voice = find(name)
    if voice.blend:
        parts = [embed(converter, part, fit_steps) for part in voice.blend]
        return converter.blend(parts, list(voice.blend.values()))
    clips = [load(path, converter.sample_rate) for path in voice.recordings]
    mean_voice = converter.embed(clips, names=[str(path) for path in voice.recordings])
    return converter.fit(mean_voice, clips, steps=fit_steps)
