"""What a training run shows and watches: conversions between the voices of its last batch."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from engine.tracking import Samples
from vocoders.griffin_lim import GriffinLim, GriffinLimConfig
from w2w.baselines.cluit_mel.losses import frame_energy, norm_loss
from w2w.baselines.cluit_mel.network import CluitMelNetwork

Mel = Float[Tensor, "batch n_mels frames"]
N_SHOWN = 3
"""Conversions shown."""


def samples(network: CluitMelNetwork, mel: Mel) -> Samples:
    """Sources, the references before them, and what becomes of them; sounds by Griffin-Lim."""
    reference = mel.roll(1, 0)[:N_SHOWN]
    source, voice = mel[:N_SHOWN], network.style_of_mel(reference)
    shown = {"source": source, "reference": reference, "converted": network(source, voice)}
    vocoder = GriffinLim(GriffinLimConfig(iterations=16), network.mel).to(mel.device)
    audio = {}
    for name in ("source", "converted"):
        for item, wave in enumerate(vocoder(shown[name].float())):
            audio[f"{name}/{item}"] = (wave, network.mel.sample_rate)
    mels = {f"{name}/{item}": one for name, batch in shown.items() for item, one in enumerate(batch)}
    return Samples(audio=audio, mels=mels)


def watch(network: CluitMelNetwork, mel: Mel) -> dict[str, float]:
    """Whether it converts, in nepers of level-free mels, and whether it keeps what was there.

    A network that copies has ``changed_by_style`` 0 and is never ``nearer_to_reference``.
    """
    style = network.style_of_mel(mel)
    converted, otherwise = (network(mel, style.roll(turn, 0)).float() for turn in (1, 2))
    reference = mel.roll(1, 0)
    ours, others = level_free(converted), level_free(otherwise)
    near = (spectrum(converted) - spectrum(reference)).abs().mean(-1)
    far = (spectrum(converted) - spectrum(mel)).abs().mean(-1)
    return {
        "changed": float((ours - level_free(mel)).abs().mean()),
        "changed_by_style": float((ours - others).abs().mean()),
        "spectrum_to_reference": float(near.mean()),
        "spectrum_to_source": float(far.mean()),
        "spectra_apart": float((spectrum(mel) - spectrum(reference)).abs().mean()),
        "nearer_to_reference": float((near < far).float().mean()),
        "cycle": float(F.l1_loss(network(converted, style).float(), mel)),
        "norm": float(norm_loss(converted, mel)),
        "finite": float(torch.isfinite(converted).all()),
    }


def level_free(mel: Mel) -> Mel:
    """The mel without each frame's energy."""
    return mel - frame_energy(mel)[:, None]


def spectrum(mel: Mel) -> Float[Tensor, "batch n_mels"]:
    """The mean level-free spectrum of the frames at most 40 dB below the loudest."""
    energy = frame_energy(mel)
    loud = (energy > energy.amax(-1, keepdim=True) - math.log(100.0)).float()[:, None]
    return (level_free(mel) * loud).sum(-1) / loud.sum(-1)
