"""What training does to clips before anyone hears them."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchaudio.functional import resample

Wave = Float[Tensor, "batch 1 samples"]
Waves = tuple[Float[Tensor, "batch 1 _"], ...]


def level_and_sign(wave: Wave, gain_db: float) -> Wave:
    """Each clip up to ``gain_db`` louder or softer, and of either sign: neither is part of a voice."""
    shape = (len(wave), 1, 1)
    gain = (torch.rand(shape, device=wave.device) * 2 - 1) * gain_db
    sign = torch.where(torch.rand(shape, device=wave.device) < 0.5, -1.0, 1.0)
    return wave * sign * 10 ** (gain / 20)


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


def same_stretch(waves: Waves, length: int, n_items: int) -> list[Float[Tensor, "items 1 _"]]:
    """A random stretch of each wave, of the same place, for the first ``n_items`` (0: all) of the batch.

    The end of those that are too short for the place; they may be the voice's other clips.
    """
    samples = waves[0].shape[-1]
    length, n_items = min(length, samples), n_items or len(waves[0])
    start = int(torch.randint(samples - length + 1, ()))
    place, end = slice(start, start + length), slice(-length, None)
    return [wave[:n_items, :, place if wave.shape[-1] >= start + length else end] for wave in waves]
