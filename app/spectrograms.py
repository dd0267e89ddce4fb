"""An SVG figure of a conversion: mel spectrograms and pitch curves of source and result."""

import base64
import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.audio import excerpt
from data.frontends import SPEECH_16K, hz_to_mel, mel_png
from pretrain.pitch.tracker import F_MAX, F_MIN, PitchTracker

Wave = Float[Tensor, "1 1 samples"]
Curve = Float[np.ndarray, "frames"]

LONGEST_S = 30.0
"""Only the first seconds are drawn, as longer figures would be unreadable."""
SAMPLE_RATE, HOP = SPEECH_16K.sample_rate, SPEECH_16K.hop
WIDTH, LEFT, MEL_HEIGHT, F0_HEIGHT, GAP = 760.0, 64.0, 130.0, 160.0, 34.0
F0_MARKS, MEL_MARKS = (75.0, 100.0, 150.0, 200.0, 300.0, 400.0), (200.0, 1000.0, 3000.0, 7000.0)
MAX_JUMP = 0.3
"""Pitch jump between neighbouring frames, in octaves, from which the curve is interrupted."""
NO_PITCH = "no pitch found"


def compared(source: Path, converted: Path) -> str:
    waves = [excerpt(path, 0, round(LONGEST_S * SAMPLE_RATE), SAMPLE_RATE) for path in (source, converted)]
    return figure(*waves)


def figure(source: Wave, converted: Wave) -> str:
    """Return the figure of two waves at 16 kHz, with mean pitches in its caption."""
    seconds = max(source.shape[-1], converted.shape[-1]) / SAMPLE_RATE
    pitches = [f0(wave) for wave in (source, converted)]
    caption = (
        f"Mean pitch: source {mean_pitch(pitches[0])}, converted {mean_pitch(pitches[1])}. "
        f"Shown: {'the first ' if seconds >= LONGEST_S else ''}{seconds:.1f} s."
    )
    tops = [GAP, 2 * GAP + MEL_HEIGHT, 3 * GAP + 2 * MEL_HEIGHT]
    height = tops[2] + F0_HEIGHT + 44
    parts = [
        *mel_panel("Source: mel spectrogram", source, tops[0], seconds),
        *mel_panel("Converted: mel spectrogram", converted, tops[1], seconds),
        *f0_panel(pitches, tops[2], seconds),
        *time_axis(tops[2] + F0_HEIGHT, seconds),
    ]
    return (
        f'<figure class="conversion"><svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="Mel spectrograms and pitch of source and converted speech. {caption}">'
        f"{''.join(parts)}</svg><figcaption>{caption}</figcaption></figure>"
    )


def f0(wave: Wave) -> Curve:
    """F0 in Hz every 10 ms, NaN where unvoiced."""
    whole = torch.nn.functional.pad(wave, (0, -wave.shape[-1] % HOP))
    pitch = PitchTracker(SAMPLE_RATE, HOP)(whole)
    return torch.where(pitch.voicing > 0.5, pitch.log_f0.exp(), torch.nan)[0, 0].numpy().astype(np.float64)


def mean_pitch(curve: Curve) -> str:
    voiced = curve[~np.isnan(curve)]
    return f"{math.exp(np.log(voiced).mean()):.0f} Hz" if len(voiced) else NO_PITCH


def mel_panel(title: str, wave: Wave, top: float, seconds: float) -> list[str]:
    width = (WIDTH - LEFT) * wave.shape[-1] / SAMPLE_RATE / seconds
    parts = [
        text(LEFT, top - 9, title, "title"),
        f'<image x="{LEFT}" y="{top}" width="{width:.1f}" height="{MEL_HEIGHT}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{base64.b64encode(mel_png(wave)).decode()}"/>',
    ]
    low, high = (float(hz_to_mel(np.array([hz]))[0]) for hz in (SPEECH_16K.f_min, SPEECH_16K.f_max))
    for hz in MEL_MARKS:
        y = top + MEL_HEIGHT * (high - float(hz_to_mel(np.array([hz]))[0])) / (high - low)
        parts.append(text(LEFT - 8, y + 4, f"{hz:.0f} Hz", "left"))
    return parts


def f0_panel(curves: list[Curve], top: float, seconds: float) -> list[str]:
    """Both pitch curves on a logarithmic scale; the converted one is thicker, the source's dashed."""
    low, high = math.log(F_MIN), math.log(F_MAX)

    def height(hz: float) -> float:
        return top + F0_HEIGHT * (high - math.log(hz)) / (high - low)

    parts = [text(LEFT, top - 9, "Pitch (F0)", "title")]
    parts += [text(LEFT + 110, top - 9, "- - - source", "source")]
    parts += [text(LEFT + 210, top - 9, "—— converted", "converted")]
    parts += [f'<rect x="{LEFT}" y="{top}" width="{WIDTH - LEFT}" height="{F0_HEIGHT}" class="frame"/>']
    for hz in F0_MARKS:
        y = height(hz)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}" class="mark"/>')
        parts.append(text(LEFT - 8, y + 4, f"{hz:.0f} Hz", "left"))
    for kind, curve in zip(("source", "converted"), curves):
        x = LEFT + (np.arange(len(curve)) + 0.5) * HOP / SAMPLE_RATE / seconds * (WIDTH - LEFT)
        for run in voiced_runs(curve):
            points = " ".join(f"{x[i]:.1f},{height(curve[i]):.1f}" for i in run)
            parts.append(f'<polyline points="{points}" class="{kind}"/>')
    return parts


def voiced_runs(curve: Curve) -> list[range]:
    """Runs of two or more voiced frames without a jump; octave jumps are tracking errors."""
    joined = np.abs(np.diff(np.log2(curve))) < MAX_JUMP
    edges = np.diff(np.concatenate([[0], joined.astype(int), [0]]))
    starts, stops = (np.flatnonzero(edges == step) for step in (1, -1))
    return [range(a, b + 1) for a, b in zip(starts.tolist(), stops.tolist())]


def time_axis(top: float, seconds: float) -> list[str]:
    """Tick marks at round seconds below the last panel."""
    step = next(s for s in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10) if seconds / s <= 10)
    parts = []
    for k in range(int(seconds / step + 1e-9) + 1):
        x = LEFT + (WIDTH - LEFT) * k * step / seconds
        anchor = "end" if x > WIDTH - 20 else "middle"
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + 5}" class="tick"/>')
        parts.append(text(x, top + 20, f"{k * step:g}", anchor))
    return [*parts, text(LEFT + (WIDTH - LEFT) / 2, top + 38, "seconds", "middle")]


def text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}">{words}</text>'
