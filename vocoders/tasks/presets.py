"""The training presets: every network at 16, 22.05 and 24 kHz, forms for a CPU, and MelGAN's ablation."""

from dataclasses import replace

from data.batches import DataConfig
from data.frontends import NAMED
from engine.loop import LoopConfig
from engine.optim import OptimConfig
from vocoders import hifigan, melgan, vocos, waveglow
from vocoders.discriminators import MelGANCriticConfig, MultiPeriodConfig
from vocoders.hifigan import HiFiGANConfig
from vocoders.melgan import MelGANConfig
from vocoders.neural_griffin_lim import NeuralGriffinLimConfig
from vocoders.tasks.adversarial import AdversarialConfig
from vocoders.tasks.config import TrainConfig
from vocoders.tasks.magnitudes import MagnitudesTaskConfig
from vocoders.tasks.waveglow import WaveGlowTaskConfig
from vocoders.tasks.wavenet import WaveNetTaskConfig
from vocoders.vocos import VocosConfig
from vocoders.waveglow import WaveGlowConfig
from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.distributions import MixtureOfLogistics, MuLaw
from vocoders.wavenet.layers import ContextConfig
from vocoders.wavenet.mel_wavenet import MelWaveNetConfig
from vocoders.wavenet.network import GlobalConfig, WaveNetConfig

SCALES = {16_000: (4, 5, 8), 22_050: (4, 4, 4, 4), 24_000: (4, 6, 10)}
"""Factors of upsampling whose products are the named mels' hops."""
N_MELS = {16_000: 80, 22_050: 80, 24_000: 100}
SMALL_OPTIM = OptimConfig(
    lr=3e-3,
    betas=(0.9, 0.999),
    gradient_clip=1.0,
    warmup_steps=100,
    schedule="cosine",
    decay_steps=6_000,
    final=0.05,
)


def published(sample_rate: int) -> WaveNetTaskConfig:
    """A WaveNet over the wave, as the published code has it for LJSpeech: ten logistics, 24 layers."""
    wavenet = WaveNetConfig(
        layers=24,
        stacks=4,
        residual=128,
        gate=256,
        skip=128,
        output=MixtureOfLogistics(),
        local=LocalConfig(n=N_MELS[sample_rate], scales=SCALES[sample_rate]),
    )
    return WaveNetTaskConfig(network=MelWaveNetConfig(wavenet=wavenet, signal="wave"))


def small(sample_rate: int = 16_000) -> WaveNetTaskConfig:
    """ExcitNet for a CPU: ten layers over what linear prediction from the mel leaves."""
    local = LocalConfig(n=N_MELS[sample_rate], upsampling="repetition", scales=SCALES[sample_rate], pad=0)
    wavenet = WaveNetConfig(
        layers=10,
        stacks=1,
        residual=32,
        gate=64,
        skip=32,
        kernel=2,
        output=MixtureOfLogistics(n=3),
        local=local,
    )
    return WaveNetTaskConfig(
        network=MelWaveNetConfig(wavenet=wavenet, signal="excitnet"), optim=SMALL_OPTIM, ema_decay=0.999
    )


def signal(task: WaveNetTaskConfig, kind: str) -> WaveNetTaskConfig:
    """The same over another signal: wave, excitnet or lp_wavenet."""
    assert isinstance(task.network, MelWaveNetConfig)
    return replace(task, network=replace(task.network, signal=kind))


def without_text(n_speakers: int = 0) -> WaveNetTaskConfig:
    """μ-law WaveNet for a CPU that is told nothing but, where there are any, which of the speakers talks."""
    wavenet = WaveNetConfig(
        layers=20,
        stacks=2,
        residual=32,
        gate=64,
        skip=64,
        kernel=2,
        output=MuLaw(),
        global_=GlobalConfig(n_speakers=n_speakers) if n_speakers else None,
    )
    return WaveNetTaskConfig(network=wavenet, optim=SMALL_OPTIM, ema_decay=0.999)


def in_context() -> WaveNetTaskConfig:
    """Half as many layers, which see 64 ms, and a context stack at 250 Hz, which sees the second before."""
    network = without_text().network
    assert isinstance(network, WaveNetConfig)
    network = replace(network, layers=10, stacks=1, context=ContextConfig())
    return replace(without_text(), network=network)


