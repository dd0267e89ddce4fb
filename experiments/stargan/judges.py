"""Judges that had no part in StarGAN's training: a classifier of genders, and Resemblyzer."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from data.batches import Address
from eval.similarity import Resemblyzer, cosine
from w2w.baselines.stargan.batches import LabelledBatch, LabelledCrops
from w2w.baselines.stargan.spectrogram import Spectrogram, SpectrogramConfig, ToWave, at_full_scale

Spectrograms = Float[Tensor, "batch 1 bins frames"]
Genders = Int[Tensor, "batch"]

N_BATCHES = 12
"""Of real crops that the classifier of genders learns from."""
CROPS_SEED = 20_002
"""Theirs: no run's."""


class Judges(NamedTuple):
    """What judges a conversion from outside; ``gender`` is None where the data tells no genders."""

    gender: nn.Module | None
    resemblyzer: Resemblyzer | None
    to_wave: ToWave

    def __call__(
        self, spectrogram: Spectrograms, output: Spectrograms, clips: LabelledBatch, turn: int
    ) -> dict[str, float]:
        """Figures of outputs, whose targets are the clips turned by some places.

        Genders count where the target's differs from the source's: ``judged_real`` is how often the source's
        own is heard in it, ``judged_before`` the target's, ``judged_obeyed`` the target's in the output.
        Waves are of retrieved phases, the source's too.
        """
        results: dict[str, float] = {}
        own, target = clips.labels[:, -1], clips.labels[:, -1].roll(turn, 0)
        counted = (own >= 0) & (target >= 0) & (own != target)
        if self.gender is not None and counted.any():
            before, after = self.gender(spectrogram).argmax(1), self.gender(output).argmax(1)
            results = {
                "judged_real": share(before == own, counted),
                "judged_before": share(before == target, counted),
                "judged_obeyed": share(after == target, counted),
            }
        if self.resemblyzer is None:
            return results
        real = [self._heard(wave) for wave in clips.wave]
        targets = [real[number - turn] for number in range(len(real))]
        for name, of in (("_before", spectrogram), ("", output)):
            heard = [self._heard(self.to_wave(one[None])[0]) for one in of]
            to_target, to_source = (
                torch.tensor([cosine(a, b) for a, b in zip(heard, others)]) for others in (targets, real)
            )
            results |= {
                f"to_target{name}": float(to_target.mean()),
                f"to_source{name}": float(to_source.mean()),
                f"nearer{name}": float((to_target > to_source).float().mean()),
            }
        return results

    def _heard(self, wave: Float[Tensor, "1 samples"]):
        assert self.resemblyzer is not None
        return self.resemblyzer(at_full_scale(wave[None]).cpu())["embedding"]


def share(right: Tensor, counted: Tensor) -> float:
    """Of those counted."""
    return float(right[counted].float().mean())


class GenderFromSpectrogram(nn.Module):
    """Logistic regression on each bin's mean and deviation over time, standardised."""

    mean: Tensor
    scale: Tensor

    def __init__(self, spectrogram: Spectrograms, genders: Genders, n_genders: int) -> None:
        super().__init__()
        features = _over_time(spectrogram)
        self.register_buffer("mean", features.mean(0))
        self.register_buffer("scale", features.std(0).clamp_min(1e-3))
        self.layer = nn.Linear(features.shape[1], n_genders)
        nn.init.zeros_(self.layer.weight)
        optimizer = torch.optim.LBFGS(self.parameters(), max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = F.cross_entropy(self(spectrogram), genders) + 0.05 * self.layer.weight.square().sum()
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(loss)
        self.requires_grad_(False)

    def forward(self, spectrogram: Spectrograms) -> Float[Tensor, "batch n_genders"]:
        return self.layer((_over_time(spectrogram) - self.mean) / self.scale)


def _over_time(spectrogram: Spectrograms) -> Float[Tensor, "batch features"]:
    std, mean = torch.std_mean(spectrogram[:, 0], dim=-1)
    return torch.cat([mean, std], dim=1)


def gender_classifier(
    crops: LabelledCrops, clips: LabelledBatch, shape: SpectrogramConfig, n_genders: int
) -> GenderFromSpectrogram | None:
    """Learn genders from real crops of speakers of whom no clip is measured; None where there are none."""
    drawn = [crops[Address(seed=CROPS_SEED, step=step)] for step in range(N_BATCHES)]
    labels = torch.cat([batch.labels for batch in drawn])
    told = (labels[:, -1] >= 0) & ~torch.isin(labels[:, 0], clips.labels[:, 0])
    if not n_genders or len(labels[told, -1].unique()) < 2:
        return None
    spectrogram = torch.cat([Spectrogram(shape)(batch.wave) for batch in drawn])
    return GenderFromSpectrogram(spectrogram[told], labels[told, -1], n_genders)
