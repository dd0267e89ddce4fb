"""The page: speak a recording, or live, with another voice; listen, look and score."""

import base64
import contextvars
import os
import shutil
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.conversions import Conversions
from engine.user_error import UserError

try:
    import gradio as gr
except ImportError:
    raise UserError("the app needs gradio: pip install 'timbre[app]'") from None

from app.live_tab import build_live_tab
from app.page_voice import VoicePanel, Wanted, build_voice_panel, check_at_once, complaints, recording
from app.scores import score, table
from app.spectrograms import compared
from data.audio import info
from w2w.gallery.named import sentences
from w2w.weights import RELEASED

CSS = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
#title h1 { font-size: 1.7rem; margin: .2rem 0 .1rem; }
#title p { margin: 0; max-width: 46rem; }
figure.conversion { margin: .6rem 0 0; }
figure.conversion svg { width: 100%; height: auto; display: block; }
figure.conversion text { font: 12.5px system-ui, sans-serif; fill: var(--body-text-color); }
figure.conversion text.title { font-weight: 600; font-size: 14px; }
figure.conversion text.left, figure.conversion text.end { text-anchor: end; }
figure.conversion text.middle { text-anchor: middle; }
figure.conversion .frame { fill: none; stroke: var(--border-color-primary); }
figure.conversion .mark { stroke: var(--border-color-primary); stroke-width: .7; }
figure.conversion .tick { stroke: var(--body-text-color); }
figure.conversion polyline { fill: none; stroke-linejoin: round; }
figure.conversion polyline.source { stroke: #1d6fb8; stroke-width: 1.6; stroke-dasharray: 4 3; }
figure.conversion polyline.converted { stroke: #c2410c; stroke-width: 2.2; }
figure.conversion text.source { fill: #1d6fb8; }
figure.conversion text.converted { fill: #c2410c; }
.dark figure.conversion polyline.source { stroke: #7cc0ff; }
.dark figure.conversion text.source { fill: #7cc0ff; }
.dark figure.conversion polyline.converted { stroke: #fdba74; }
.dark figure.conversion text.converted { fill: #fdba74; }
figure.conversion figcaption { font-size: .9rem; margin-top: .3rem; }
table.scores { border-collapse: collapse; border: 0 !important; width: 100%; font-size: .92rem; }
table.scores caption { text-align: left; font-weight: 600; padding: .3rem 0; }
table.scores th, table.scores td { text-align: left; vertical-align: top;
  padding: .35rem .6rem .35rem 0 !important; border: 0 !important;
  border-bottom: 1px solid var(--border-color-primary) !important; }
table.scores th:nth-child(3), table.scores td:nth-child(3) { width: 45%; }
@media (max-width: 640px) {
  figure.conversion { overflow-x: auto; }
  figure.conversion svg { min-width: 560px; }
}
table.scores td:nth-child(2) { font-variant-numeric: tabular-nums; font-weight: 600; }
figure.portrait { margin: 0; }
figure.portrait img { width: 100%; height: 72px; image-rendering: auto; }
figure.portrait figcaption { font-size: .85rem; overflow-wrap: anywhere; }
a:focus-visible, button:focus-visible, input:focus-visible {
  outline: 3px solid #1d6fb8; outline-offset: 2px; }
"""
KEPT_S = 3600
"""Seconds after which a recording is deleted."""
TITLE = "Timbre: speak with another voice"
HEADER = """
# Speak with another voice
Choose a voice and press Convert; or give some seconds of a voice and a recording of anyone
speaking: the result says the same, with that voice.
Everything happens on the machine that runs this page. Recordings are deleted within an hour, and when the
page's server ends. [Model card: what the converter is, its scores and failures](card)
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A conversion that can be scored."""

    source: Path
    converted: Path
    target: Path | None
    seconds: float


def build_page(conversions: Conversions, card: Path | None = None) -> gr.Blocks:
    """The whole page, to be mounted with the options of ``app.page.mounted``.

    ``card`` is the model card's file (Markdown), where the converter is not the released one.
    """
    # Uploads are kept beside the results, so that they are deleted with them; read when components are made.
    os.environ["GRADIO_TEMP_DIR"] = str(conversions.folder / "page")
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, KEPT_S)) as page:
        gr.Markdown(HEADER, elem_id="title")
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                panel = build_voice_panel(conversions)
            with gr.Column(scale=3, min_width=420), gr.Tabs():
                with gr.Tab("A recording", id="recording"):
                    build_recording_tab(conversions, panel)
                with gr.Tab("Live", id="live_tab"):
                    build_live_tab(conversions, panel, page)
        gr.HTML(f"<style>{CSS}</style>")  # here, so that it needs no option where it is mounted
    with page.route("Model card", "card"):
        gr.Markdown(card_text(card), elem_id="card")
    page.queue(max_size=conversions.limits.queue, api_open=False)
    return page


def mounted() -> dict[str, Any]:
    """Options for ``gradio.mount_gradio_app`` with which the page looks as meant and asks no other host."""
    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", text_size="md", **fonts)
    return {
        "theme": theme,
        "footer_links": ["settings"],
        "run_history": False,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "enable_monitoring": False,
        "show_error": True,
    }


def build_recording_tab(conversions: Conversions, panel: VoicePanel) -> None:
    """Source, button, result, its picture and its scores."""
    gr.Markdown("## 2. What is said")
    examples = [(one.text, str(one.recording)) for one in sentences().values()]
    example = gr.Radio(examples, value=examples[0][1], label="An example sentence", elem_id="example")
    heard = gr.HTML(player(examples[0][1]), elem_id="heard")
    example.change(player, example, heard, queue=False, api_visibility="private")
    source = recording("Or a recording of your own", "source")
    check_at_once(source, conversions)
    convert = gr.Button("Convert", variant="primary", elem_id="convert")
    gr.Markdown("## 3. The result")
    result = gr.Audio(
        label="Converted recording",
        interactive=False,
        buttons=["download"],
        elem_id="result",
        type="filepath",
    )
    summary = gr.Markdown("Nothing was converted yet.", elem_id="summary")
    picture = gr.HTML(elem_id="picture")
    judge = gr.Button("Score this conversion", interactive=False, elem_id="judge")
    scores = gr.HTML(elem_id="scores")
    kept = gr.State(None)

    def on_convert(
        own: str | None,
        given: str,
        *fields: Any,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> list[Any]:
        wanted, path, began = Wanted.from_fields(fields), own or given, time.monotonic()
        with complaints("Not converted", [path, *wanted.paths]):
            voice = wanted.voice(conversions)
            converted = convert_with_progress(conversions, Path(path), voice, wanted.pitch, result, progress)
            seconds = info(converted).duration
            outcome = Result(
                source=Path(path), converted=converted, target=wanted.target, seconds=round(seconds, 3)
            )
            figure = compared(outcome.source, converted)
        text = f"{seconds:.1f} s of speech, converted in {time.monotonic() - began:.1f} s."
        text += " It carries an inaudible watermark." if conversions.marked else ""
        return [str(converted), text, figure, outcome, gr.update(interactive=True), ""]

    def on_judge(outcome: Result | None) -> str:
        with complaints("Not scored"):
            if outcome is None:
                raise UserError("convert something first")
            return table(score(outcome.source, outcome.converted, outcome.target), outcome.seconds)

    quiet: dict[str, Any] = {"api_visibility": "private"}
    convert.click(
        on_convert,
        [source, example, *panel.inputs],
        [result, summary, picture, kept, judge, scores],
        concurrency_limit=conversions.limits.workers,
        show_progress_on=[result],
        **quiet,
    )
    judge.click(on_judge, kept, scores, concurrency_limit=1, **quiet)


def convert_with_progress(
    conversions: Conversions,
    source: Path,
    voice: Any,
    semitones: float,
    result: gr.Audio,
    progress: gr.Progress,
) -> Path:
    """Convert into the page's own store, whose files are deleted in time."""
    folder = conversions.folder / uuid.uuid4().hex
    folder.mkdir(parents=True)
    whole, done = max(info(source).duration, 1e-3), 0.0
    here = contextvars.copy_context()  # the worker's thread does not know whose progress it is

    def tell(seconds: float) -> None:
        nonlocal done
        done += seconds
        here.run(progress, min(done / whole, 1.0), desc="Converting")

    try:
        out = folder / f"{source.stem}_converted.wav"
        conversions.convert(source, voice, semitones=semitones, out=out, done=tell)
        return Path(str(result.move_resource_to_block_cache(out)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def player(path: str) -> str:
    """A player of an example."""
    data = base64.b64encode(Path(path).read_bytes()).decode()
    return f'<audio controls src="data:audio/ogg;base64,{data}"></audio>'


def card_text(card: Path | None) -> str:
    """The model card of the converter that is used."""
    card = card or RELEASED / "README.md"
    if not card.is_file():
        return "This converter came without a model card: ask whoever trained it on whose speech, and how."
    return card.read_text(encoding="utf-8")