SPEAKERS = 172
"""Of the preset; --task.network.global-.n-speakers says how many the data has."""
TASKS: dict[str, WaveNetTaskConfig] = {
    "wavenet": published(22_050),
    "wavenet_16k": published(16_000),
    "wavenet_24k": published(24_000),
    "excitnet_16k": signal(published(16_000), "excitnet"),
    "lp_wavenet_16k": signal(published(16_000), "lp_wavenet"),
    "wavenet_small": small(),
    "lp_wavenet_small": signal(small(), "lp_wavenet"),
    "wavenet_speakers": without_text(SPEAKERS),
    "wavenet_sounds": without_text(),
    "wavenet_context": in_context(),
}
"""By preset."""


_RATES = {"": 22_050, "_16k": 16_000, "_24k": 24_000}
_MELS = {"": NAMED["hifigan"], "_16k": NAMED["speech16k"], "_24k": NAMED["speech24k"]}
_CROPS = {"": 8_192, "_16k": 8_000, "_24k": 8_160}
"""Samples: the published 8192, or about as many in whole hops."""

_HIFIGAN = {
    f"hifigan_{version}{rate}": getattr(hifigan, f"{version}{rate}".upper())
    for version in ("v1", "v2", "v3")
    for rate in _RATES
}
_MELGAN = {"melgan": melgan.MELGAN, "melgan_16k": melgan.MELGAN_16K, "melgan_24k": melgan.MELGAN_24K}
_ADAM = OptimConfig(lr=1e-4, betas=(0.5, 0.9))


def _ending(name: str) -> str:
    return next((end for end in ("_16k", "_24k") if name.endswith(end)), "")


def _at(rate: str, task: AdversarialConfig, mel: str = "") -> TrainConfig:
    return TrainConfig(
        loop=LoopConfig(steps=2_500_000, save_every=5_000, sample_every=10_000, workers=4),
        data=DataConfig(sample_rate=_RATES[rate], crop_samples=_CROPS[rate], batch=16),
        mel=NAMED[mel] if mel else _MELS[rate],
        task=task,
    )


def _hifigan(name: str, network: HiFiGANConfig | VocosConfig) -> TrainConfig:
    """As HiFi-GAN published: batches of 16, least squares, feature matching ×2, mel ×45."""
    return _at(_ending(name), AdversarialConfig(network=network))


def _melgan(name: str, network: MelGANConfig) -> TrainConfig:
    """As published: hinge, feature matching ×10, no mel loss, and (at 22.05 kHz) its own mel definition."""
    task = AdversarialConfig(
        network=network,
        periods=None,
        scales=None,
        windows=MelGANCriticConfig(),
        loss="hinge",
        feature_matching=10.0,
        mel=0.0,
        order="kept",
        generator=_ADAM,
        critic=_ADAM,
    )
    return _at(_ending(name), task, mel="" if _ending(name) else "melgan")


_COSINE = OptimConfig(
    lr=1e-3,
    betas=(0.8, 0.99),
    gradient_clip=50.0,
    warmup_steps=100,
    schedule="cosine",
    decay_steps=9_000,
    final=0.1,
)
HIFIGAN_SMALL = TrainConfig(
    # For a CPU: V2 at 16 kHz; a third of the run on spectra alone, then adversaries of a quarter of the size.
    loop=LoopConfig(steps=9_000, save_every=250, sample_every=1_500),
    data=DataConfig(sample_rate=16_000, crop_samples=8_000, batch=8),
    mel=NAMED["speech16k"],
    task=AdversarialConfig(
        network=hifigan.V2_16K,
        periods=MultiPeriodConfig(channels=(8, 32, 64, 128, 128)),
        scales=None,
        windows=MelGANCriticConfig(channels=8, max_channels=128),
        stft=10.0,
        adversary_from=3_000,
        order="simultaneous",
        ema_decay=0.999,
        generator=_COSINE,
        critic=replace(_COSINE, lr=3e-4),
    ),
)


def _vocos_small(network: VocosConfig, rate: str) -> TrainConfig:
    """For a CPU: a sixth of the run on spectra alone, then the small HiFi-GAN's adversaries."""
    assert isinstance(HIFIGAN_SMALL.task, AdversarialConfig)
    decay = replace(_COSINE, schedule="exponential", decay_steps=60_000, final=0.05)
    task = replace(
        HIFIGAN_SMALL.task,
        network=network,
        adversary_from=10_000,
        generator=decay,
        critic=replace(decay, lr=3e-4),
    )
    return replace(
        HIFIGAN_SMALL,
        loop=LoopConfig(steps=60_000, save_every=500, sample_every=2_000),
        data=DataConfig(sample_rate=_RATES[rate], crop_samples=_CROPS[rate], batch=8),
        mel=_MELS[rate],
        task=task,
    )


