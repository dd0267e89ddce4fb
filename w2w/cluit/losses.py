"""The losses and their weights, and the memory bank of negatives; each loss says where gradients go.

One that compares outputs with truths is added here alone: its class, a weight, an entry of ``COMPARISONS``.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from data.frontends import MelConfig, mel_filters
from engine.processes import n_processes
from engine.user_error import at_least

Wave = Float[Tensor, "batch 1 samples"]
Vectors = Float[Tensor, "batch dim"]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weight of every loss; 0 switches it off, and what only it needs is not computed.

    Weights of losses on the converter's output are shares of its gradient: see ``LossBalancer``.
    """

    GONE: ClassVar[Mapping[str, Any]] = {"recogniser": 0.0, "cycle_code": 0.0, "r1": 0.0}
    reconstruction: float = 2.0
    """Multi-resolution spectral distance to the truth, where there is one: the utterance itself for its own
    style, the other voice's recording for a time-aligned pair."""
    content: float = 2.0
    """One minus the cosine of the teacher's features of the output and of the truth, or of the source."""
    distil: float = 2.0
    """One minus the cosine of the content code, seen linearly, and the teacher's features of the truth."""
    adversarial: float = 0.5
    """Outputs against the discriminator."""
    feature_matching: float = 0.5
    """The discriminator's features of outputs against those of their truth."""
    contrast_discriminator: float = 0.1
    """Discriminator: projections of one voice near each other, against the bank (CLUIT)."""
    contrast_converter: float = 0.2
    """Converter: an output's projection near the reference's, against the bank (CLUIT)."""
    contrast_style: float = 0.2
    """Style encoder: two clips of one voice near each other, other voices far."""
    contrast_voice: float = 0.5
    """Converter: an output's style near the target's, far from the source's and the others'."""
    code_invariance: float = 0.5
    """A code against that of the same words in the truth's voice, where the source's is another: one minus
    their cosine. Gradients reach both."""
    norm: float = 0.2
    """Frame energies of converted wave and source."""
    pitch_prior: float = 0.3
    """The source's mean log-F0 as predicted from its spectra, squared error in units of .3 (5 semitones)."""
    label_discriminator: float = 0.0
    """Discriminator: cross-entropy of the speaker label; unlabelled items do not count. Needs
    discriminator.n_speakers."""
    label_converter: float = 0.0
    """Converter: cross-entropy of the reference's speaker label."""

    def __post_init__(self) -> None:
        at_least(0, self, *(field.name for field in fields(self)), prefix="weights.")


