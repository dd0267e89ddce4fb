"""The gallery's voices and sentences, and the embedding of a named voice.

A voice is stored as recordings or as a mixture of other voices, not as an embedding: each converter computes
the embedding, in a fraction of a second, so that new weights need no new gallery.
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
"""Folder of the gallery that is part of the package."""


@dataclass(frozen=True, kw_only=True)
class NamedVoice:
    """A named voice and its origin: people's recordings, a ``blend`` of other voices, or ``words``."""

    name: str
    about: str = ""
    """A short description of the voice."""
    recordings: tuple[Path, ...] = ()
    """Recordings of one voice; their embeddings are averaged."""
    blend: dict[str, float] = field(default_factory=dict)
    """Weights of other voices, by name."""
    words: str = ""
    """Text from which a converter with a tie generated the recording; other converters then need no tie."""
    source: str = ""
    licence: str = ""
    portrait: Path | None = None
    """Picture of the log-mel of the recording, or of the first sentence converted to a mixture."""

    @property
    def made(self) -> str:
        if self.words:
            return f"made from words: {self.words}"
        if self.blend:
            return "made of " + " and ".join(f"{weight:g} {name}" for name, weight in self.blend.items())
        return ", ".join(filter(None, (self.source, self.licence)))


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """A recording to convert, of a speaker who is none of the gallery's voices."""

    name: str
    recording: Path
    text: str
    source: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class Shelf:
    """The contents of a folder's ``voices.json``."""

    voices: tuple[NamedVoice, ...] = ()
    sentences: tuple[Sentence, ...] = ()


def own_folder() -> Path:
    """The folder of the user's own voices: ``TIMBRE_VOICES``, or one in the user data folder."""
    return Path(os.environ.get("TIMBRE_VOICES") or platformdirs.user_data_path("timbre") / "voices")


def read(folder: Path) -> Shelf:
    """Read a folder's voices and sentences, with full paths; empty if there is no ``voices.json``."""
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
    """All voices by name: the package's, then the user's own."""
    return {voice.name: voice for folder in (PACKAGED, own_folder()) for voice in read(folder).voices}


def sentences() -> dict[str, Sentence]:
    return {one.name: one for one in read(PACKAGED).sentences}


def find(name: str) -> NamedVoice:
    """The voice of a name, regardless of case."""
    known = gallery()
    if name.lower() not in known:
        raise UserError(
            f"there is no voice {name!r}{nearest(name, known)}: `timbre voices` lists them, and"
            " `timbre voices add NAME REF.wav` adds your own"
        )
    return known[name.lower()]


def embed(converter: "Converter", name: str, fit_steps: int | None = 0) -> Voice:
    """Embed a named voice and fit it to its recordings in ``fit_steps`` steps (None: the default number)."""
    voice = find(name)
    if voice.blend:
        parts = [embed(converter, part, fit_steps) for part in voice.blend]
        return converter.blend(parts, list(voice.blend.values()))
    clips = [load(path, converter.sample_rate) for path in voice.recordings]
    mean_voice = converter.embed(clips, names=[str(path) for path in voice.recordings])
    return converter.fit(mean_voice, clips, steps=fit_steps)
