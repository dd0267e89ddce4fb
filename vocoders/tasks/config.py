"""What decides a vocoder's training run, and the vocoder for use that is taken out of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from data.batches import DataConfig
from data.frontends import NAMED, MelConfig
from engine.checkpoint import export, fill, load_weights, newest_checkpoint
from engine.config import load_config
from engine.loop import LoopConfig
from engine.user_error import UserError
from vocoders.tasks.adversarial import AdversarialConfig
from vocoders.tasks.magnitudes import MagnitudesTaskConfig
from vocoders.tasks.waveglow import WaveGlowTaskConfig
from vocoders.tasks.wavenet import WaveNetTaskConfig
from vocoders.vocoder import Vocoder, VocoderConfig
from vocoders.wavenet.network import WaveNet, WaveNetConfig

Config = TypeVar("Config")
Task = AdversarialConfig | MagnitudesTaskConfig | WaveGlowTaskConfig | WaveNetTaskConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run."""

    KIND: ClassVar[str] = "vocoder_training"
    loop: LoopConfig = field(default_factory=LoopConfig)
    """When things happen, and where the run lives."""
    data: DataConfig = field(default_factory=DataConfig)
    """Which speech, or other sound."""
    mel: MelConfig = field(default_factory=lambda: NAMED["hifigan"])
    """The mel definition; stored with the vocoder, which refuses mels of another."""
    task: Task = field(default_factory=AdversarialConfig)
    """The network and the algorithm that trains it."""
    init: str = ""
    """What to begin from instead of random weights: a run (its newest checkpoint's networks, not its
    optimisers), an exported vocoder's folder, or ``released``."""
    predicted_mels: str = ""
    """A folder of mels that another network predicted, SPEAKER/NAME.npy for the recording SPEAKER/NAME.*, to
    be tuned to (HiFi-GAN, section 4.4); empty: mels are taken from the recordings."""
    n_validation: int = 4
    """Recordings of the validation split, or else of the training split's end, to be scored and heard."""
    validation_seconds: float = 4.0
    """Of each such recording."""

    def __post_init__(self) -> None:
        if self.data.sample_rate != self.mel.sample_rate:
            raise UserError(
                f"data.sample_rate={self.data.sample_rate} and mel.sample_rate={self.mel.sample_rate} must "
                "be the same: set both"
            )
        if self.data.crop_samples % self.mel.hop:
            raise UserError(
                f"data.crop_samples={self.data.crop_samples} must be a whole number of hops of {self.mel.hop}"
            )
        if self.data.crop_samples < self.mel.n_fft:
            raise UserError(
                f"data.crop_samples={self.data.crop_samples} is shorter than the mel's n_fft={self.mel.n_fft}"
            )

    def check_speakers(self, n_speakers: int) -> None:
        """Refuse a network of fewer speakers than the data has."""
        network = self.task.network
        if not isinstance(network, WaveNetConfig) or network.global_ is None:
            return
        if not 0 < n_speakers <= network.global_.n_speakers:
            raise UserError(
                f"the data names {n_speakers} speakers and the network knows {network.global_.n_speakers}: "
                "name one for every recording, and set --task.network.global-.n-speakers"
            )


def export_run(run: Path, out: Path) -> Path:
    """Write the vocoder of a run's newest checkpoint, averaged if the run averages; return the folder."""
    vocoder = trained_vocoder(run)
    return export(out, vocoder.config, vocoder.network)


def speaks_of_itself(config: TrainConfig) -> bool:
    """Whether a run trains a network that needs no mel, which is no vocoder: python -m vocoders.babble."""
    return isinstance(config.task.network, WaveNetConfig) and config.task.network.local is None


def trained_vocoder(run: Path) -> Vocoder:
    checkpoint, config = newest(run, TrainConfig)
    if speaks_of_itself(config):
        raise UserError(f"{run} trained a network that takes no mels: python -m vocoders.babble {run}")
    vocoder = Vocoder(VocoderConfig(mel=config.mel, network=config.task.network))
    fill_averaged(vocoder.network, checkpoint)
    return vocoder


def trained_babbler(run: Path) -> tuple[WaveNet, TrainConfig]:
    """The network, of a run's newest checkpoint, that is told no more than who speaks."""
    checkpoint, config = newest(run, TrainConfig)
    network = config.task.network
    if not isinstance(network, WaveNetConfig) or network.local is not None:
        raise UserError(f"{run} trained a vocoder, which needs mels: python -m vocoders.synthesize")
    babbler = WaveNet(network)
    fill_averaged(babbler, checkpoint)
    return babbler, config


def newest(run: Path, kind: type[Config]) -> tuple[Path, Config]:
    checkpoint = newest_checkpoint(run)
    if checkpoint is None:
        raise UserError(f"{run} holds no checkpoint of a run: give the folder that --loop.out named")
    return checkpoint, load_config(kind, checkpoint / "config.json")


def fill_averaged(network: Any, checkpoint: Path) -> None:
    """Take the averaged weights if the run averages, and fold weight norm."""
    averaged = checkpoint / "network_ema.safetensors"
    weights = averaged if averaged.exists() else checkpoint / "network.safetensors"
    fill(network, load_weights(weights), weights)
    network.eval().fold()
