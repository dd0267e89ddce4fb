"""What the mark costs: what it does to the sound by every score there is, and the processor time it takes."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean, median

import torch
from jaxtyping import Float
from torch import Tensor

from eval.error_rates import error_rates
from eval.quality import DNSMOS, opinions
from eval.recognisers import Pocketsphinx
from eval.similarity import Resemblyzer, cosine
from vocoders.scores.copies import has_pesq, log_mel_l1, pesq
from w2w.watermark import Marker
from w2w.watermark.detector import detect

Wave = Float[Tensor, "1 1 samples"]
RATE = 16_000
Row = list[str]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A conversion with and without its mark, and what it should be like."""

    plain: Wave
    marked: Wave
    target: Float[Tensor, "1 1 target_samples"]
    """Another recording of the voice."""
    text: str
    """What is said; empty where it is not known."""


def sound(pairs: Sequence[Conversion]) -> list[Row]:
    """What the mark does to the sound: score, without it, with it, difference and its 95 % interval."""
    rows = [
        ["speech over mark, dB", "", "", _mean([_ratio(pair) for pair in pairs])],
        [
            "log-mel difference, nepers",
            "",
            "",
            _mean([log_mel_l1(pair.plain, pair.marked, RATE) for pair in pairs]),
        ],
    ]
    if has_pesq():
        heard = [pesq(pair.plain, pair.marked, RATE) for pair in pairs]
        rows.append(["PESQ of marked against plain (4.64 at most)", "", f"{mean(heard):.3f}", _least(heard)])
    quality, likeness, words = DNSMOS(), Resemblyzer(), Pocketsphinx()
    opinion = [[opinions(quality(wave)) for wave in (pair.plain, pair.marked)] for pair in pairs]
    for name in ("dnsmos", "dnsmos_background"):
        rows.append(_row(name, [(plain[name], marked[name]) for plain, marked in opinion]))
    alike, same = [], []
    for pair in pairs:
        plain, marked, target = (likeness(w)["embedding"] for w in (pair.plain, pair.marked, pair.target))
        alike.append((cosine(plain, target), cosine(marked, target)))
        same.append(cosine(plain, marked))
    rows.append(_row("similarity to the target", alike))
    rows.append(["similarity of marked to plain", "", f"{mean(same):.4f}", f"least {min(same):.4f}"])
    told = [pair for pair in pairs if pair.text and pair.text.isascii()]  # the recogniser knows English
    rates = [[error_rates(p.text, words(w))["cer"] for w in (p.plain, p.marked)] for p in told]
    if rates:
        rows.append(_row(f"CER, {len(told)} in English", [(plain, marked) for plain, marked in rates]))
    return rows


def _ratio(pair: Conversion) -> float:
    mark = (pair.marked - pair.plain).square().mean()
    return 10 * math.log10(float(pair.plain.square().mean() / mark.clamp_min(1e-20)))


def _row(name: str, values: Sequence[tuple[float, float]]) -> Row:
    plain, marked = zip(*values)
    return [
        name,
        f"{mean(plain):.3f}",
        f"{mean(marked):.3f}",
        _mean([after - before for before, after in values]),
    ]


def _mean(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{mean(values):.3f}"
    deviation = float(torch.tensor(values).std())
    return f"{mean(values):.3f} ± {1.96 * deviation / len(values) ** 0.5:.3f}"


def _least(values: Sequence[float]) -> str:
    return f"least {min(values):.2f}"


def time_taken(wave: Wave, turns: int = 5) -> list[Row]:
    """Processor seconds a second of sound, on this thread: what, rate, and the median over turns."""
    rows = []
    for rate in (16_000, 48_000):
        marker = Marker(rate)
        sound = torch.randn(1, 1, 10 * rate) * 0.1
        rows.append(_timed(f"marking a file at {rate} Hz", lambda m=marker, s=sound: m.mark(s), 10.0, turns))
        for chunk_ms in (20, 10):
            pieces = sound[..., : 2 * rate].split(rate * chunk_ms // 1000, dim=-1)
            name = f"marking chunks of {chunk_ms} ms at {rate} Hz"
            rows.append(_timed(name, lambda m=marker, p=pieces: list(m.marked(p)), 2.0, turns))
    rows.append(_timed("detecting", lambda: detect([wave]), wave.shape[-1] / RATE, turns))
    return rows


def _timed(name: str, call: Callable[[], object], seconds: float, turns: int) -> Row:
    call()
    took = []
    for _ in range(turns):
        began = time.process_time()
        call()
        took.append((time.process_time() - began) / seconds)
    return [name, f"{median(took):.4f}"]
