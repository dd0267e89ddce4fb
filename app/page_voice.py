"""The page's voice panel: the target voice, a second voice to blend with, and pitch."""

import base64
import html
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import gradio as gr

from app.conversions import Conversions
from data.audio import info
from data.audio.mixing import cancelling
from engine.user_error import UserError
from w2w.converter import Voice
from w2w.gallery.named import find, gallery

NAMED, RECORDED, WORDS = "by name", "from recordings", "from words"
CONSENT = (
    "**A voice belongs to a person.** Use your own, or one whose owner has agreed to this use. Tell listeners"
    " that it is converted. Never use it to deceive anyone or to pass speaker verification."
)
AGREED = "The voice is mine, or its owner has agreed"
SEMITONES = 12.0
CUT_RATE = 48_000
"""Sample rate in Hz of recordings edited in the browser."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Values of the panel's components, in their order."""

    kind: str = RECORDED
    name: str = ""
    """Name of a voice in the gallery."""
    reference: str | None = None
    further: tuple[str, ...] = ()
    words: str = ""
    second: str | None = None
    share: float = 0.0
    """Share of the second voice in percent."""
    pitch: float = 0.0
    """Pitch shift in semitones."""
    agreed: bool = False

    @classmethod
    def from_values(cls, values: Sequence[Any]) -> "Wanted":
        """Read the values of the panel's components; those of empty ones are None."""
        known = {field.name: value for field, value in zip(fields(cls), values) if value is not None}
        known["further"] = tuple(known.get("further", ()))
        known |= {name: float(known[name]) for name in ("share", "pitch") if name in known}
        return cls(**known)

    @property
    def paths(self) -> list[str]:
        """Uploaded recordings that define the voice."""
        first = (self.reference, *self.further) if self.kind == RECORDED else ()
        return [path for path in (*first, self.second) if path]

    @property
    def target(self) -> Path | None:
        """Recording of the voice to compare results with; None without one, as for a voice from words."""
        if self.kind == NAMED:
            return next(iter(find(self.name).recordings), None)
        return Path(self.reference) if self.kind == RECORDED and self.reference else None

    def voice(self, conversions: Conversions) -> Voice:
        """Return the voice from the gallery, recordings or words, blended with the second one if given."""
        if not self.agreed and (self.kind != NAMED or self.second):
            raise UserError(f"please tick “{AGREED}” first: a voice belongs to a person")
        if self.kind == NAMED:
            first = conversions.jobs.run(lambda: conversions.converter.voice(self.name))
        elif self.kind == WORDS:
            if not self.words.strip():
                raise UserError("describe the voice in words first, such as “an old man, low and rough”")
            first = conversions.jobs.run(lambda: conversions.converter.embed_text(self.words.strip()))
        else:
            if not self.reference:
                raise UserError("choose or record the target voice first")
            first = conversions.voice([Path(p) for p in (self.reference, *self.further)])
        if not self.second or not self.share:
            return first
        other = conversions.voice([Path(self.second)])
        return conversions.converter.blend([first, other], [1 - self.share / 100, self.share / 100])


