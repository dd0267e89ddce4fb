"""Training steps of HiFi-GAN and MelGAN: ours, and the published loops with the published networks.

The published loops are rewritten here from the published modules, because the originals need a GPU and
TensorBoard. Their data loaders compute the mels; our steps compute them and include that time.
"""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from benchmarks.vocoder_peers import hifigan_settings, published_modules
from data.batches import Batch
from data.frontends import LogMel, named_mel
from engine.optim import micro_batch
from vocoders.hifigan import HiFiGANConfig
from vocoders.tasks.adversarial import Adversarial, AdversarialConfig
from vocoders.tasks.presets import PRESETS

Wave = Float[Tensor, "batch 1 samples"]
Step = Callable[[], None]


def our_step(preset: str, wave: Wave, *, order: str = "") -> Step:
    """A training step of a preset with discriminators, in the preset's order or another."""
    config = PRESETS[preset]
    assert isinstance(config.task, AdversarialConfig)
    in_order = replace(config.task, adversary_from=0, order=order or config.task.order)
    task = Adversarial(in_order, config.mel)
    zeros = torch.zeros(len(wave), dtype=torch.long)
    batch = Batch(wave, wave, zeros, zeros)

    def step() -> None:
        with micro_batch(0, 1):
            task.update(batch, 0)

    return step


def hifigan_step(path: Path | str, wave: Wave, config: HiFiGANConfig) -> Step:
    """The published training step: discriminators, then the generator (HiFi-GAN, section 2.4)."""
    models, mels = published_modules(path, "models", "meldataset")
    h = hifigan_settings(config)
    generator = models.Generator(h)
    mpd, msd = models.MultiPeriodDiscriminator(), models.MultiScaleDiscriminator()
    betas = (h.adam_b1, h.adam_b2)
    optim_g = torch.optim.AdamW(generator.parameters(), h.learning_rate, betas)
    optim_d = torch.optim.AdamW(itertools.chain(msd.parameters(), mpd.parameters()), h.learning_rate, betas)
    sizes = (h.n_fft, h.num_mels, h.sampling_rate, h.hop_size, h.win_size, h.fmin)
    x, y_mel = (mels.mel_spectrogram(wave.squeeze(1), *sizes, top) for top in (h.fmax, h.fmax_for_loss))

    def step() -> None:
        fake = generator(x)
        fake_mel = mels.mel_spectrogram(fake.squeeze(1), *sizes, h.fmax_for_loss)
        optim_d.zero_grad()
        loss = 0
        for critic in (mpd, msd):
            real_scores, fake_scores, _, _ = critic(wave, fake.detach())
            loss = loss + models.discriminator_loss(real_scores, fake_scores)[0]
        loss.backward()  # pyright: ignore[reportAttributeAccessIssue]
        optim_d.step()

        optim_g.zero_grad()
        loss = 45 * F.l1_loss(y_mel, fake_mel)
        for critic in (mpd, msd):
            _, fake_scores, real_features, fake_features = critic(wave, fake)
            loss = loss + models.feature_loss(real_features, fake_features)
            loss = loss + models.generator_loss(fake_scores)[0]
        loss.backward()
        optim_g.step()

    return step


def melgan_step(path: Path | str, wave: Wave) -> Step:
    """The published training step, including the mel error that it computes in every step."""
    (modules,) = published_modules(path, "mel2wav.modules")
    n_scales, n_layers = 3, 4
    generator = modules.Generator(80, 32, 3)
    critic = modules.Discriminator(n_scales, 16, n_layers, 4)
    optim_g, optim_d = (torch.optim.Adam(m.parameters(), 1e-4, (0.5, 0.9)) for m in (generator, critic))
    log_mel = modules.Audio2Mel(n_mel_channels=80)

    def step() -> None:
        mel = log_mel(wave).detach()
        fake = generator(mel)
        with torch.no_grad():
            F.l1_loss(mel, log_mel(fake.detach())).item()
        fake_outputs, real_outputs = critic(fake.detach()), critic(wave)
        loss = sum(F.relu(1 + scale[-1]).mean() for scale in fake_outputs)
        loss = loss + sum(F.relu(1 - scale[-1]).mean() for scale in real_outputs)
        critic.zero_grad()
        loss.backward()  # pyright: ignore[reportAttributeAccessIssue]
        optim_d.step()

        fake_outputs = critic(fake)
        loss = sum(-scale[-1].mean() for scale in fake_outputs)
        for fake_scale, real_scale in zip(fake_outputs, real_outputs):
            for fake_map, real in zip(fake_scale[:-1], real_scale[:-1]):
                loss = loss + 10 * 4.0 / (n_layers + 1) / n_scales * F.l1_loss(fake_map, real.detach())
        generator.zero_grad()
        loss.backward()  # pyright: ignore[reportAttributeAccessIssue]
        optim_g.step()

    return step


def speechlike(batch: int, samples: int) -> Wave:
    rng = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(batch, 1, samples, generator=rng)


def mel_like(frames: int) -> Float[Tensor, "1 n_mels frames"]:
    """A vocoder's input: the mel of noise at the level of speech."""
    config = named_mel("hifigan")
    return LogMel(config)(speechlike(1, frames * config.hop))
