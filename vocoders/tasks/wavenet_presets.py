"""WaveNets to train by ``vocoders/train.py``: from mels, of known speakers, of anything.

``wavenet`` as published, for a GPU; ``*_small`` for a CPU. Each value is a task; rate, mel and data go with
it in ``vocoders/tasks/presets.py``.
"""

from dataclasses import replace

from engine.optim import OptimConfig
from vocoders.tasks.wavenet import WaveNetTaskConfig
from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.distributions import MixtureOfLogistics, MuLaw
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
}
"""By preset."""
