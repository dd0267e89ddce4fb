"""The page's live tab: the microphone's audio is converted and played in small chunks."""

import base64
import itertools
import math
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from jaxtyping import Float
from torch import Tensor

from app.conversions import Conversions
from app.page_voice import Wanted, error_text
from data.audio import info, load
from engine.user_error import UserError
from w2w.stream import Stream
from w2w.watermark import Marker

Converted = Float[Tensor, "1 1 ready"]

CHUNK_S = 0.1
"""Duration of the chunks that the browser sends."""
REPEATED = 6
"""Number of chunks in every message to the browser, as messages may be lost."""
BUFFER_S = 0.12
"""Playback delay in the browser that compensates for late chunks."""
KEPT_S = 10.0
"""Seconds after which the file of a chunk is deleted."""
IDLE_S = 300
"""Seconds after which the state of an inactive session is freed."""
ABOUT = """
Speak and hear the converted voice a moment later. **Use headphones**, so that the microphone does not pick
up the output. You can change the voice, the blend and the pitch while you speak. The browser adds some tenths
of a second of delay; `python -m w2w.live` is many times faster.
"""
PLAYER = (
    Path(__file__).with_name("live_player.js").read_text(encoding="utf-8").replace("BUFFER", str(BUFFER_S))
)


@dataclass
class Live:
    """State of one live conversion."""

    wanted: Wanted
    stream: Stream
    marker: Marker | None
    mark: Any
    sent: deque[str] = field(default_factory=lambda: deque(maxlen=REPEATED))
    """The last chunks, encoded for the player."""
    seconds: float = 0.0
    refused: Wanted | None = field(default=None)
    """Settings that were refused, so that the error is shown only once."""

    def convert(self, wave: Float[Tensor, "1 1 samples"], *, last: bool = False) -> Converted:
        """Convert the next chunk; with ``last``, also flush the stream."""
        parts = [self.stream.push(wave)] if wave.shape[-1] else []
        parts += [self.stream.flush()] if last else []
        converted = torch.cat([*parts, wave.new_zeros(1, 1, 0)], dim=-1)
        if self.marker is not None and converted.shape[-1]:
            converted, self.mark = self.marker.step(converted, self.mark)
        self.seconds += wave.shape[-1] / self.stream.sample_rate
        return converted


def begin(conversions: Conversions, wanted: Wanted, rate: int) -> Live:
    """Start a live conversion at the microphone's sample rate."""
    voice = wanted.voice(conversions)
    samples = max(1, round(CHUNK_S * rate))
    stream = conversions.converter.stream(voice, samples, semitones=wanted.pitch, sample_rate=rate)
    marker = Marker(rate) if conversions.marked else None
    return Live(wanted=wanted, stream=stream, marker=marker, mark=None if marker is None else marker.begin(1))


def follow(conversions: Conversions, live: Live, wanted: Wanted) -> None:
    """Apply changed settings to a running conversion."""
    if wanted in (live.wanted, live.refused):
        return
    live.refused = wanted
    live.stream.change(wanted.voice(conversions), wanted.pitch)
    live.wanted, live.refused = wanted, None


