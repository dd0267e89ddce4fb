"""Which reference of a voice is unlike the others, and in what."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data.audio.listening import Measurements

TIMBRE_UNIT, PITCH_UNIT = 0.35, 0.25
"""What one person's recordings usually differ by: in log power per band, and in octaves."""
UNLIKE, TIMES = 2.5, 1.5
"""A reference is unlike the others beyond this distance, and this many times their median.

They err: a good recording is named now and then, and every fifth recording of somebody else is not.
"""


@dataclass(frozen=True, kw_only=True)
class Likeness:
    """How one recording compares with the others of its voice."""

    distance: float
    """0: the same; about 1 between recordings of one person."""
    unlike: bool
    detail: str
    """In what it differs, with what is usual among the others."""


def compare(measured: Sequence[Measurements]) -> list[Likeness]:
    """Compare each of three or more references with the others of the same voice."""
    timbres = np.stack([one.timbre for one in measured])
    pitches = np.array([math.log2(one.voice.pitch) if one.voice else math.nan for one in measured])
    noise = np.array([one.level_db - one.noise_db for one in measured])
    parts = []
    for index in range(len(measured)):
        others = np.arange(len(measured)) != index
        colour = float(np.sqrt(np.square(timbres[index] - np.median(timbres[others], axis=0)).mean()))
        usual = float(np.median(known)) if len(known := pitches[others & ~np.isnan(pitches)]) else math.nan
        octaves = abs(pitches[index] - usual)
        parts.append((colour / TIMBRE_UNIT, 0.0 if math.isnan(octaves) else octaves / PITCH_UNIT, usual))
    distances = np.array([math.hypot(colour, pitch) for colour, pitch, _ in parts])
    found = []
    for index, (colour, pitch, usual) in enumerate(parts):
        rest = float(np.median(np.delete(distances, index)))
        told = f"{distances[index]:.1f} away where the others are {rest:.1f}"
        if pitch > colour:
            told += f": pitch {2 ** pitches[index]:.0f} Hz, the others' {2**usual:.0f} Hz"
        elif noise[index] < (clean := float(np.median(np.delete(noise, index)))) - 10:
            told += f": noise {noise[index]:.0f} dB below the speech, the others' {clean:.0f} dB"
        else:
            told += ": another colour (another speaker, microphone, room or coding)"
        unlike = bool(distances[index] > max(UNLIKE, TIMES * rest))
        found.append(Likeness(distance=float(distances[index]), unlike=unlike, detail=told))
    return found
