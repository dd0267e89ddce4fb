"""Losses with their weights, the loss balancer and the memory bank; each loss states where gradients flow.

A loss between outputs and ground truth is added here only: a class, a weight, an entry of ``COMPARISONS``.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from data.frontends import MelConfig, mel_filters
from engine.processes import n_processes
from engine.user_error import at_least

Wave = Float[Tensor, "batch 1 samples"]
Vectors = Float[Tensor, "batch dim"]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights of all losses; a loss of weight 0 is not computed, nor is anything that only it needs.

    Weights of losses on the converter's output are shares of its gradient: see ``LossBalancer``.
    """

    GONE: ClassVar[Mapping[str, Any]] = {"recogniser": 0.0, "cycle_code": 0.0, "r1": 0.0}
    reconstruction: float = 2.0
    """Multi-resolution spectral distance of the output to the ground truth, where there is one: the utterance
    itself when reconstructed in its own voice, the other voice's recording for a time-aligned pair."""
    content: float = 2.0
    """Cosine distance between the teacher's features of output and ground truth (converted rows: source)."""
    distil: float = 2.0
    """Cosine distance between a linear map of the code and the teacher's features of the ground truth."""
    adversarial: float = 0.5
    """Hinge loss of the discriminator, and of the converter against it."""
    feature_matching: float = 0.5
    """L1 between the discriminator's features of outputs and of their ground truth."""
    contrast_discriminator: float = 0.1
    """Discriminator: InfoNCE between projections of two clips of a voice, against the memory bank (CLUIT)."""
    contrast_converter: float = 0.2
    """Converter: InfoNCE between projections of output and reference, against the memory bank (CLUIT)."""
    contrast_style: float = 0.2
    """Style encoder: InfoNCE between the styles of two clips of one voice, against other voices."""
    contrast_voice: float = 0.5
    """Converter: InfoNCE between the styles of output and target, against the source's and other voices."""
    code_invariance: float = 0.5
    """Cosine distance between the codes of source and ground truth, where these are the same words in two
    voices. Gradients reach both."""
    norm: float = 0.2
    """L1 between the log frame energies of converted wave and source."""
    pitch_prior: float = 0.3
    """Squared error of the source's mean log-F0 predicted from its spectra, in units of 0.3 (5 semitones)."""
    label_discriminator: float = 0.0
    """Discriminator: cross-entropy of the speaker label; unlabelled items are ignored. Requires
    discriminator.n_speakers."""
    label_converter: float = 0.0
    """Converter: cross-entropy of the label head on outputs, against the target's speaker label."""

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
    """InfoNCE: identify each query's positive among negatives (van den Oord et al. 2018; Lee et al. 2021).

    Negatives that share the query's label are masked; label -1 means unknown and masks nothing (other
    negative numbers are ordinary labels). Vectors are normalised here. Gradients reach ``query`` and
    ``positive``, not ``negatives``.
    """
    query, positive, negatives = (
        F.normalize(v.float(), dim=-1) for v in (query, positive, negatives.detach())
    )
    match = (query * positive).sum(-1, keepdim=True)
    with torch.autocast(query.device.type, enabled=False):
        others = query @ negatives.T
    if query_label is not None and negative_label is not None:
        same_speaker = (query_label[:, None] == negative_label) & (query_label[:, None] != -1)
        others = others.masked_fill(same_speaker, -math.inf)
    logits = torch.cat([match, others], dim=-1) / temperature
    return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


