"""The page: conversion of recordings and live speech, with audio, spectrograms and scores."""

import asyncio
import base64
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import CancelledError, wait
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
from app.page_voice import Wanted, build_voice_panel, check_at_once, recording, show_errors
from app.scores import score, table
from app.spectrograms import compared
from data.audio import info
from w2w.gallery.named import sentences
from w2w.weights import RELEASED

# Gradio trusts the browser's file type, which is video for .webm and .mp4, and would reject these files.
# Their content is checked after the upload.
ANY_SOUND = """
() => {
  const original = Object.getOwnPropertyDescriptor(Blob.prototype, "type").get;
  const sound = (type) => type.startsWith("audio/") ? type : "audio/mpeg";
  Object.defineProperty(File.prototype, "type", {get() { return sound(original.call(this)); }});
}
"""
UPDATE_S = 0.3
"""Seconds between two updates of the progress bar."""
KEPT_S = 3600
"""Seconds after which a recording is deleted."""
TITLE = "Timbre: speak with another voice"
HEADER = """
# Speak with another voice
Choose a voice and press Convert. Or give a few seconds of any voice and a recording of anyone
speaking: the result has the same words in that voice.
Everything runs on the machine that serves this page. Recordings are deleted within an hour, and when the
server stops. [Model card: description, scores and known failures of the converter](card)
"""


@dataclass(frozen=True, kw_only=True)
class Result:
    source: Path
    converted: Path
    target: Path | None
    seconds: float


@dataclass
class Progress:
    """Progress of a conversion, updated by its thread and shown on the page; set ``stopped`` to cancel it."""

    whole: float = 0.0
    """Duration of the source in seconds; 0 while the conversion waits in the queue."""
    done: float = 0.0
    began: float = 0.0
    stopped: bool = False

    def begin(self, seconds: float) -> None:
        """Start converting a source of this duration."""
        self.whole, self.began = seconds, time.monotonic()
        self.advance(0.0)

    def advance(self, seconds: float) -> None:
        """Add converted seconds; raise ``CancelledError`` if the conversion was stopped."""
        if self.stopped:
            raise CancelledError
        self.done += seconds

    def __str__(self) -> str:
        if not self.whole:
            return "Waiting for earlier requests."
        share = min(self.done / self.whole, 1.0)
        text = f'<progress value="{share:.3f}"></progress> {self.done:.0f} of {self.whole:.0f} s converted'
        left = (time.monotonic() - self.began) * (1 / share - 1) if share else 0.0
        return f"{text}, about {left:.0f} s to go." if left > 1 else f"{text}."


def build_page(conversions: Conversions, card: Path | None = None) -> gr.Blocks:
    """Build the page; mount it with the options of ``app.page.mounted``.

    ``card`` is the model card's Markdown file, unless the converter is the released one.
    """
    # Gradio reads this when components are created; uploads are then deleted together with the results.
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
        css = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
        gr.HTML(f"<style>{css}</style>")  # here, so that mounting needs no option for it
        page.load(js=ANY_SOUND, queue=False, api_visibility="private")
    with page.route("Model card", "card"):
        gr.Markdown(card_text(card), elem_id="card")
    page.queue(max_size=conversions.limits.queue, api_open=False)
    return page


def mounted() -> dict[str, Any]:
    """Options for ``gradio.mount_gradio_app``: the theme, and no requests to other hosts."""
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


def build_recording_tab(conversions: Conversions, panel: Sequence[Any]) -> None:
    gr.Markdown("## 2. The speech")
    examples = [(one.text, str(one.recording)) for one in sentences().values()]
    example = gr.Radio(examples, value=examples[0][1], label="Example sentence", elem_id="example")
    example_player = gr.HTML(player(examples[0][1]), elem_id="heard")
    example.change(player, example, example_player, queue=False, api_visibility="private")
    source = recording("Or your own recording", "source")
    check_at_once(source, conversions)
    with gr.Row():
        convert = gr.Button("Convert", variant="primary", scale=3, min_width=160, elem_id="convert")
        stop = gr.Button("Stop", interactive=False, min_width=80, elem_id="stop")
    gr.Markdown("## 3. The result")
    summary = gr.HTML("No result yet.", elem_id="summary")
    result = gr.Audio(
        label="Converted recording",
        interactive=False,
        buttons=["download"],
        elem_id="result",
        type="filepath",
    )
    picture = gr.HTML(elem_id="picture")
    judge = gr.Button("Score this conversion", interactive=False, elem_id="judge")
    scores = gr.HTML(elem_id="scores")
    last_result = gr.State(None)
    able, unable = gr.update(interactive=True), gr.update(interactive=False)

    async def on_convert(uploaded: str | None, given: str, *values: Any) -> AsyncIterator[dict[Any, Any]]:
        wanted, source, progress = Wanted.from_values(values), Path(uploaded or given), Progress()
        yield {result: None, picture: "", judge: unable, scores: "", stop: able}
        try:
            with show_errors("Not converted", [str(source), *wanted.paths]):
                job = conversions.jobs.submit(lambda: speak(conversions, source, wanted, result, progress))
                while not job.done():
                    yield {summary: str(progress)}
                    await asyncio.to_thread(wait, [job], UPDATE_S)
                outcome, figure = job.result()
        except gr.Error:
            yield {summary: "Nothing was converted.", stop: unable}
            raise
        finally:
            progress.stopped = True
        text = f"{outcome.seconds:.1f} s of speech, converted in {time.monotonic() - progress.began:.1f} s."
        text += " It carries an inaudible watermark." if conversions.marked else ""
        yield {
            result: str(outcome.converted),
            summary: text,
            picture: figure,
            last_result: outcome,
            judge: able,
            stop: unable,
        }

    def on_judge(outcome: Result | None) -> str:
        with show_errors("Not scored"):
            if outcome is None:
                raise UserError("convert something first")
            return table(score(outcome.source, outcome.converted, outcome.target), outcome.seconds)

    quiet: dict[str, Any] = {"api_visibility": "private"}
    begun = convert.click(
        on_convert,
        [source, example, *panel],
        [result, summary, picture, last_result, judge, scores, stop],
        concurrency_limit=conversions.limits.workers,
        show_progress_on=[result],
        **quiet,
    )
    stop.click(lambda: ("Stopped.", unable), None, [summary, stop], cancels=[begun], queue=False, **quiet)
    judge.click(on_judge, last_result, scores, concurrency_limit=1, **quiet)


def speak(
    conversions: Conversions, source: Path, wanted: Wanted, result: gr.Audio, progress: Progress
) -> tuple[Result, str]:
    """Convert a source into the page's cache of temporary files; return the result and its figure."""
    progress.begin(info(source).duration)
    folder = conversions.folder / uuid.uuid4().hex
    folder.mkdir(parents=True)
    try:
        voice, out = wanted.voice(conversions), folder / f"{source.stem}_converted.wav"
        conversions.convert(source, voice, semitones=wanted.pitch, out=out, done=progress.advance)
        converted = Path(str(result.move_resource_to_block_cache(out)))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    seconds = round(info(converted).duration, 3)
    outcome = Result(source=source, converted=converted, target=wanted.target, seconds=seconds)
    return outcome, compared(source, converted)


def player(path: str) -> str:
    data = base64.b64encode(Path(path).read_bytes()).decode()
    return f'<audio controls src="data:audio/ogg;base64,{data}"></audio>'


def card_text(card: Path | None) -> str:
    card = card or RELEASED / "README.md"
    if not card.is_file():
        return "This converter came without a model card: ask its authors about its training and data."
    return card.read_text(encoding="utf-8")
