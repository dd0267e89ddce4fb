"""Measures of whether StarGAN converts or copies: effects of input and labels on its output."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from data.batches import Address
from eval.similarity import Resemblyzer, cosine
from pretrain.probe.fitting import fit_linear
from w2w.baselines.stargan.labels import LabelledBatch, LabelledCrops, LabelsConfig, input_label
from w2w.baselines.stargan.networks import Discriminator, Generator, StarGANConfig
from w2w.baselines.stargan.spectrogram import Spectrogram, SpectrogramConfig, ToWave, at_full_scale

Spectrograms = Float[Tensor, "batch 1 bins frames"]
Labels = Int[Tensor, "batch groups"]

N_TARGETS = 6
"""Labels that every clip is converted to."""
EXPERIMENTS_COLUMNS = 62
"""Receptive field after the merge, of 256 columns, according to the published experiment's notes."""
AT_ONCE = 8
"""Spectrograms that the networks process at once."""
N_BATCHES = 12
"""Batches of real crops to train the gender classifier."""
CROPS_SEED = 20_002
"""Seed of these crops, different from every run's."""


class Judges(NamedTuple):
    """Judges independent of the training; ``gender`` is None if the data has no genders."""

    gender: Callable[[Spectrograms], Int[Tensor, "batch"]] | None
    resemblyzer: Resemblyzer
    to_wave: ToWave

    def __call__(
        self, spectrogram: Spectrograms, output: Spectrograms, clips: LabelledBatch, turn: int
    ) -> dict[str, float]:
        """Judge outputs with the clips rolled by ``turn`` as targets.

        Genders count only where target and source differ: ``judged_real`` is the fraction of sources
        classified as the source's gender, ``judged_before`` as the target's, and ``judged_obeyed`` that of
        outputs classified as the target's. Waves have retrieved phases, also those of the sources.
        """
        results: dict[str, float] = {}
        label, target = clips.labels[:, -1], clips.labels[:, -1].roll(turn, 0)
        counted = (label >= 0) & (target >= 0) & (label != target)
        if self.gender is not None and counted.any():
            before, after = self.gender(spectrogram), self.gender(output)
            right = {"real": before == label, "before": before == target, "obeyed": after == target}
            results = {f"judged_{name}": float(of[counted].float().mean()) for name, of in right.items()}
        real = [self._embedding(wave) for wave in clips.wave]
        targets = [real[number - turn] for number in range(len(real))]
        for name, of in (("_before", spectrogram), ("", output)):
            embeddings = [self._embedding(self.to_wave(one[None])[0]) for one in of]
            to_target, to_source = (
                torch.tensor([cosine(a, b) for a, b in zip(embeddings, others)]) for others in (targets, real)
            )
            results |= {
                f"to_target{name}": float(to_target.mean()),
                f"to_source{name}": float(to_source.mean()),
                f"nearer{name}": float((to_target > to_source).float().mean()),
            }
        return results

    def _embedding(self, wave: Float[Tensor, "1 samples"]):
        return self.resemblyzer(at_full_scale(wave[None]).cpu())["embedding"]


def gender_from(
    spectrogram: Spectrograms, genders: Int[Tensor, "batch"]
) -> Callable[[Spectrograms], Int[Tensor, "batch"]]:
    """Return a gender classifier: logistic regression on each bin's mean and deviation over time."""
    gender_of = fit_linear(_over_time(spectrogram), genders, penalty=0.05)
    return lambda spectrogram: gender_of(_over_time(spectrogram))


def _over_time(spectrogram: Spectrograms) -> Float[Tensor, "batch features"]:
    std, mean = torch.std_mean(spectrogram[:, 0], dim=-1)
    return torch.cat([mean, std], dim=1)


