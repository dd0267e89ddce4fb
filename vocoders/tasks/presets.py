"""Training presets: every network at 16, 22.05 and 24 kHz, small ones for a CPU, and MelGAN's ablation."""

from dataclasses import replace
from types import ModuleType
from typing import Any

from data.batches import DataConfig
from data.frontends import NAMED, MelConfig
from engine.loop import LoopConfig
from engine.optim import OptimConfig
from vocoders import hifigan, melgan, vocos, waveglow
from vocoders.discriminators import MelGANCriticConfig, MultiPeriodConfig
from vocoders.melgan import MelGANConfig
from vocoders.neural_griffin_lim import NeuralGriffinLimConfig
from vocoders.tasks.adversarial import AdversarialConfig
from vocoders.tasks.config import Task, TrainConfig
from vocoders.tasks.magnitudes import MagnitudesTaskConfig
from vocoders.tasks.waveglow import WaveGlowTaskConfig
from vocoders.tasks.wavenet import WaveNetTaskConfig
from vocoders.vocos import VocosConfig
from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.distributions import MixtureOfLogistics, MuLaw
from vocoders.wavenet.layers import ContextConfig
from vocoders.wavenet.mel_wavenet import MelWaveNetConfig
from vocoders.wavenet.network import GlobalConfig, WaveNetConfig

RATES = {"": NAMED["hifigan"], "_16k": NAMED["speech16k"], "_24k": NAMED["speech24k"]}
"""Mel definitions by the suffix of preset names."""
CROPS = {"": 8_192, "_16k": 8_000, "_24k": 8_160}
"""Crop lengths in samples: the published 8192, or about as many in whole hops."""
SCALES = {"": (4, 4, 4, 4), "_16k": (4, 5, 8), "_24k": (4, 6, 10)}
"""A WaveNet's upsampling factors; their products are the hops."""
LONG = LoopConfig(steps=2_500_000, save_every=5_000, sample_every=10_000, workers=4)


def published(rate: str, signal: Any = "wave") -> WaveNetTaskConfig:
    """A WaveNet as in the published code's LJSpeech configuration: ten logistics, 24 layers."""
    wavenet = WaveNetConfig(
        layers=24,
        stacks=4,
        residual=128,
        gate=256,
        skip=128,
        output=MixtureOfLogistics(),
        local=LocalConfig(n=RATES[rate].n_mels, scales=SCALES[rate]),
    )
    return WaveNetTaskConfig(network=MelWaveNetConfig(wavenet=wavenet, signal=signal))


SMALL_WAVENET = WaveNetConfig(
    layers=10,
    stacks=1,
    residual=32,
    gate=64,
    skip=32,
    kernel=2,
    output=MixtureOfLogistics(n=3),
    local=LocalConfig(upsampling="repetition", scales=SCALES["_16k"], pad=0),
)
WITHOUT_MELS = WaveNetConfig(
    layers=20, stacks=2, residual=32, gate=64, skip=64, kernel=2, output=MuLaw(), local=None
)
SMALL_OPTIM = OptimConfig(
    lr=3e-3,
    betas=(0.9, 0.999),
    gradient_clip=1.0,
    warmup_steps=100,
    schedule="cosine",
    decay_steps=6_000,
    final=0.05,
)


def small(network: MelWaveNetConfig | WaveNetConfig) -> WaveNetTaskConfig:
    """Training on a CPU."""
    return WaveNetTaskConfig(network=network, optim=SMALL_OPTIM, ema_decay=0.999)


SPEAKERS = 172
"""Speakers of the preset; set --task.network.global-.n-speakers to the number of the data."""
TASKS: dict[str, WaveNetTaskConfig] = {
    "wavenet": published(""),
    "wavenet_16k": published("_16k"),
    "wavenet_24k": published("_24k"),
    "excitnet_16k": published("_16k", "excitnet"),
    "lp_wavenet_16k": published("_16k", "lp_wavenet"),
    "wavenet_small": small(MelWaveNetConfig(wavenet=SMALL_WAVENET, signal="excitnet")),
    "lp_wavenet_small": small(MelWaveNetConfig(wavenet=SMALL_WAVENET, signal="lp_wavenet")),
    "wavenet_speakers": small(replace(WITHOUT_MELS, global_=GlobalConfig(n_speakers=SPEAKERS))),
    "wavenet_sounds": small(WITHOUT_MELS),
    # Half the layers, with 64 ms of context, and a context stack at 250 Hz, with about a second.
    "wavenet_context": small(replace(WITHOUT_MELS, layers=10, stacks=1, context=ContextConfig())),
}
"""WaveNet tasks by preset name."""


def at(
    rate: str,
    task: Task,
    *,
    crop: int = 0,
    batch: int = 16,
    loop: LoopConfig = LONG,
    mel: MelConfig | None = None,
) -> TrainConfig:
    """A task at one of the rates, with crops of whole hops; the defaults are HiFi-GAN's published ones."""
    mel = mel or RATES[rate]
    crop = (crop or CROPS[rate]) // mel.hop * mel.hop
    data = DataConfig(sample_rate=mel.sample_rate, crop_samples=crop, batch=batch)
    return TrainConfig(loop=loop, data=data, mel=mel, task=task)


ADAM = OptimConfig(lr=1e-4, betas=(0.5, 0.9))
SMALL_WINDOWS = MelGANCriticConfig(channels=8, max_channels=128)


def melgan_task(network: MelGANConfig, windows: MelGANCriticConfig) -> AdversarialConfig:
    """MelGAN as published: hinge loss, feature matching ×10, no mel loss."""
    return AdversarialConfig(
        network=network,
        periods=None,
        scales=None,
        windows=windows,
        loss="hinge",
        feature_matching=10.0,
        mel=0.0,
        order="kept",
        generator=ADAM,
        critic=ADAM,
    )


