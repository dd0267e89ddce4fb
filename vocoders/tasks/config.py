"""What decides a vocoder's training run."""

from dataclasses import dataclass, field
from typing import ClassVar

from data.batches import DataConfig
from data.frontends import NAMED, MelConfig
from engine.loop import LoopConfig
from engine.user_error import UserError
from vocoders.tasks.adversarial import AdversarialConfig
from vocoders.tasks.waveglow import WaveGlowTaskConfig
from vocoders.tasks.wavenet import WaveNetTaskConfig
from vocoders.wavenet.network import WaveNetConfig


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
    task: AdversarialConfig | WaveGlowTaskConfig | WaveNetTaskConfig = field(
        default_factory=AdversarialConfig
    )
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