def build_voice_panel(conversions: Conversions) -> list[Any]:
    """Create the components for the fields of ``Wanted``; uploads are checked at once."""
    has_words = conversions.converter.words is not None
    gr.Markdown("## 1. The voice")
    kinds = [("From the gallery", NAMED), ("From recordings", RECORDED), ("In words", WORDS)]
    kind = gr.Radio(
        kinds if has_words else kinds[:2], value=NAMED, label="Source of the voice", elem_id="kind"
    )
    with gr.Column() as named:
        voices = gallery()
        first = next(iter(voices))
        choices = [
            (f"{voice.name}: {voice.about}" if voice.about else name, name) for name, voice in voices.items()
        ]
        name = gr.Radio(choices, value=first, label="Voice", elem_id="name")
        portrait = gr.HTML(shown(first), elem_id="portrait")
    with gr.Column(visible=False) as recorded:
        reference = recording("Target voice: a few seconds of clear speech", "reference")
        with gr.Accordion("More recordings of the same voice (averaged)", open=False):
            further = gr.File(
                label="More recordings of this voice",
                file_count="multiple",
                file_types=None,
                height=120,
                elem_id="further",
            )
    words = gr.Textbox(
        label="The voice in words",
        info="In English: age, woman or man, high or low, bright or dark, rough or smooth.",
        placeholder="an old man, low and rough",
        max_length=300,
        visible=False,
        elem_id="words",
    )
    with gr.Accordion("Blend with a second voice", open=False, elem_id="blend"):
        second = recording("Second voice", "second")
        share = gr.Slider(0, 100, 50, step=5, label="Share of the second voice, %", elem_id="share")
    pitch = gr.Slider(
        -SEMITONES,
        SEMITONES,
        0.0,
        step=0.5,
        label="Pitch shift, semitones",
        visible=conversions.converter.network.moves_pitch,
        elem_id="pitch",
    )
    gr.Markdown(CONSENT, elem_id="consent")
    agreed = gr.Checkbox(False, label=AGREED, elem_id="agreed")
    quiet: dict[str, Any] = {"queue": False, "api_visibility": "private"}
    kind.change(
        lambda choice: [gr.update(visible=choice == one) for one in (NAMED, RECORDED, WORDS)],
        kind,
        [named, recorded, words],
        **quiet,
    )
    name.change(shown, name, portrait, **quiet)
    for component in (reference, further, second):
        check_at_once(component, conversions)
    return [kind, name, reference, further, words, second, share, pitch, agreed]


def shown(name: str) -> str:
    voice = find(name)
    picture = ""
    if voice.portrait is not None and voice.portrait.is_file():
        data = base64.b64encode(voice.portrait.read_bytes()).decode()
        picture = f'<img alt="mel spectrogram of {name}" src="data:image/png;base64,{data}">'
    return f'<figure class="portrait">{picture}<figcaption>{html.escape(voice.made)}</figcaption></figure>'


def recording(label: str, name: str) -> gr.Audio:
    return gr.Audio(
        label=label,
        sources=["upload", "microphone"],
        type="filepath",
        buttons=[],
        editable=True,
        waveform_options=gr.WaveformOptions(sample_rate=CUT_RATE),
        elem_id=name,
    )


def check_at_once(component: gr.Audio | gr.File, conversions: Conversions) -> None:
    """Report unusable or unusual files when they are chosen."""

    def check(chosen: str | Sequence[str] | None) -> None:
        for path in [chosen] if isinstance(chosen, str) else chosen or []:
            with show_errors("This file cannot be used", [path]):
                conversions.limits.measure(Path(path))
                for remark in remarks(Path(path)):
                    gr.Warning(error_text(UserError(remark), [path]), title="Unusual file", duration=20)

    component.upload(check, component, api_visibility="private", concurrency_limit=4, show_progress="hidden")


def remarks(path: Path) -> list[str]:
    """Warnings about a usable file."""
    odd = [*info(path).remarks, cancelling(path)]
    return [f"{path} {one}" if not one.startswith("its ") else f"{path}: {one}" for one in odd if one]


@contextmanager
def show_errors(title: str, paths: Sequence[str | None] = ()) -> Iterator[None]:
    """Show user errors as messages on the page."""
    try:
        yield
    except (UserError, FileNotFoundError) as mistake:
        words = error_text(mistake, paths)
        raise gr.Error(words, title=title, duration=20, print_exception=False) from None


def error_text(mistake: Exception, paths: Sequence[str | None] = ()) -> str:
    """Return an error as a sentence, escaped for HTML, with file names in place of paths."""
    if isinstance(mistake, FileNotFoundError) or any(path and not Path(path).exists() for path in paths):
        return "A recording has expired and was deleted. Please choose it again."
    words = str(mistake)
    names = [Path(path).name for path in paths if path]
    for path in filter(None, paths):
        words = words.replace(str(Path(path)), Path(path).name)
    if not any(words.startswith(name) for name in names):
        words = words[:1].upper() + words[1:]
    words = html.escape(words, quote=False)
    return words if words.endswith((".", "!", "?")) else words + "."