def build_live_tab(conversions: Conversions, panel: Sequence[Any], page: gr.Blocks) -> None:
    """Build the microphone, the status line and the hidden component that plays the output."""
    conversions = conversions.live
    network = conversions.converter.network
    if not network.streams:
        gr.Markdown(f"This converter cannot run live: its {network.needs_whole}.")
        return
    gr.Markdown("## 2. Speak\n" + ABOUT)
    microphone = gr.Audio(
        label="Microphone",
        sources=["microphone"],
        streaming=True,
        type="filepath",
        buttons=[],
        elem_id="microphone",
    )
    status = gr.Markdown("Not speaking.", elem_id="live")
    speaker = gr.Textbox(visible="hidden", elem_id="speaker", label="Converted sound")
    speaking = gr.State(None, time_to_live=IDLE_S)
    chunk_files = ChunkFiles(page)

    def on_chunk(chunk: str | None, live: Any, *values: Any) -> Sequence[Any]:
        torch.set_num_threads(1)  # this setting is per thread
        if chunk is None or isinstance(live, Stopped):
            return live, gr.skip(), gr.skip()
        rate, wave = info(chunk).sample_rate, load(chunk)
        chunk_files.add(Path(chunk))
        wanted = Wanted.from_values(values)
        if isinstance(live, Refused) and live.wanted == wanted:
            return live, gr.skip(), gr.skip()
        try:
            if not isinstance(live, Live) or live.stream.ended or live.stream.sample_rate != rate:
                live = begin(conversions, wanted, rate)
            else:
                follow(conversions, live, wanted)
            converted = live.convert(wave)
        except (UserError, FileNotFoundError) as mistake:
            message = error_text(mistake, wanted.paths)
            gr.Warning(message, title="Settings not applied")
            state = live if isinstance(live, Live) else Refused(wanted)
            return state, gr.skip(), f"**{message}**"
        return live, encode_chunks(live, converted), status_text(live)

    def on_stop(live: Any) -> Sequence[Any]:
        if not isinstance(live, Live) or live.stream.ended:
            return Stopped(), gr.skip(), "Not speaking."
        converted = live.convert(torch.zeros(1, 1, 0), last=True)
        return Stopped(), encode_chunks(live, converted), f"Spoke for {live.seconds:.1f} s."

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    outputs = [speaking, speaker, status]
    inputs = [microphone, speaking, *panel]
    # One at a time, so that chunks stay in order; each takes some milliseconds.
    order: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "live"}
    microphone.start_recording(lambda: None, None, speaking, **order, **quiet)
    microphone.stream(on_chunk, inputs, outputs, stream_every=CHUNK_S, **order, **quiet)
    microphone.stop_recording(on_stop, speaking, outputs, **order, **quiet)
    speaker.change(None, speaker, None, js=PLAYER, queue=False, api_visibility="private")


_chunk_numbers = itertools.count(1)
"""Chunk numbers; they increase across recordings and sessions."""


@dataclass
class Refused:
    """Session state after a failed start with these settings."""

    wanted: Wanted


@dataclass
class Stopped:
    """Session state after the end; later chunks are ignored."""


class ChunkFiles:
    """Deletes the files of the browser's chunks, ten per second, after some seconds instead of an hour.

    Identical chunks, as of a muted microphone, share a file, which stays if it was just sent again.
    """

    def __init__(self, page: gr.Blocks) -> None:
        self.page = page
        self.kept: deque[Path] = deque()

    def add(self, path: Path) -> None:
        """Register a converted chunk's file and delete old ones."""
        self.kept.append(path)
        while self.kept and age(self.kept[0]) > KEPT_S:
            old = self.kept.popleft()
            old.unlink(missing_ok=True)
            with suppress(OSError):
                old.parent.rmdir()
            for names in self.page.temp_file_sets:
                names.discard(str(old))


def age(path: Path) -> float:
    """Seconds since a file was written; infinite if it does not exist."""
    try:
        return time.time() - path.stat().st_ctime
    except FileNotFoundError:
        return math.inf


def encode_chunks(live: Live, converted: Converted) -> str:
    """The last chunks for the player, separated by semicolons: number, rate, 16-bit samples in base64."""
    if converted.shape[-1]:
        samples = (converted[0, 0].clamp(-1, 1) * 32767).round().to(torch.int16).numpy()
        data = base64.b64encode(samples.tobytes()).decode()
        live.sent.append(f"{next(_chunk_numbers)} {live.stream.sample_rate} {data}")
    return ";".join(live.sent)


def status_text(live: Live) -> str:
    """Status line; it changes only once per second, for the sake of screen readers."""
    late = live.stream.latency_ms + 1000 * BUFFER_S
    return f"Speaking for {math.floor(live.seconds)} s. Delay: at least {late:.0f} ms."