def labelled_cross_entropy(
    logits: Float[Tensor, "batch n_speakers"], label: Int[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """Cross-entropy over the items with a known speaker; 0, with zero gradient, if there is none."""
    total = F.cross_entropy(logits.float(), label.long(), ignore_index=-1, reduction="sum")
    return total / (label >= 0).sum().clamp_min(1)


class SpectralDistance(nn.Module):
    """Multi-resolution distance between the magnitude spectra of two waves, on mel and linear frequency.

    Mean L1 of log-mels over windows of 2048, 1024, 512 and 256 samples (at 16 kHz), plus L1 of
    linear-frequency log-magnitudes at 1024 times ``linear``. Magnitudes below the floor are nearly alike, so
    that silence hardly counts.
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
        """Distance between the waves; gradients reach ``fake`` only."""
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
    """Weighted mean over frames of one minus the cosine similarity; gradients reach ``features`` only."""
    distance = 1.0 - F.cosine_similarity(features, target.detach(), dim=1, eps=1e-4)
    return (distance * weight).sum() / weight.sum().clamp_min(1e-3)


def energy_distance(
    converted: Float[Tensor, "batch 1 frames"], source: Float[Tensor, "batch 1 frames"]
) -> Float[Tensor, ""]:
    """Norm loss: L1 of log frame energies, floored 35 dB below the loudest; gradients reach ``converted``."""
    floor = source.detach().amax(-1, keepdim=True) - 4.0
    return F.l1_loss(torch.maximum(converted, floor), torch.maximum(source.detach(), floor))


def audible_frames(wave: Wave, n_frames: int) -> Float[Tensor, "batch n_frames"]:
    """Frame weights of the content losses: 1 in speech, a half at 35 dB below the loudest frame, then 0."""
    power = F.adaptive_avg_pool1d(wave.detach().float().square(), n_frames)[:, 0]
    level_db = 10 * torch.log10(power + 1e-10)
    return torch.sigmoid(0.5 * (level_db - level_db.amax(-1, keepdim=True) + 35.0))


COMPARISONS: dict[str, Callable[[int], nn.Module]] = {"reconstruction": SpectralDistance}
"""Losses between outputs and known ground truths, by the name of their weight. Each is built from the
sampling rate and maps outputs and ground truths, ``batch 1 samples``, to a scalar."""
THROUGH_DISCRIMINATOR = ("adversarial", "feature_matching", "contrast_converter", "label_converter")
ON_OUTPUT = (*COMPARISONS, "content", "recogniser", "norm", "contrast_voice", *THROUGH_DISCRIMINATOR)
"""Converter losses that depend only on its output; their weights are shares of its gradient. ``recogniser``
no longer exists, but keeps its index in the balancer's state, so that earlier checkpoints load."""


DECAY = 0.99
"""Per-step decay of the running mean of a loss's gradient norm."""
STRENGTH = 2.0
"""Norm of the gradient at the output for a share of 1."""


class LossBalancer(nn.Module):
    """Scales each loss's gradient at the output to a fixed share of one norm (Défossez et al. 2022, eq. 5).

    A weight then sets the loss's influence whatever the loss's scale, and the gradient through a
    discriminator does not grow as the discriminator improves. The running means are saved in checkpoints.
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
        """Return a scalar with the balanced sum of all losses' gradients as its gradient at ``output``."""
        total = torch.zeros_like(output)
        for name, loss in losses.items():
            (gradient,) = torch.autograd.grad(loss, output, retain_graph=True)
            norm = self.running_norm(name, gradient.float().norm())
            total += STRENGTH * shares[name] / norm.clamp_min(1e-12) * gradient
        return (total.detach() * output).sum()

    def running_norm(self, name: str, norm: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Update and return the mean of a gradient's norm; with several processes, of the whole batch's."""
        if (count := n_processes()) > 1:
            squared = norm.square()
            dist.all_reduce(squared)
            norm = squared.sqrt() / count  # the loss of a process is a mean over its own rows only
        place = self.names.index(name)
        self.norms[place] = DECAY * self.norms[place] + (1 - DECAY) * norm
        self.steps[place] += 1
        return self.norms[place] / (1 - DECAY ** self.steps[place])


class MemoryBank(nn.Module):
    """Queue of unit-length keys and their speakers (MoCo's queue, He et al. 2020; CLUIT's memory bank).

    Until it is full, only the keys pushed so far are negatives. Its buffers, not parameters, are saved in
    checkpoints. In distributed training, push the gathered keys, so that all processes hold the same queue.
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
        """Speaker of each key; -1: unknown."""
        return self.speakers[: min(int(self.pushed), len(self.ring))]

    @torch.no_grad()
    def push(self, keys: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"]) -> None:
        """Replace the oldest keys by a batch of new ones."""
        surplus = max(len(keys) - len(self.ring), 0)  # on a GPU, an index written twice may hold either value
        keys, labels = keys[surplus:], labels[surplus:]
        self.pushed += surplus
        places = (int(self.pushed) + torch.arange(len(keys), device=self.ring.device)) % len(self.ring)
        self.ring[places] = keys.detach().float()
        self.speakers[places] = labels.long()
        self.pushed += len(keys)
