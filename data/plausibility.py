"""Signs that a recording is not what it claims: a wrong rate in its header, a voice unlike its others."""

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
"""Hz. No one's median over an utterance is lower."""
TOO_FAST_PITCH, TOO_FAST_TEMPO = 260.0, 5.5
"""Hz. No one who speaks this fast keeps nine tenths of the time above that pitch.

Set on 1084 recordings of 197 speakers, one of which is wrongly called too fast and none too slow. With a
wrong rate in the header, these two notice 75 % of recordings at 3 times their rate, 53 % at twice, 30 % at
half and 53 % at a third of it (240 recordings).
"""
ODD_PITCH_OCTAVES = {"same": (0.5, 0.5), "others": (0.6, 1.0)}
"""How much higher or lower a voice at an odd rate must be than the same speaker's, or else than the others'.

Against the others, deep voices need the wider margin: the median lies near women's.
"""


@dataclass(frozen=True, kw_only=True)
class Usual:
    """The rate of more than half of a collection, and how high the voices are at it."""

    rate: int
    pitch: float
    by_speaker: dict[str, float]


def wrong_rate(row: Row, measured: Measurements, usual: Usual | None) -> list[tuple[str, str]]:
    """The signs, strongest first, that a header's rate is not that of its samples."""
    rate, voice = measured.sample_rate, measured.voice
    explaining = explaining_rate(row, measured)
    if rate not in PLAUSIBLE_RATES:
        detail = f"the header says {rate} Hz"
    elif explaining:
        detail = f"the header says {rate} Hz; the manifest's {row.duration:.2f} s mean {explaining} Hz"
    elif voice and usual and _odd(row, rate, voice.pitch, usual):
        suggested = f"a pitch of {voice.pitch:.0f} Hz suggests {usual.rate} Hz, the rate of the others"
        detail = f"the header says {rate} Hz; {suggested}"
    elif voice and voice.low_pitch > TOO_FAST_PITCH and voice.tempo > TOO_FAST_TEMPO:
        detail = f"at the header's {rate} Hz the voice is too high ({voice.pitch:.0f} Hz) and fast for speech"
    elif voice and voice.pitch < TOO_SLOW_PITCH:
        detail = f"at the header's {rate} Hz the voice is too low ({voice.pitch:.0f} Hz) for speech"
    else:
        return []
    return [("wrong rate", detail)]


def explaining_rate(row: Row, measured: Measurements) -> int | None:
    """The usual rate that makes the samples last as long as the manifest says, if the header's does not."""
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
    """Whether a file's rate differs from the usual one and its voice is off accordingly."""
    of_speaker = usual.by_speaker.get(row.speaker or "")
    up, down = ODD_PITCH_OCTAVES["same" if of_speaker else "others"]
    off, expected = math.log2(pitch / (of_speaker or usual.pitch)), math.log2(rate / usual.rate)
    return (off > up or off < -down) and abs(off - expected) < abs(off)


TIMBRE_UNIT, PITCH_UNIT = 0.35, 0.25
"""What one person's recordings usually differ by: in log power per band, and in octaves."""
UNLIKE, TIMES = 2.5, 1.5
"""A reference is unlike the others beyond this distance, and this many times their median.

They err: a good recording is named now and then, and every fifth recording of somebody else is not.
"""


@dataclass(frozen=True, kw_only=True)
class Likeness:
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
        detail = f"{distances[index]:.1f} away where the others are {rest:.1f}"
        if pitch > colour:
            detail += f": pitch {2 ** pitches[index]:.0f} Hz, the others' {2**usual:.0f} Hz"
        elif noise[index] < (clean := float(np.median(np.delete(noise, index)))) - 10:
            detail += f": noise {noise[index]:.0f} dB below the speech, the others' {clean:.0f} dB"
        else:
            detail += ": another colour (another speaker, microphone, room or coding)"
        unlike = bool(distances[index] > max(UNLIKE, TIMES * rest))
        found.append(Likeness(distance=float(distances[index]), unlike=unlike, detail=detail))
    return found
