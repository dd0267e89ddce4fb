"""What training does to clips before anyone hears them."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchaudio.functional import resample

Wave = Float[Tensor, "batch 1 samples"]
Labels = Int[Tensor, " batch"]


def level_and_sign(wave: Wave, gain_db: float) -> Wave:
    """Each clip up to ``gain_db`` louder or softer, and of either sign: neither is part of a voice."""
    shape = (len(wave), 1, 1)
    gain = (torch.rand(shape, device=wave.device) * 2 - 1) * gain_db
    sign = torch.where(torch.rand(shape, device=wave.device) < 0.5, -1.0, 1.0)
    return wave * sign * 10 ** (gain / 20)


def other_speeds(
    waves: tuple[Wave, ...], label: Labels, speeds: tuple[float, ...]
) -> tuple[tuple[Wave, ...], Labels]:
    """Play each item's clips at one of ``speeds``: formants and pitch move together, and make another voice.

    The speaker augmentation of x-vector recipes (Yamamoto et al. 2019): few speakers become many. Labels follow:
    speaker s at speed number k is s · n_speeds + k; -1 stays -1. Clips keep their length, repeated where too short.
    """
    if len(speeds) < 2:
        return waves, label
    chosen = torch.randint(len(speeds), (len(label),)).tolist()
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
    numbers = torch.tensor(chosen, device=label.device)
    return tuple(played), torch.where(label < 0, label, label * len(speeds) + numbers)