def melgan_small(windows: MelGANCriticConfig) -> TrainConfig:
    """MelGAN's losses with a network small enough for a CPU: the base of the single-scale ablation."""
    task = melgan_task(replace(melgan.MELGAN_16K, channels=8), windows)
    return at("_16k", task, batch=8, loop=LoopConfig(steps=4_000, save_every=250, sample_every=500))


COSINE = OptimConfig(
    lr=1e-3,
    betas=(0.8, 0.99),
    gradient_clip=50.0,
    warmup_steps=100,
    schedule="cosine",
    decay_steps=9_000,
    final=0.1,
)
SMALL_ADVERSARIAL = AdversarialConfig(
    # V2 at 16 kHz; a third of the run with spectral losses only, then discriminators a quarter as large.
    network=hifigan.V2_16K,
    periods=MultiPeriodConfig(channels=(8, 32, 64, 128, 128)),
    scales=None,
    windows=SMALL_WINDOWS,
    stft=10.0,
    adversary_from=3_000,
    order="simultaneous",
    ema_decay=0.999,
    generator=COSINE,
    critic=replace(COSINE, lr=3e-4),
)


def vocos_small(network: VocosConfig, rate: str) -> TrainConfig:
    """Vocos for a CPU: a sixth of the run with spectral losses only, then ``hifigan_small``'s critics."""
    decay = replace(COSINE, schedule="exponential", decay_steps=60_000, final=0.05)
    rates = {"generator": decay, "critic": replace(decay, lr=3e-4)}
    task = replace(SMALL_ADVERSARIAL, network=network, adversary_from=10_000, **rates)
    return at(rate, task, batch=8, loop=LoopConfig(steps=60_000, save_every=500, sample_every=2_000))


def neural_griffin_lim(rate: str) -> TrainConfig:
    """Neural Griffin-Lim for a CPU: usable after half an hour of training on one core."""
    mel = RATES[rate]
    task = MagnitudesTaskConfig(network=NeuralGriffinLimConfig(n_mels=mel.n_mels))
    loop = LoopConfig(steps=20_000, save_every=250, sample_every=2_000)
    return at(rate, task, crop=96 * mel.hop, loop=loop)


def wavenet(name: str, task: WaveNetTaskConfig) -> TrainConfig:
    """A WaveNet preset: batches of 8 crops of about 10 240 samples, as published; of 4 crops for a CPU."""
    rate = "" if name == "wavenet" else "_24k" if name.endswith("_24k") else "_16k"
    on_cpu = isinstance(task.network, WaveNetConfig) or name.endswith("_small")
    loop = LoopConfig(steps=1_000_000, save_every=5_000, sample_every=10_000, workers=4)
    if on_cpu:
        loop = LoopConfig(steps=6_000, save_every=250, sample_every=2_000)
    return at(rate, task, crop=10_240, batch=4 if on_cpu else 8, loop=loop)


def published_size(module: ModuleType, network: str, rate: str) -> Any:
    """A network's config at a rate: the module's constant of that name, such as ``V1_16K``."""
    return getattr(module, f"{network}{rate}".upper())


PRESETS: dict[str, TrainConfig] = {
    "hifigan_small": at(
        "_16k", SMALL_ADVERSARIAL, batch=8, loop=LoopConfig(steps=9_000, save_every=250, sample_every=1_500)
    ),
    "tiny": replace(
        at(
            "_16k",
            AdversarialConfig(
                network=replace(hifigan.V2_16K, channels=16),
                periods=MultiPeriodConfig(periods=(2, 3), channels=(4, 8, 8)),
                scales=None,
                windows=MelGANCriticConfig(n_scales=2, channels=4, max_channels=16, n_layers=3),
                stft=1.0,
                adversary_from=2,
                ema_decay=0.9,
            ),
            crop=3_200,
            batch=2,
            loop=LoopConfig(steps=4, log_every=1, save_every=2, sample_every=4),
        ),
        n_validation=2,
        validation_seconds=0.5,
    ),
    "vocos_16k": at("_16k", AdversarialConfig(network=vocos.VOCOS_16K)),
    "vocos_24k": at("_24k", AdversarialConfig(network=vocos.VOCOS_24K)),
    "vocos_small_16k": vocos_small(vocos.VOCOS_SMALL_16K, "_16k"),
    "vocos_small_24k": vocos_small(vocos.VOCOS_SMALL_24K, "_24k"),
    "melgan_single_scale": at(
        "", melgan_task(melgan.MELGAN, MelGANCriticConfig(n_scales=1)), mel=NAMED["melgan"]
    ),
    "melgan_small": melgan_small(SMALL_WINDOWS),
    "melgan_small_single_scale": melgan_small(replace(SMALL_WINDOWS, n_scales=1)),
    **{name: wavenet(name, task) for name, task in TASKS.items()},
}
for rate in RATES:
    for version in ("v1", "v2", "v3"):
        task = AdversarialConfig(network=published_size(hifigan, version, rate))
        PRESETS[f"hifigan_{version}{rate}"] = at(rate, task)
    task = melgan_task(published_size(melgan, "melgan", rate), MelGANCriticConfig())
    PRESETS[f"melgan{rate}"] = at(rate, task, mel=None if rate else NAMED["melgan"])  # its own definition
    task = WaveGlowTaskConfig(network=published_size(waveglow, "waveglow", rate))
    PRESETS[f"waveglow{rate}"] = at(rate, task, crop=16_000, batch=12)  # as published
    PRESETS[f"neural_griffin_lim{rate}"] = neural_griffin_lim(rate)