def _neural_griffin_lim(rate: str) -> TrainConfig:
    """For a CPU: half an hour of one core is of use."""
    return TrainConfig(
        loop=LoopConfig(steps=20_000, save_every=250, sample_every=2_000),
        data=DataConfig(sample_rate=_RATES[rate], crop_samples=96 * _MELS[rate].hop, batch=16),
        mel=_MELS[rate],
        task=MagnitudesTaskConfig(network=NeuralGriffinLimConfig(n_mels=_MELS[rate].n_mels)),
    )


def _windows(config: TrainConfig, windows: MelGANCriticConfig) -> TrainConfig:
    assert isinstance(config.task, AdversarialConfig)
    return replace(config, task=replace(config.task, windows=windows))


MELGAN_SMALL = replace(
    # The published losses at a width that a CPU trains: the ground of the single-scale ablation.
    _windows(
        _melgan("melgan_16k", replace(melgan.MELGAN_16K, channels=8)),
        MelGANCriticConfig(channels=8, max_channels=128),
    ),
    loop=LoopConfig(steps=4_000, save_every=250, sample_every=500),
    data=DataConfig(sample_rate=16_000, crop_samples=8_000, batch=8),
)
TINY = replace(
    HIFIGAN_SMALL,
    loop=LoopConfig(steps=4, log_every=1, save_every=2, sample_every=4),
    data=DataConfig(sample_rate=16_000, crop_samples=3_200, batch=2),
    task=AdversarialConfig(
        network=replace(hifigan.V2_16K, channels=16),
        periods=MultiPeriodConfig(periods=(2, 3), channels=(4, 8, 8)),
        scales=None,
        windows=MelGANCriticConfig(n_scales=2, channels=4, max_channels=16, n_layers=3),
        stft=1.0,
        adversary_from=2,
        ema_decay=0.9,
    ),
    n_validation=2,
    validation_seconds=0.5,
)


def _waveglow(name: str, network: WaveGlowConfig) -> TrainConfig:
    """As published: batches of 12, some 16 000 samples each."""
    base = _at(_ending(name), AdversarialConfig(network=hifigan.V1))
    crop = 16_000 // network.hop * network.hop
    return replace(
        base, task=WaveGlowTaskConfig(network=network), data=replace(base.data, crop_samples=crop, batch=12)
    )


def _wavenet(name: str, task: WaveNetTaskConfig) -> TrainConfig:
    """As published: batches of 8, some 10 240 samples each; on a CPU half as many."""
    rate = _ending(name) or ("" if name == "wavenet" else "_16k")
    small = isinstance(task.network, WaveNetConfig) or name.endswith("_small")
    loop = LoopConfig(steps=1_000_000, save_every=5_000, sample_every=10_000, workers=4)
    if small:
        loop = LoopConfig(steps=6_000, save_every=250, sample_every=2_000)
    mel = _MELS[rate]
    crop = 10_240 // mel.hop * mel.hop
    data = DataConfig(sample_rate=mel.sample_rate, crop_samples=crop, batch=4 if small else 8)
    return TrainConfig(loop=loop, data=data, mel=mel, task=task)


PRESETS: dict[str, TrainConfig] = {
    "hifigan_small": HIFIGAN_SMALL,
    "tiny": TINY,
    **{name: _hifigan(name, network) for name, network in _HIFIGAN.items()},
    **{name: _melgan(name, network) for name, network in _MELGAN.items()},
    "vocos_16k": _hifigan("vocos_16k", vocos.VOCOS_16K),
    "vocos_24k": _hifigan("vocos_24k", vocos.VOCOS_24K),
    "vocos_small_16k": _vocos_small(vocos.VOCOS_SMALL_16K, "_16k"),
    **{f"neural_griffin_lim{rate}": _neural_griffin_lim(rate) for rate in _RATES},
    "vocos_small_24k": _vocos_small(vocos.VOCOS_SMALL_24K, "_24k"),
    "melgan_single_scale": _windows(_melgan("melgan", melgan.MELGAN), MelGANCriticConfig(n_scales=1)),
    "waveglow": _waveglow("waveglow", waveglow.WAVEGLOW),
    "waveglow_16k": _waveglow("waveglow_16k", waveglow.WAVEGLOW_16K),
    "waveglow_24k": _waveglow("waveglow_24k", waveglow.WAVEGLOW_24K),
    **{name: _wavenet(name, task) for name, task in TASKS.items()},
    "melgan_small": MELGAN_SMALL,
    "melgan_small_single_scale": _windows(
        MELGAN_SMALL, MelGANCriticConfig(n_scales=1, channels=8, max_channels=128)
    ),
}