def info_nce(
    query: Vectors,
    positive: Vectors,
    negatives: Float[Tensor, "bank dim"],
    *,
    temperature: float = 0.07,
    query_label: Int[Tensor, " batch"] | None = None,
    negative_label: Int[Tensor, " bank"] | None = None,
) -> Float[Tensor, ""]:
    """Ask each query to pick its positive out of the bank (van den Oord et al. 2018; Lee et al. 2021).

    Negatives with the query's own label are no negatives and are masked; label -1 means not known and masks
    nothing (other numbers below 0 are labels like any). Vectors are normalised here. Gradients reach
    ``query`` and ``positive``; the bank is data.
    """
    query, positive, negatives = (
        F.normalize(v.float(), dim=-1) for v in (query, positive, negatives.detach())
    )
    match = (query * positive).sum(-1, keepdim=True)
    with torch.autocast(query.device.type, enabled=False):
        others = query @ negatives.T
    if query_label is not None and negative_label is not None:
        others = others.masked_fill(same_speaker(query_label, negative_label), -math.inf)
    logits = torch.cat([match, others], dim=-1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def same_speaker(query: Int[Tensor, " batch"], bank: Int[Tensor, " bank"]) -> Bool[Tensor, "batch bank"]:
    return (query[:, None] == bank[None]) & (query[:, None] != -1)


def labelled_cross_entropy(
    logits: Float[Tensor, "batch n_speakers"], label: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Cross-entropy over the items whose speaker is known; 0, with a gradient of 0, where none is."""
    total = F.cross_entropy(logits.float(), label.long(), ignore_index=-1, reduction="sum")
    return total / (label >= 0).sum().clamp_min(1)


class SpectralDistance(nn.Module):
    """Distance of two waves in magnitude, at several resolutions, on mel and linear frequency.

    Mean L1 of log-mels over windows of 2048, 1024, 512 and 256 samples (at 16 kHz), plus L1 of
    linear-frequency log-magnitudes at 1024 times ``linear``. Levels below the floor are all alike: what
    happens in silence is not learned from.
    """

    def __init__(self, sample_rate: int, linear: float = 0.5, floor: float = 0.003) -> None:
        super().__init__()
        scale = sample_rate / 16_000
        self.sizes = [2 * round(size * scale / 2) for size in (2048, 1024, 512, 256)]
        self.linear, self.floor = linear, floor
        for size, n_mels in zip(self.sizes, (128, 80, 64, 32)):
            window = torch.hann_window(size)
            mels = MelConfig(
                sample_rate=sample_rate,
                n_fft=size,
                win=size,
                hop=size // 4,
                n_mels=n_mels,
                f_max=sample_rate / 2,
                scale="htk",
                norm="none",
            )
            bands = mel_filters(mels).T
            self.register_buffer(f"window_{size}", window / window.sum() * 32.0, persistent=False)
            bands = bands / bands.sum(0).clamp_min(1e-6)
            self.register_buffer(f"bands_{size}", bands, persistent=False)

    def forward(self, fake: Wave, real: Wave) -> Float[Tensor, ""]:
        """Distance; ``real`` is data."""
        both = torch.cat([fake, real.detach()])[:, 0].float()
        total = both.new_zeros(())
        for size in self.sizes:
            window, bands = getattr(self, f"window_{size}"), getattr(self, f"bands_{size}")
            spectrum = torch.stft(both, size, size // 4, window=window, return_complex=True)
            magnitude = (spectrum.real.square() + spectrum.imag.square() + 1e-8).sqrt()
            with torch.autocast(both.device.type, enabled=False):
                mels = bands.T @ magnitude
            total = total + _log_distance(mels, self.floor) / len(self.sizes)
            if self.linear and size == self.sizes[1]:
                total = total + self.linear * _log_distance(magnitude, self.floor)
        return total


def _log_distance(both: Tensor, floor: float) -> Tensor:
    fake, real = (both + floor).log().chunk(2)
    return (fake - real).abs().mean()


def cosine_distance(
    features: Float[Tensor, "batch dim frames"],
    target: Float[Tensor, "batch dim frames"],
    weight: Float[Tensor, "batch frames"],
) -> Float[Tensor, ""]:
    """One minus the cosine of each frame, weighted; gradients reach ``features``."""
    distance = 1.0 - F.cosine_similarity(features, target.detach(), dim=1, eps=1e-4)
    return (distance * weight).sum() / weight.sum().clamp_min(1e-3)


def energy_distance(
    converted: Float[Tensor, "batch 1 frames"], source: Float[Tensor, "batch 1 frames"]
) -> Float[Tensor, ""]:
    """The norm loss: L1 between log frame energies, down to 35 dB below the loudest; ``source`` is data."""
    floor = source.detach().amax(-1, keepdim=True) - 4.0
    return F.l1_loss(torch.maximum(converted, floor), torch.maximum(source.detach(), floor))


def audible_frames(wave: Wave, n_frames: int) -> Float[Tensor, "batch n_frames"]:
    """Weight of each frame in losses of content: 1 in speech, towards 0 at 35 dB below the loudest."""
    power = F.adaptive_avg_pool1d(wave.detach().float().square(), n_frames)[:, 0]
    level_db = 10 * torch.log10(power + 1e-10)
    return torch.sigmoid(0.5 * (level_db - level_db.amax(-1, keepdim=True) + 35.0))


COMPARISONS: dict[str, Callable[[int], nn.Module]] = {"reconstruction": SpectralDistance}
"""By the weight's name, what compares outputs with their truths, where these are known: made of the sample
rate, it takes outputs and truths, ``batch 1 samples``, and gives a scalar."""
THROUGH_DISCRIMINATOR = ("adversarial", "feature_matching", "contrast_converter", "label_converter")
ON_OUTPUT = (*COMPARISONS, "content", "recogniser", "norm", "contrast_voice", *THROUGH_DISCRIMINATOR)
"""Losses of the converter that its output alone decides; their weights are shares of its gradient. There is
no ``recogniser`` any more, but its place in the balancer of runs that began when there was."""


DECAY = 0.99
"""Of the running mean of a gradient's norm, a step."""
STRENGTH = 2.0
"""Norm of the output's gradient that a share of 1 gives."""


class LossBalancer(nn.Module):
    """Scales each loss's gradient at the output to a share of one norm (Défossez et al. 2022, eq. 5).

    Weights of losses then say what they do: none can drown the others, and a discriminator that grows sharper
    does not pull harder. The running means belong to the checkpoint.
    """

    norms: Float[Tensor, " losses"]
    steps: Float[Tensor, " losses"]

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__()
        self.names = names
        self.register_buffer("norms", torch.zeros(len(names)))
        self.register_buffer("steps", torch.zeros(len(names)))

    def forward(
        self, losses: Mapping[str, Tensor], shares: Mapping[str, float], output: Float[Tensor, "*shape"]
    ) -> Float[Tensor, ""]:
        """A scalar whose gradient with respect to ``output`` is that of all losses, balanced."""
        total = torch.zeros_like(output)
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, output, retain_graph=True)
            norm = self.running_norm(name, gradient.float().norm())
            total += STRENGTH * shares[name] / norm.clamp_min(1e-12) * gradient
        return (total.detach() * output).sum()

    def running_norm(self, name: str, norm: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Take one gradient's norm into the mean and return that; of processes together, as of one batch."""
        if (count := n_processes()) > 1:
            squared = norm.square()
            dist.all_reduce(squared)
            norm = squared.sqrt() / count  # every process's loss is a mean over its own rows alone
        place = self.names.index(name)
        self.norms[place] = DECAY * self.norms[place] + (1 - DECAY) * norm
        self.steps[place] += 1
        return self.norms[place] / (1 - DECAY ** self.steps[place])


class MemoryBank(nn.Module):
    """A queue of unit-length keys and their speakers (MoCo's queue, He et al. 2020; CLUIT's memory bank).

    Before it is full, only what was pushed serves as negatives. It is state, not parameters, and saved with
    the run. Where processes train together, give it what they have gathered: it is then the same in all.
    """

    ring: Tensor
    speakers: Tensor
    pushed: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("ring", torch.zeros(size, dim))
        self.register_buffer("speakers", torch.full((size,), -1, dtype=torch.long))
        self.register_buffer("pushed", torch.zeros((), dtype=torch.long))

    @property
    def keys(self) -> Float[Tensor, "bank dim"]:
        return self.ring[: min(int(self.pushed), len(self.ring))]

    @property
    def labels(self) -> Int[Tensor, " bank"]:
        """Speaker of each key; -1 where it is not known."""
        return self.speakers[: min(int(self.pushed), len(self.ring))]

    @torch.no_grad()
    def push(self, keys: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"]) -> None:
        """Put a batch of keys in the place of the oldest."""
        surplus = max(len(keys) - len(self.ring), 0)  # an index written twice holds either, on a GPU
        keys, labels = keys[surplus:], labels[surplus:]
        self.pushed += surplus
        places = (int(self.pushed) + torch.arange(len(keys), device=self.ring.device)) % len(self.ring)
        self.ring[places] = keys.detach().float()
        self.speakers[places] = labels.long()
        self.pushed += len(keys)
