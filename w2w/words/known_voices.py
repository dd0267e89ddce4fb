"""Voices to learn words from: each taken from speech, or made between such, and measured as it sounds.

How a voice sounds is measured twice: on its recording, and on what the converter says with it. The second is
what words should bring about, for a converter passes on less of some traits than recordings show.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from data.audio import excerpt
from data.audio.resampling import resample
from data.manifest import Row
from data.voice_captions import Age, Gender, age_of
from data.voice_meter import SAMPLE_RATE, VoiceMeasures, measure_voice
from engine.outcome import leaving_out, summary
from engine.user_error import UserError
from w2w.converter import Converter

Voices = Float[Tensor, "n dim"]
HEARD_S, PROBE_S, UNSETTLED_S = 6.0, 3.0, 0.6
"""Seconds of a recording; of what the converter is given to say; of its beginning, which is not measured."""
AT_ONCE = 8
BEYOND = 0.4
"""How far beyond either of two voices a made voice may lie, as a part of the way between them."""
SHIFT_SEMITONES = 1.5
"""Spread of the pitch that a made voice is moved by."""
CHILDREN = (1.15, 1.35)
"""How much faster a woman's recording is played to stand in for a child's: a smaller head, a higher pitch."""


class Known(NamedTuple):
    """What is known of one voice."""

    measures: VoiceMeasures
    gender: Gender | None
    age: Age | None
    speaker: str


class KnownVoices(NamedTuple):
    """Voices and what is known of each."""

    voice: Voices
    known: list[Known]

    def part(self, chosen: Iterable[int]) -> "KnownVoices":
        at = list(chosen)
        return KnownVoices(self.voice[at], [self.known[i] for i in at])

    @property
    def measures(self) -> list[VoiceMeasures]:
        return [one.measures for one in self.known]

    @property
    def gender(self) -> list[Gender | None]:
        return [one.gender for one in self.known]


def joined(parts: Sequence[KnownVoices]) -> KnownVoices:
    """All of them, one after the other."""
    return KnownVoices(
        torch.cat([part.voice for part in parts]), [one for part in parts for one in part.known]
    )


@torch.inference_mode()
def embed_recordings(converter: Converter, rows: Sequence[Row], *, faster: float = 1.0) -> KnownVoices:
    """Take and measure the voice of every recording; those without voiced speech are left out and named.

    Played ``faster`` than 1 they stand in for children, whose gender nobody hears.
    """
    rate, voices, known = converter.sample_rate, [], list[Known]()
    left_out: list[str] = []
    for row in tqdm(rows, desc="hearing recordings", unit="file", delay=2.0, leave=False, disable=None):
        with leaving_out(left_out):
            clip = excerpt(row.path, 0, round(HEARD_S * rate), rate)
            if faster != 1.0:
                clip = resample(clip, round(rate * faster / 100) * 100, rate)
            voice = converter.embed(clip, names=[str(row.path)])
            measures = measured(clip, rate, float(voice[0, -1]))
            voices.append(voice[0])
            gender = None if faster != 1.0 else row.gender if row.gender in ("F", "M") else None
            age = "child" if faster != 1.0 else age_of(row.extra.get("age"))
            known.append(Known(measures, gender, age, row.speaker or str(row.path)))
    if left_out:
        print(summary(len(voices), left_out, "recordings heard"), file=sys.stderr)
    if not voices:
        raise UserError("none of the recordings holds voiced speech: words cannot be learnt from them")
    return KnownVoices(torch.stack(voices), known)


def measured(wave: Float[Tensor, "1 1 samples"], rate: int, log_f0: float) -> VoiceMeasures:
    """Measure a wave at any rate; its pitch is the one that the converter's tracker found."""
    return measure_voice(resample(wave, rate, SAMPLE_RATE), log_f0=log_f0)._replace(log_f0=log_f0)


def between(known_voices: KnownVoices, count: int, rng: np.random.Generator) -> KnownVoices:
    """Make voices between and somewhat beyond two of one gender, a little off in pitch; not yet measured."""
    groups = [
        np.array([i for i, gender in enumerate(known_voices.gender) if gender == g]) for g in ("F", "M", None)
    ]
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        raise UserError("words need at least two recordings of one gender")
    voices, firsts = [], []
    for _ in range(count):
        group = groups[rng.choice(len(groups), p=np.array([len(g) for g in groups]) / sum(map(len, groups)))]
        one, other = (int(i) for i in rng.choice(group, 2, replace=False))
        voice = known_voices.voice[one].lerp(
            known_voices.voice[other], float(rng.uniform(-BEYOND, 1 + BEYOND))
        )
        voice[-1] += float(rng.normal(0, SHIFT_SEMITONES)) * math.log(2.0) / 12
        voices.append(voice)
        firsts.append(one)
    return KnownVoices(torch.stack(voices), known_voices.part(firsts).known)


@torch.inference_mode()
def as_spoken(
    converter: Converter, known_voices: KnownVoices, probes: Sequence[Float[Tensor, "1 1 samples"]]
) -> KnownVoices:
    """The same voices, measured on what the converter says with them; those with nothing voiced are left out.

    Each speaks the probe whose pitch is nearest to its own.
    """
    rate, network = converter.sample_rate, converter.network
    own = torch.stack([network.style(probe.to(converter.device))[0, -1].cpu() for probe in probes])
    nearest = (known_voices.voice[:, -1:] - own).abs().argmin(-1)
    kept: dict[int, VoiceMeasures] = {}
    bar = tqdm(
        total=len(known_voices.voice), desc="speaking", unit="voice", delay=2.0, leave=False, disable=None
    )
    for number, probe in enumerate(probes):
        chosen = torch.nonzero(nearest == number)[:, 0]
        for at in chosen.split(AT_ONCE) if len(chosen) else ():
            source = probe.expand(len(at), -1, -1).to(converter.device)
            waves = network(source, known_voices.voice[at].to(converter.device)).cpu()
            for index, wave in zip(at.tolist(), waves[..., round(UNSETTLED_S * rate) :]):
                try:
                    kept[index] = measured(wave[None], rate, float(known_voices.voice[index, -1]))
                except UserError:
                    continue
            bar.update(len(at))
    order = sorted(kept)
    return KnownVoices(
        known_voices.voice[order],
        [known_voices.known[index]._replace(measures=kept[index]) for index in order],
    )


def probes_from(
    converter: Converter, rows: Sequence[Row], known_voices: KnownVoices
) -> list[Float[Tensor, "1 1 samples"]]:
    """What voices are given to say: of each gender the recording nearest to the middle pitch."""
    rate, chosen = converter.sample_rate, []
    for gender in ("F", "M"):
        group = [row for row in rows if row.gender == gender and (row.duration or PROBE_S) >= PROBE_S]
        if not group:
            continue
        pitches = [float(known_voices.voice[i, -1]) for i, g in enumerate(known_voices.gender) if g == gender]
        middle, best, least = float(np.median(pitches)) if pitches else math.log(150.0), None, math.inf
        for row in group[:: max(1, len(group) // 12)]:
            clip = excerpt(row.path, 0, round(PROBE_S * rate), rate)
            off = abs(float(converter.network.style(clip.to(converter.device))[0, -1]) - middle)
            if off < least:
                best, least = clip, off
        if best is not None:
            chosen.append(best)
    if not chosen:
        chosen = [excerpt(row.path, 0, round(PROBE_S * rate), rate) for row in rows[:2]]
    return chosen
