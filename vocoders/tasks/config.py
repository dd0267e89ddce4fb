"""Configuration of a vocoder's training run, and export of the trained vocoder."""

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
    """Configuration of a vocoder's training run."""

    KIND: ClassVar[str] = "vocoder_training"
    loop: LoopConfig = field(default_factory=LoopConfig)
    """Training loop: number of steps, saving and logging intervals, and the run's folder."""
    data: DataConfig = field(default_factory=DataConfig)
    """Training recordings: speech or any other sound."""
    mel: MelConfig = field(default_factory=lambda: NAMED["hifigan"])
    """Mel definition; stored with the vocoder, which refuses mels of another definition."""
    task: Task = field(default_factory=AdversarialConfig)
    """Network and training algorithm."""
    init: str = ""
    """Initial weights instead of random ones: a run (networks of its newest checkpoint, without optimisers),
    the folder of an exported vocoder, or ``released``."""
    predicted_mels: str = ""
    """Folder of mels predicted by another network, for fine-tuning (HiFi-GAN, section 4.4):
    SPEAKER/NAME.npy for the recording SPEAKER/NAME.*; empty: mels are computed from the recordings."""
    n_validation: int = 4
    """Recordings to score and log as audio: of the validation split, or of the training split without one."""
    validation_seconds: float = 4.0
    """Maximum length of a validation recording, s."""

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
        """Refuse a network with fewer speakers than the data has."""
        network = self.task.network
        if not isinstance(network, WaveNetConfig) or network.global_ is None:
            return
        if not 0 < n_speakers <= network.global_.n_speakers:
            raise UserError(
                f"the data has {n_speakers} speakers and the network {network.global_.n_speakers}: "
                "name one for every recording, and set --task.network.global-.n-speakers"
            )


def export_run(run: Path, out: Path) -> Path:
    """Export the vocoder of a run's newest checkpoint, with averaged weights if any; return the folder."""
    vocoder = trained_vocoder(run)
    return export(out, vocoder.config, vocoder.network)


def speaks_of_itself(config: TrainConfig) -> bool:
    """Whether a run trains a network without mel input, for ``vocoders.babble`` instead of a vocoder."""
    return isinstance(config.task.network, WaveNetConfig) and config.task.network.local is None


def trained_vocoder(run: Path) -> Vocoder:
    checkpoint, config = newest(run, TrainConfig)
    if speaks_of_itself(config):
        raise UserError(f"{run} trained a network without mel input: use python -m vocoders.babble {run}")
    vocoder = Vocoder(VocoderConfig(mel=config.mel, network=config.task.network))
    fill_averaged(vocoder.network, checkpoint)
    return vocoder


def trained_babbler(run: Path) -> tuple[WaveNet, TrainConfig]:
    """The network of a run without mels, from its newest checkpoint, and the run's config."""
    checkpoint, config = newest(run, TrainConfig)
    network = config.task.network
    if not isinstance(network, WaveNetConfig) or network.local is not None:
        raise UserError(f"{run} trained a vocoder, which needs mels: use python -m vocoders.synthesize")
    babbler = WaveNet(network)
    fill_averaged(babbler, checkpoint)
    return babbler, config


def newest(run: Path, kind: type[Config]) -> tuple[Path, Config]:
    checkpoint = newest_checkpoint(run)
    if checkpoint is None:
        raise UserError(f"{run} holds no checkpoint of a run: give the --loop.out folder of its training")
    return checkpoint, load_config(kind, checkpoint / "config.json")


def fill_averaged(network: Any, checkpoint: Path) -> None:
    """Load a checkpoint's weights, averaged if there are any, and fold weight norm."""
    averaged = checkpoint / "network_ema.safetensors"
    weights = averaged if averaged.exists() else checkpoint / "network.safetensors"
    fill(network, load_weights(weights), weights)
    network.eval().fold()
