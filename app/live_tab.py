"""The page's live tab: the microphone comes in small pieces, each is converted and played as it arrives."""

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
from app.page_voice import Wanted, complaint
from data.audio import info, load
from engine.user_error import UserError
from w2w.stream import Stream
from w2w.watermark import Marker

Wave = Float[Tensor, "1 1 samples"]
Converted = Float[Tensor, "1 1 ready"]

PIECE_S = 0.1
"""Seconds of sound the browser sends at once."""
REPEATED = 6
"""Pieces in every message to the browser."""
BUFFER_S = 0.12
"""Seconds the browser holds back before it plays, so that a late piece leaves no hole."""
KEPT_S = 10.0
"""Seconds after which a piece is deleted."""
IDLE_S = 300
"""Seconds after which the memory of someone who left is given back."""
ABOUT = """
Speak, and hear the other voice a moment later. **Use headphones**: a loudspeaker would be heard by the
microphone again. The voice, the blend and the pitch may be changed while you speak. The browser adds some
tenths of a second; `python -m w2w.live` is many times quicker.
"""
PLAYER = (
    Path(__file__).with_name("live_player.js").read_text(encoding="utf-8").replace("BUFFER", str(BUFFER_S))
)


@dataclass
class Live:
    """One person's conversion in progress."""

    wanted: Wanted
    stream: Stream
    marker: Marker | None
    mark: Any
    sent: deque[str] = field(default_factory=lambda: deque(maxlen=REPEATED))
    """The last pieces, as the player gets them."""
    seconds: float = 0.0
    refused: Wanted | None = field(default=None)
    """What was wanted in vain; said once, not ten times a second."""

    def convert(self, wave: Wave, *, last: bool = False) -> Converted:
        """Convert the next piece, and with the last one all that was held back."""
        parts = [self.stream.push(wave)] if wave.shape[-1] else []
        parts += [self.stream.flush()] if last else []
        converted = torch.cat([*parts, wave.new_zeros(1, 1, 0)], dim=-1)
        if self.marker is not None and converted.shape[-1]:
            converted, self.mark = self.marker.step(converted, self.mark)
        self.seconds += wave.shape[-1] / self.stream.sample_rate
        return converted


def begin(conversions: Conversions, wanted: Wanted, rate: int) -> Live:
    """Start to speak with a voice, at the microphone's rate."""
    voice = wanted.voice(conversions)
    samples = max(1, round(PIECE_S * rate))
    stream = conversions.converter.stream(voice, samples, semitones=wanted.pitch, sample_rate=rate)
    marker = Marker(rate) if conversions.marked else None
    return Live(wanted=wanted, stream=stream, marker=marker, mark=None if marker is None else marker.begin(1))


def follow(conversions: Conversions, live: Live, wanted: Wanted) -> None:
    """Move to what is wanted now, where that is something else."""
    if wanted in (live.wanted, live.refused):
        return
    live.refused = wanted
    live.stream.change(wanted.voice(conversions), wanted.pitch)
    live.wanted, live.refused = wanted, None


def build_live_tab(conversions: Conversions, panel: Sequence[Any], page: gr.Blocks) -> None:
    """Microphone, status line and the hidden way to the loudspeaker."""
    conversions = conversions.live
    network = conversions.converter.network
    if not network.streams:
        gr.Markdown(f"This converter cannot speak live: its {network.needs_whole}.")
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
    pieces = Pieces(page)

    def on_piece(piece: str | None, live: Any, *values: Any) -> Sequence[Any]:
        torch.set_num_threads(1)  # counted for each thread that calls
        if piece is None or isinstance(live, Stopped):
            return live, gr.skip(), gr.skip()
        rate, wave = info(piece).sample_rate, load(piece)
        pieces.add(Path(piece))
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
            message = complaint(mistake, wanted.paths)
            gr.Warning(message, title="Not speaking as wished")
            kept = live if isinstance(live, Live) else Refused(wanted)
            return kept, gr.skip(), f"**{message}**"
        return live, encode_pieces(live, converted), status_text(live)

    def on_stop(live: Any) -> Sequence[Any]:
        if not isinstance(live, Live) or live.stream.ended:
            return Stopped(), gr.skip(), "Not speaking."
        converted = live.convert(torch.zeros(1, 1, 0), last=True)
        return Stopped(), encode_pieces(live, converted), f"Spoke for {live.seconds:.1f} s."

    quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    outputs = [speaking, speaker, status]
    inputs = [microphone, speaking, *panel]
    # One at a time, so that pieces stay in order; each takes some milliseconds.
    order: dict[str, Any] = {"concurrency_limit": 1, "concurrency_id": "live"}
    microphone.start_recording(lambda: None, None, speaking, **order, **quiet)
    microphone.stream(on_piece, inputs, outputs, stream_every=PIECE_S, **order, **quiet)
    microphone.stop_recording(on_stop, speaking, outputs, **order, **quiet)
    speaker.change(None, speaker, None, js=PLAYER, queue=False, api_visibility="private")


_piece_numbers = itertools.count(1)
"""Of pieces: they grow from one recording to the next, whoever speaks."""


@dataclass
class Refused:
    """What was asked in vain before anything began."""

    wanted: Wanted


@dataclass
class Stopped:
    """The end; pieces that come later are too late."""


class Pieces:
    """The files in which the browser's pieces come: ten a second, deleted after some seconds, not an hour.

    Equal pieces, as of a muted microphone, share a file, so that none is deleted that was just sent again.
    """

    def __init__(self, page: gr.Blocks) -> None:
        self.page = page
        self.kept: deque[Path] = deque()

    def add(self, path: Path) -> None:
        """Remember a piece that was heard, and delete the old ones."""
        self.kept.append(path)
        while self.kept and age(self.kept[0]) > KEPT_S:
            old = self.kept.popleft()
            old.unlink(missing_ok=True)
            with suppress(OSError):
                old.parent.rmdir()
            for names in self.page.temp_file_sets:
                names.discard(str(old))


def age(path: Path) -> float:
    """Seconds since a file was written; of one that is gone, for ever."""
    try:
        return time.time() - path.stat().st_ctime
    except FileNotFoundError:
        return math.inf


def encode_pieces(live: Live, converted: Converted) -> str:
    """The last pieces for the player, with semicolons between: number, rate, and 16-bit samples in base64."""
    if converted.shape[-1]:
        samples = (converted[0, 0].clamp(-1, 1) * 32767).round().to(torch.int16).numpy()
        data = base64.b64encode(samples.tobytes()).decode()
        live.sent.append(f"{next(_piece_numbers)} {live.stream.sample_rate} {data}")
    return ";".join(live.sent)


def status_text(live: Live) -> str:
    """How it goes, in words; it changes once a second, which a screen reader can bear."""
    late = live.stream.latency_ms + 1000 * BUFFER_S
    return f"Speaking for {math.floor(live.seconds)} s. Delay: at least {late:.0f} ms."
