"""The rows of one training step: who speaks, what should come out, whose voice; and changes to clips."""

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
    """Each clip with the louder half of its 20 ms frames at one level, and of either sign."""
    sign = torch.where(torch.rand(len(wave), device=wave.device) < 0.5, -1.0, 1.0)
    return wave * (gain_to(wave, level_dbfs) * sign)[:, None, None]


def gain_to(wave: Wave, level_dbfs: float) -> Float[Tensor, " batch"]:
    """What brings the louder half of each clip's 20 ms frames to a level."""
    frames = wave[:, 0].unfold(-1, 320, 320).square().mean(-1)
    loud = frames.topk(max(frames.shape[-1] // 2, 1), dim=-1).values.mean(-1)
    return 10 ** (level_dbfs / 20) * torch.rsqrt(loud + 1e-8)


def other_speeds(waves: Waves, speeds: tuple[float, ...]) -> tuple[Waves, Int64[Tensor, " batch"]]:
    """Play each item's clips at one of ``speeds``: formants and pitch move together, and make another voice.

    The speaker augmentation of x-vector recipes (Yamamoto et al. 2019): few speakers become many. Clips keep
    their length, repeated where too short. The number of each item's speed comes with them.
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
                # Rates in steps of a hundredth keep the resampler's kernels few.
                clip = resample(clip, round(100 * speeds[number]), 100)
                clip = clip.repeat(1, -(-samples // clip.shape[-1]))[:, :samples]
            clips.append(clip)
        played.append(torch.stack(clips))
    return tuple(played), torch.tensor(chosen, device=device)


def same_stretch(waves: Waves, length: int) -> list[Float[Tensor, "batch 1 _"]]:
    """A random stretch of each wave, of the same place; the end of those that are too short for the place."""
    samples = waves[0].shape[-1]
    length = min(length, samples)
    start = int(torch.randint(samples - length + 1, ()))
    place, end = slice(start, start + length), slice(-length, None)
    return [wave[..., place if wave.shape[-1] >= start + length else end] for wave in waves]


def device_generator(device: torch.device) -> torch.Generator:
    """A generator that continues the step's own randomness."""
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, ())))


Rows = Int[Tensor, " batch"]


class Utterances(NamedTuple):
    """The rows of one step: humans that are converted, humans that are rebuilt, sources of pairs."""

    source: Wave
    """What the encoder hears."""
    truth: Wave
    """What should come out; of converted rows the source, whose words alone count."""
    reference: Float[Tensor, "batch 1 reference_samples"]
    """Another clip of the truth's voice."""
    target: Rows
    """The row whose voice each row is spoken with: its own, or another one for converted rows."""
    converted: Bool[Tensor, " batch"]
    rebuilt: Bool[Tensor, " batch"]
    """Rows whose source is their truth: speaking them would teach the code to carry it: their gradient
    stops there."""
    identity: Rows
    """Voices by number; below −1 recordings of unknown speakers."""
    label: Rows
    """Speaker for the label head; −1: not known."""
    human: int
    """How many rows are human speech; the others are pairs."""


def lay_out(batch: HumanAndPairs, step: int, config: CLUITConfig, averaged: ConverterNetwork) -> Utterances:
    """Lay humans, at other speeds, and pairs out as rows of one level; choose whose voice each gets."""
    human, pairs = batch.human, batch.pairs
    (wave, reference), speed = other_speeds((human.wave, human.other), config.speeds)
    n_speeds, n_human = max(len(config.speeds), 1), len(wave)
    label = torch.where(human.speaker < 0, human.speaker, human.speaker * n_speeds + speed)
    identity = identities(label, human.utterance * n_speeds + speed, config.mask_same_speaker)
    source, truth = wave, wave
    if pairs is not None:
        source, truth = torch.cat([wave, pairs.source]), torch.cat([wave, pairs.target])
        reference = torch.cat([reference, pairs.reference])
        # Synthetic voices are numbered after all human ones; a human label head does not know them.
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
        # Where there are pairs, theirs are the voices: what is learned from must be clean on one side.
        voices = reference[n_human:] if pairs is not None else reference[:n_converted]
        source = back_translated(averaged, source, translated, voices)
        rebuilt[translated] = not len(voices)
    return Utterances(source, truth, reference, target, rows < n_converted, rebuilt, identity, label, n_human)


@torch.no_grad()
def back_translated(net: ConverterNetwork, source: Wave, rows: slice, voices: Tensor) -> Wave:
    """Some sources as the averaged converter speaks them with other voices; their truth stays human."""
    n_rows = rows.stop - rows.start
    if n_rows < 1 or not len(voices):
        return source
    voice = net.style(voices).repeat(-(-n_rows // len(voices)), 1)[:n_rows]
    source = source.clone()
    source[rows] = net(source[rows], voice)
    return source


def identities(label: Rows, recording: Rows, masked: bool) -> Rows:
    """A number for each voice: its label where that is known and masks, else one for each recording."""
    return torch.where((label >= 0) & masked, label, -2 - recording)
