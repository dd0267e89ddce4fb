"""The rows of one training step: source, ground truth and target voice; speed and level augmentation."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor

from data.audio.sinc import resample
from data.pairs import HumanAndPairs
from w2w.cluit.config import CLUITConfig
from w2w.networks.network import ConverterNetwork

Wave = Float[Tensor, "batch 1 samples"]
Waves = tuple[Float[Tensor, "batch 1 _"], ...]


def leveled(wave: Wave, level_dbfs: float) -> Wave:
    """Scale each clip to one level, measured over the louder half of its 20 ms frames, with a random sign."""
    sign = torch.where(torch.rand(len(wave), device=wave.device) < 0.5, -1.0, 1.0)
    return wave * (gain_to(wave, level_dbfs) * sign)[:, None, None]


def gain_to(wave: Wave, level_dbfs: float) -> Float[Tensor, " batch"]:
    """Gain that brings the louder half of each clip's 20 ms frames to a level in dBFS RMS."""
    frames = wave[:, 0].unfold(-1, 320, 320).square().mean(-1)
    loud = frames.topk(max(frames.shape[-1] // 2, 1), dim=-1).values.mean(-1)
    return 10 ** (level_dbfs / 20) * torch.rsqrt(loud + 1e-8)


def other_speeds(waves: Waves, speeds: tuple[float, ...]) -> tuple[Waves, Int64[Tensor, " batch"]]:
    """Play each item's clips at a random one of ``speeds``, which shifts formants and pitch to another voice.

    This is the speaker augmentation of x-vector recipes (Yamamoto et al. 2019): few speakers become many.
    Clips keep their length and are repeated where too short. Returns clips and the index of each speed.
    """
    n_items, device = len(waves[0]), waves[0].device
    if len(speeds) < 2:
        return waves, torch.zeros(n_items, dtype=torch.long, device=device)
    chosen = torch.randint(len(speeds), (n_items,)).tolist()
    played = []
    for wave in waves:
        samples, clips = wave.shape[-1], []
        for clip, number in zip(wave, chosen):
            if speeds[number] != 1.0:
                # Ratios rounded to hundredths keep the number of resampling kernels small.
                clip = resample(clip, round(100 * speeds[number]), 100)
                clip = clip.repeat(1, -(-samples // clip.shape[-1]))[:, :samples]
            clips.append(clip)
        played.append(torch.stack(clips))
    return tuple(played), torch.tensor(chosen, device=device)


def same_window(waves: Waves, length: int) -> list[Float[Tensor, "batch 1 _"]]:
    """Cut all waves at one random position; a wave too short for that position gives its end."""
    samples = waves[0].shape[-1]
    length = min(length, samples)
    start = int(torch.randint(samples - length + 1, ()))
    place, end = slice(start, start + length), slice(-length, None)
    return [wave[..., place if wave.shape[-1] >= start + length else end] for wave in waves]


def device_generator(device: torch.device) -> torch.Generator:
    """A random generator on a device, seeded from the step's own generator."""
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))


Rows = Int[Tensor, " batch"]


class Utterances(NamedTuple):
    """The rows of one step: converted human speech, reconstructed human speech, time-aligned pairs."""

    source: Wave
    """Input of the content encoder."""
    truth: Wave
    """Ground truth of the output; for converted rows the source, of which only the words are compared."""
    reference: Float[Tensor, "batch 1 reference_samples"]
    """Another clip of the ground truth's voice."""
    target: Rows
    """Index of the row with the target voice: the row itself, or another one for converted rows."""
    converted: Bool[Tensor, " batch"]
    rebuilt: Bool[Tensor, " batch"]
    """Rows whose source is their own ground truth. The decoder's gradient stops at their code, since it would
    teach the code to carry the voice."""
    identity: Rows
    """Number of the voice; below −1: one number per recording of an unknown speaker."""
    label: Rows
    """Class of the speaker for the label head; −1: unknown."""
    human: int
    """Number of rows of human speech; the rows after them are pairs."""


def lay_out(batch: HumanAndPairs, step: int, config: CLUITConfig, averaged: ConverterNetwork) -> Utterances:
    """Arrange human speech, at random speeds, and pairs as rows of one level, each with a target voice."""
    human, pairs = batch.human, batch.pairs
    (wave, reference), speed = other_speeds((human.wave, human.other), config.speeds)
    n_speeds, n_human = max(len(config.speeds), 1), len(wave)
    label = torch.where(human.speaker < 0, human.speaker, human.speaker * n_speeds + speed)
    identity = identities(label, human.utterance * n_speeds + speed, config.mask_same_speaker)
    source, truth = wave, wave
    if pairs is not None:
        source, truth = torch.cat([wave, pairs.source]), torch.cat([wave, pairs.target])
        reference = torch.cat([reference, pairs.reference])
        # Offsets keep synthetic voices apart from human ones; the label head has no class for them.
        voices = identities(pairs.speaker, pairs.utterance, config.mask_same_speaker)
        identity = torch.cat([identity, torch.where(voices < 0, voices - 2**40, voices + 2**40)])
        label = torch.cat([label, torch.full_like(pairs.speaker, -1)])
    both = leveled(torch.cat([source, truth], dim=-1), config.level_dbfs)
    (source, truth), reference = both.chunk(2, dim=-1), leveled(reference, config.level_dbfs)
    rows = torch.arange(len(source), device=source.device)
    n_converted = round(config.convert_share * n_human) if step >= config.convert_from else 0
    target = torch.where(rows < n_converted, (rows + 1) % n_human, rows)
    rebuilt = (rows >= n_converted) & (rows < n_human)
    if step >= config.back_translate_from:
        n_translated = round(config.back_translate_share * n_human)
        translated = slice(n_converted, min(n_converted + n_translated, n_human))
        # The voices of pairs, if there are any: one side of a training example must be clean speech.
        voices = reference[n_human:] if pairs is not None else reference[:n_converted]
        source = back_translated(averaged, source, translated, voices)
        rebuilt[translated] = not len(voices)
    return Utterances(source, truth, reference, target, rows < n_converted, rebuilt, identity, label, n_human)


@torch.no_grad()
def back_translated(net: ConverterNetwork, source: Wave, rows: slice, voices: Tensor) -> Wave:
    """Replace some sources by their conversion to other voices; the ground truth remains human speech."""
    n_rows = rows.stop - rows.start
    if n_rows < 1 or not len(voices):
        return source
    voice = net.style(voices).repeat(-(-n_rows // len(voices)), 1)[:n_rows]
    source = source.clone()
    source[rows] = net(source[rows], voice)
    return source


def identities(label: Rows, recording: Rows, masked: bool) -> Rows:
    """Number each voice: by its label, where that is known and ``masked``, otherwise by its recording."""
    return torch.where((label >= 0) & masked, label, -2 - recording)
