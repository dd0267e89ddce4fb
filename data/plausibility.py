"""Plausibility checks: recordings with a wrong sample rate in the header, and references of another voice."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from statistics import median

import numpy as np

from data.audio import AudioError
from data.audio.listening import Measurements
from data.manifest import Row

USUAL_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000)
PLAUSIBLE_RATES = range(4_000, 384_001)
TOO_SLOW_PITCH = 66.0
"""Lowest plausible median F0 of an utterance in Hz."""
TOO_FAST_PITCH, TOO_FAST_TEMPO = 260.0, 5.5
"""Hz. No speaker exceeds this tempo while F0 is above this pitch for nine tenths of the time.

Tuned on 1084 recordings of 197 speakers: one is wrongly classified as too fast, none as too slow. With a
wrong rate in the header, both checks together detect 75 % of recordings at 3 times their rate, 53 % at twice,
30 % at half and 53 % at a third of it (240 recordings).
"""
ODD_PITCH_OCTAVES = {"same": (0.5, 0.5), "others": (0.6, 1.0)}
"""Minimum deviation upwards and downwards of a voice at an unusual rate from the same speaker or all voices.

Deep voices need the wider margin against all voices, because the median is close to women's pitch.
"""


@dataclass(frozen=True, kw_only=True)
class Usual:
    """The sample rate of more than half of a collection, and the median pitch of the recordings with it."""

    rate: int
    pitch: float
    by_speaker: dict[str, float]


def wrong_rate(row: Row, measured: Measurements, usual: Usual | None) -> list[tuple[str, str]]:
    """Return the strongest sign that the rate in the header is wrong, as a problem, if there is one."""
    rate, voice = measured.sample_rate, measured.voice
    explaining = explaining_rate(row, measured)
    if rate not in PLAUSIBLE_RATES:
        detail = f"the header states {rate} Hz"
    elif explaining:
        detail = f"the header states {rate} Hz; the manifest's {row.duration:.2f} s mean {explaining} Hz"
    elif voice and usual and _odd(row, rate, voice.pitch, usual):
        suggested = f"a pitch of {voice.pitch:.0f} Hz suggests {usual.rate} Hz, the rate of the others"
        detail = f"the header states {rate} Hz; {suggested}"
    elif voice and voice.low_pitch > TOO_FAST_PITCH and voice.tempo > TOO_FAST_TEMPO:
        detail = f"at the header's {rate} Hz the voice is too high ({voice.pitch:.0f} Hz) and fast for speech"
    elif voice and voice.pitch < TOO_SLOW_PITCH:
        detail = f"at the header's {rate} Hz the voice is too low ({voice.pitch:.0f} Hz) for speech"
    else:
        return []
    return [("wrong rate", detail)]


def explaining_rate(row: Row, measured: Measurements) -> int | None:
    """Return the usual sample rate that explains the manifest's duration if the header's rate does not."""
    if not row.duration or abs(measured.duration - row.duration) < max(0.2, 0.03 * row.duration):
        return None
    implied = measured.samples / row.duration
    nearest = min(USUAL_RATES, key=lambda rate: abs(math.log(rate / implied)))
    return nearest if abs(nearest / implied - 1) < 0.01 else None


def usual_rate(rows: Sequence[Row], measured: Sequence[Measurements | AudioError]) -> Usual | None:
    counts = Counter(one.sample_rate for one in measured if isinstance(one, Measurements))
    rate, count = counts.most_common(1)[0] if counts else (0, 0)
    pitches: dict[str | None, list[float]] = {}
    for row, one in zip(rows, measured):
        if isinstance(one, Measurements) and one.sample_rate == rate and one.voice:
            pitches.setdefault(row.speaker, []).append(one.voice.pitch)
    if count < 3 or count <= counts.total() / 2 or not pitches:
        return None
    by_speaker = {speaker: median(found) for speaker, found in pitches.items() if speaker is not None}
    return Usual(rate=rate, pitch=median(chain.from_iterable(pitches.values())), by_speaker=by_speaker)


def _odd(row: Row, rate: int, pitch: float, usual: Usual) -> bool:
    """Return whether a file's pitch deviates as if the usual sample rate were the correct one."""
    of_speaker = usual.by_speaker.get(row.speaker or "")
    up, down = ODD_PITCH_OCTAVES["same" if of_speaker else "others"]
    off, expected = math.log2(pitch / (of_speaker or usual.pitch)), math.log2(rate / usual.rate)
    return (off > up or off < -down) and abs(off - expected) < abs(off)


TIMBRE_UNIT, PITCH_UNIT = 0.35, 0.25
"""Usual distance of recordings of one person: in log power per band, and in octaves."""
UNLIKE_DISTANCE, UNLIKE_RATIO = 2.5, 1.5
"""A reference is unlike the others above this distance and this multiple of the others' median distance.

Errors occur: sometimes a good recording is reported, and one in five of another speaker is missed.
"""


@dataclass(frozen=True, kw_only=True)
class Likeness:
    distance: float
    """Distance from the other references: about 1 between recordings of one person."""
    unlike: bool
    detail: str
    """The largest difference, with the usual value of the others."""


def compare(measured: Sequence[Measurements]) -> list[Likeness]:
    """Compare each of three or more references with the others of the same voice."""
    timbres = np.stack([one.timbre for one in measured])
    pitches = np.array([math.log2(one.voice.pitch) if one.voice else math.nan for one in measured])
    noise = np.array([one.level_db - one.noise_db for one in measured])
    parts = []
    for index in range(len(measured)):
        others = np.arange(len(measured)) != index
        timbre = float(np.sqrt(np.square(timbres[index] - np.median(timbres[others], axis=0)).mean()))
        usual = float(np.median(known)) if len(known := pitches[others & ~np.isnan(pitches)]) else math.nan
        octaves = abs(pitches[index] - usual)
        parts.append((timbre / TIMBRE_UNIT, 0.0 if math.isnan(octaves) else octaves / PITCH_UNIT, usual))
    distances = np.array([math.hypot(timbre, pitch) for timbre, pitch, _ in parts])
    found = []
    for index, (timbre, pitch, usual) in enumerate(parts):
        rest = float(np.median(np.delete(distances, index)))
        detail = f"{distances[index]:.1f} away where the others are {rest:.1f}"
        if pitch > timbre:
            detail += f": pitch {2 ** pitches[index]:.0f} Hz, the others' {2**usual:.0f} Hz"
        elif noise[index] < (clean := float(np.median(np.delete(noise, index)))) - 10:
            detail += f": noise {noise[index]:.0f} dB below the speech, the others' {clean:.0f} dB"
        else:
            detail += ": another timbre (another speaker, microphone, room or codec)"
        unlike = bool(distances[index] > max(UNLIKE_DISTANCE, UNLIKE_RATIO * rest))
        found.append(Likeness(distance=float(distances[index]), unlike=unlike, detail=detail))
    return found
