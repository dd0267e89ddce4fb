"""Train phoneme recognition on a WaveNet's trunk: predict the next sample, and name each frame's phoneme."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from engine.optim import OptimConfig, Player
from vocoders.wavenet.features import SYMBOLS
from vocoders.wavenet.phoneme_recogniser import PhonemeRecogniser, PhonemeRecogniserConfig
from vocoders.wavenet.spoken import Spoken


@dataclass(frozen=True, kw_only=True)
class PhonemeTaskConfig:
    """A recogniser and how it is trained."""

    network: PhonemeRecogniserConfig = field(default_factory=PhonemeRecogniserConfig)
    """The trunk and its head."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=1e-3, betas=(0.9, 0.999), gradient_clip=1.0)
    )
    """Its optimiser."""
    prediction: float = 0.1
    """Weight of the next sample's likelihood beside the frames' cross-entropy."""


class PhonemeTask:
    """Van den Oord et al. 2016, section 3.4: two loss terms, which generalised better than one."""

    def __init__(self, config: PhonemeTaskConfig, validation: Sequence[Spoken] = ()) -> None:
        self.config, self.validation = config, list(validation)
        self.network = PhonemeRecogniser(config.network)
        self.modules: dict[str, nn.Module] = {"network": self.network}
        self.players = {"recogniser": Player(self.network, config.optim, "recogniser")}

    def update(self, batch: Spoken, step: int) -> Mapping[str, Tensor]:
        """One step down both losses."""
        surprise, confusion = self.network.losses(batch.wave, batch.phonemes)
        self.players["recogniser"].descend(confusion + self.config.prediction * surprise)
        return {"loss/recogniser/phonemes": confusion, "loss/recogniser/nll": surprise}

    def evaluate(self, step: int) -> dict[str, float]:
        """Share of frames named rightly, in all and outside pauses; of utterances never trained on."""
        self.network.eval()
        right, speech, n_frames, n_speech = 0.0, 0.0, 0, 0
        for said in self.validation:
            wave, phonemes = (x.to(self.network.classify.weight.device) for x in (said.wave, said.phonemes))
            hit = self.network.recognise(wave) == phonemes
            spoken = phonemes != SYMBOLS.index("")
            right, n_frames = right + float(hit.sum()), n_frames + hit.numel()
            speech, n_speech = speech + float(hit[spoken].sum()), n_speech + int(spoken.sum())
        self.network.train()
        if not n_speech:
            return {}
        return {"frame_accuracy": right / n_frames, "frame_accuracy_in_speech": speech / n_speech}