def gender_classifier(
    crops: LabelledCrops, clips: LabelledBatch, shape: SpectrogramConfig, n_genders: int
) -> Callable[[Spectrograms], Int[Tensor, "batch"]] | None:
    """Train a gender classifier on real crops of speakers that are not measured; None without genders."""
    drawn = [crops[Address(seed=CROPS_SEED, step=step)] for step in range(N_BATCHES)]
    labels = torch.cat([batch.labels for batch in drawn])
    known = (labels[:, -1] >= 0) & ~torch.isin(labels[:, 0], clips.labels[:, 0])
    if not n_genders or len(labels[known, -1].unique()) < 2:
        return None
    spectrogram = torch.cat([Spectrogram(shape)(batch.wave) for batch in drawn])
    return gender_from(spectrogram[known], labels[known, -1])


def measures(
    generator: Generator,
    discriminator: Discriminator,
    clips: LabelledBatch,
    shape: StarGANConfig,
    judges: Judges,
) -> dict[str, float]:
    """Compute all measures on clips, each converted to the labels of up to ``N_TARGETS`` others.

    Distances are mean L1 of spectrograms, which lie in [0, 1]; the generator runs in ``eval`` mode.
    """
    training = generator.training
    generator.eval()
    device = next(generator.parameters()).device
    with torch.no_grad():
        spectrogram = Spectrogram(shape.spectrogram).to(device)(clips.wave.to(device))
        labels = clips.labels.to(device)
        shifts = turns(len(labels))
        targets = [labels.roll(turn, 0) for turn in shifts]
        kept = converted(generator, spectrogram, labels, shape.labels)
        outputs = torch.stack([converted(generator, spectrogram, of, shape.labels) for of in targets])
        results = copied(spectrogram, kept, outputs, [spectrogram.roll(turn, 0) for turn in shifts])
        results |= {"label_share": label_share(outputs)}
        results |= {"by_label": float((outputs - kept).abs().mean()) / results["apart"]}
        results |= obeyed(discriminator, spectrogram, labels, outputs[0], targets[0], shape.labels)
        results |= judges(spectrogram, outputs[0], clips, shifts[0])
    results |= {"reach": reach(generator, spectrogram[:1], labels[:1], shape)}
    generator.train(training)
    return results


