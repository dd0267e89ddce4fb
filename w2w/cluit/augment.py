"""What training does to clips before a network sees them."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torchaudio.functional import resample

Wave = Float[Tensor, "batch 1 samples"]
Waves = tuple[Float[Tensor, "batch 1 _"], ...]


def leveled(wave: Wave, level_dbfs: float) -> Wave:
    """Each clip with the louder half of its 20 ms frames at one level, and of either sign."""
    frames = wave[:, 0].unfold(-1, 320, 320).square().mean(-1)
    loud = frames.topk(max(frames.shape[-1] // 2, 1), dim=-1).values.mean(-1)
    gain = 10 ** (level_dbfs / 20) * torch.rsqrt(loud + 1e-8)
    sign = torch.where(torch.rand(len(wave), device=wave.device) < 0.5, -1.0, 1.0)
    return wave * (gain * sign)[:, None, None]


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
