"""Training data of the tie: voices from recordings, or interpolated between them, with acoustic measures.

A voice is measured twice: on its recording, and on speech converted to it. The second is what a caption
should predict, as a converter transfers some traits less than fully.
"""

import math
import sys
from collections.abc import Sequence
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

RECORDING_S, PROBE_S, ONSET_S = 6.0, 3.0, 0.6
"""Seconds used of a recording, of a source to convert (a probe), and of its start that is not measured."""
BATCH = 8
BEYOND = 0.4
"""How far an interpolated voice may lie beyond either of its two voices, relative to their distance."""
SHIFT_SEMITONES = 1.5
"""Standard deviation of the random pitch shift of an interpolated voice."""
CHILDREN = (1.15, 1.35)
"""Range of speed-up of women's recordings that imitates children: higher formants and a higher pitch."""


class Known(NamedTuple):
    """Measures and labels of one voice."""

    measures: VoiceMeasures
    gender: Gender | None
    age: Age | None
    speaker: str


class KnownVoices(NamedTuple):
    """Voice embeddings with the measures and labels of each."""

    voice: Float[Tensor, "n dim"]
    known: list[Known]

    @property
    def measures(self) -> list[VoiceMeasures]:
        return [one.measures for one in self.known]

    @property
    def gender(self) -> list[Gender | None]:
        return [one.gender for one in self.known]


def joined(parts: Sequence[KnownVoices]) -> KnownVoices:
    return KnownVoices(
        torch.cat([part.voice for part in parts]), [one for part in parts for one in part.known]
    )


def speaker_of(row: Row) -> str:
    """The recording's speaker; the recording itself if its speaker is unknown."""
    return row.speaker or str(row.path)


@torch.inference_mode()
def embed_recordings(converter: Converter, rows: Sequence[Row], *, faster: float = 1.0) -> KnownVoices:
    """Embed and measure every recording; those without voiced speech are skipped and listed.

    Recordings played ``faster`` than 1 imitate children, whose gender is left unknown.
    """
    rate, voices, known = converter.sample_rate, [], list[Known]()
    left_out: list[str] = []
    for row in tqdm(rows, desc="embedding recordings", unit="file", delay=2.0, leave=False, disable=None):
        with leaving_out(left_out):
            clip = excerpt(row.path, 0, round(RECORDING_S * rate), rate)
            if faster != 1.0:
                clip = resample(clip, round(rate * faster / 100) * 100, rate)
            voice = converter.embed(clip, names=[str(row.path)])
            measures = measured(clip, rate, float(voice[0, -1]))
            voices.append(voice[0])
            gender = None if faster != 1.0 else row.gender if row.gender in ("F", "M") else None
            age = "child" if faster != 1.0 else age_of(row.extra.get("age"))
            known.append(Known(measures, gender, age, speaker_of(row)))
    if left_out:
        print(summary(len(voices), left_out, "recordings embedded"), file=sys.stderr)
    if not voices:
        raise UserError("none of the recordings has voiced speech: give recordings of speech")
    return KnownVoices(torch.stack(voices), known)


def measured(wave: Float[Tensor, "1 1 samples"], rate: int, log_f0: float) -> VoiceMeasures:
    """Measure a wave of any sample rate; ``log_f0`` is its pitch by the converter's F0 tracker."""
    return measure_voice(resample(wave, rate, SAMPLE_RATE), log_f0=log_f0)._replace(log_f0=log_f0)


def between(known_voices: KnownVoices, count: int, rng: np.random.Generator) -> KnownVoices:
    """Inter- or extrapolate pairs of voices of one gender, with a pitch shift; measures stay the first's."""
    groups = [
        np.array([i for i, gender in enumerate(known_voices.gender) if gender == g]) for g in ("F", "M", None)
    ]
    groups = [group for group in groups if len(group) > 1]
    if not groups:
        raise UserError("there are no two recordings of one gender: give more recordings")
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
    return KnownVoices(torch.stack(voices), [known_voices.known[i] for i in firsts])


@torch.inference_mode()
def as_spoken(
    converter: Converter, known_voices: KnownVoices, probes: Sequence[Float[Tensor, "1 1 samples"]]
) -> KnownVoices:
    """Measure the voices on speech converted to them; those without voiced output are removed.

    The source for each voice is the probe with the nearest pitch.
    """
    rate, network = converter.sample_rate, converter.network
    probe_log_f0 = torch.stack([network.style(probe.to(converter.device))[0, -1].cpu() for probe in probes])
    nearest = (known_voices.voice[:, -1:] - probe_log_f0).abs().argmin(-1)
    measures: dict[int, VoiceMeasures] = {}
    bar = tqdm(
        total=len(known_voices.voice), desc="converting", unit="voice", delay=2.0, leave=False, disable=None
    )
    for number, probe in enumerate(probes):
        chosen = torch.nonzero(nearest == number)[:, 0]
        for at in chosen.split(BATCH) if len(chosen) else ():
            source = probe.expand(len(at), -1, -1).to(converter.device)
            waves = network(source, known_voices.voice[at].to(converter.device)).cpu()
            for index, wave in zip(at.tolist(), waves[..., round(ONSET_S * rate) :]):
                try:
                    measures[index] = measured(wave[None], rate, float(known_voices.voice[index, -1]))
                except UserError:
                    continue
            bar.update(len(at))
    order = sorted(measures)
    return KnownVoices(
        known_voices.voice[order],
        [known_voices.known[index]._replace(measures=measures[index]) for index in order],
    )


def probes_from(
    converter: Converter, rows: Sequence[Row], known_voices: KnownVoices
) -> list[Float[Tensor, "1 1 samples"]]:
    """Choose the probes: for each gender, the excerpt with the pitch nearest to the median voice's."""
    rate, chosen = converter.sample_rate, []
    for gender in ("F", "M"):
        group = [row for row in rows if row.gender == gender and (row.duration or PROBE_S) >= PROBE_S]
        if not group:
            continue
        pitches = [float(known_voices.voice[i, -1]) for i, g in enumerate(known_voices.gender) if g == gender]
        middle = float(np.median(pitches)) if pitches else math.log(150.0)
        some = group[:: max(1, len(group) // 12)]
        clips = [excerpt(row.path, 0, round(PROBE_S * rate), rate) for row in some]
        log_f0 = [float(converter.network.style(clip.to(converter.device))[0, -1]) for clip in clips]
        chosen.append(clips[int(np.argmin(np.abs(np.array(log_f0) - middle)))])
    if not chosen:
        chosen = [excerpt(row.path, 0, round(PROBE_S * rate), rate) for row in rows[:2]]
    return chosen