def turns(n_clips: int) -> list[int]:
    """Shifts that roll the clips to be each other's targets: evenly spread, never 0."""
    count = min(N_TARGETS, n_clips - 1)
    return [1 + number * (n_clips - 1) // count for number in range(count)]


def converted(
    generator: Generator, spectrogram: Spectrograms, labels: Labels, config: LabelsConfig
) -> Spectrograms:
    voices = input_label(labels, config)
    pieces = zip(spectrogram.split(AT_ONCE), voices.split(AT_ONCE))
    return torch.cat([generator(piece, voice) for piece, voice in pieces])


def copied(
    spectrogram: Spectrograms,
    kept: Spectrograms,
    outputs: Float[Tensor, "targets batch 1 bins frames"],
    others: list[Spectrograms],
) -> dict[str, float]:
    """Measure how much the output is a copy of the input.

    ``moved`` is the output's distance from the input and ``apart`` that of other clips from it; their ratio,
    ``copy``, is 0 if the output equals the input. ``kept`` is the distance under the clip's own labels, the
    loss without conversion. These depend mostly on linguistic content; ``way`` therefore compares spectra
    averaged over time, which depend on the voice: the fraction of the distance from source to target covered
    by conversion, relative to the output under the clip's own labels.
    """
    between_clips = torch.stack([F.l1_loss(other, spectrogram) for other in others]).mean()
    moved = torch.stack([F.l1_loss(output, spectrogram) for output in outputs]).mean()
    along = torch.stack([other.mean(-1) - spectrogram.mean(-1) for other in others])
    gone = outputs.mean(-1) - kept.mean(-1)
    return {
        "moved": float(moved),
        "apart": float(between_clips),
        "copy": float(moved / between_clips),
        "kept": float(F.l1_loss(kept, spectrogram)),
        "way": float((gone * along).sum() / along.square().sum()),
    }


def label_share(outputs: Float[Tensor, "targets batch 1 bins frames"]) -> float:
    """Fraction of the outputs' variance due to labels: variance over a clip's targets, of the total."""
    outputs = outputs.double()
    within = outputs.var(0, correction=0).mean(0)
    total = outputs.flatten(0, 1).var(0, correction=0)
    return float(within.sum() / total.sum())


def obeyed(
    discriminator: nn.Module,
    spectrogram: Spectrograms,
    labels: Labels,
    output: Spectrograms,
    targets: Labels,
    config: LabelsConfig,
) -> dict[str, float]:
    """Accuracy of the discriminator's class head on targets, for speakers (first group) and genders (last).

    ``real`` is the fraction of real clips classified as their own label, ``before`` that of sources already
    classified as the target's, ``obeyed`` that of outputs classified as the target's. ``pull`` is the mean
    increase of the target's logit from source to output. Only targets unlike the source count.
    """
    before, after = (
        torch.cat([discriminator(part).labels for part in of.split(AT_ONCE)]).split(config.sizes, dim=1)
        for of in (spectrogram, output)
    )
    results: dict[str, float] = {}
    for name, group in (("speaker", 0), ("gender", len(config.sizes) - 1)):
        label, target = labels[:, group], targets[:, group]
        counted = (label >= 0) & (target >= 0) & (label != target)
        if not counted.any() or not config.sizes[group]:
            continue
        label, target = label[counted], target[counted]
        source, result = before[group][counted], after[group][counted]
        cases = {"real": (source, label), "before": (source, target), "obeyed": (result, target)}
        for of, (logits, wanted) in cases.items():
            results[f"{name}_{of}"] = float((logits.argmax(1) == wanted).float().mean())
        results[f"{name}_pull"] = float((result - source).gather(1, target[:, None]).mean())
    return results


def reach(generator: Generator, spectrogram: Spectrograms, labels: Labels, shape: StarGANConfig) -> float:
    """Fraction of the middle column's gradient by the merged map that lies within ``EXPERIMENTS_COLUMNS``.

    The window is scaled in proportion for spectrograms with fewer than 256 columns.
    """
    merged: list[Tensor] = []

    def keep(module: nn.Module, taken: Any, given: Tensor) -> Tensor:
        merged.append(given.detach().requires_grad_())
        return merged[0]

    hook = generator.merge.register_forward_hook(keep)
    with torch.enable_grad():
        output = generator(spectrogram, input_label(labels, shape.labels))
        hook.remove()
        (gradient,) = torch.autograd.grad(output[..., output.shape[-1] // 2].sum(), merged)
    by_column = gradient.abs().sum((0, 1, 2))
    frames, half = output.shape[-1], EXPERIMENTS_COLUMNS / 512 * output.shape[-1]
    left = 4.0 * torch.arange(len(by_column), device=by_column.device) - frames // 2
    inside = ((left + 4).clamp(-half, half) - left.clamp(-half, half)) / 4
    return float((by_column * inside).sum() / by_column.sum())


def columns_after_merge(shape: StarGANConfig) -> int:
    """Receptive field, in columns, of the spectrogram's middle column on the merged map, by gradient.

    It counts only convolutions, with positive weights and without normalisation, so that no path cancels.
    InstanceNorm's statistics depend on the whole spectrogram in addition.
    """
    generator: Any = bare(Generator(shape))
    size, width = shape.spectrogram, generator.merge.out_channels
    x = merged = torch.rand(1, width, size.n_bins // 4, size.n_frames // 4, requires_grad=True)
    for layer in [*generator.residual, *generator.decoder, generator.out]:
        x = layer(x)
    x[..., size.n_frames // 2].sum().backward()
    assert merged.grad is not None
    return 4 * int(merged.grad.abs().sum((0, 1, 2)).count_nonzero())


def bare(network: nn.Module) -> nn.Module:
    """Make a network's weights positive, and remove its normalisation."""
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d | nn.InstanceNorm2d):
                setattr(module, name, nn.Identity())
    for parameter in network.parameters():
        parameter.data = parameter.data.abs() + 1e-2
    return network
