"""Train on speech with time-aligned phonemes: ``accelerate launch vocoders/train_spoken.py --preset NAME``.

``speech``: a multi-speaker WaveNet synthesises phonemes of given durations and pitch (python -m
vocoders.speak). ``phonemes``: a recogniser with a WaveNet as trunk. The speech is synthesised by espeak in
memory; ``--data.path CORPUS`` uses texts and voices of a corpus made by python -m data.voices. The same
command resumes an interrupted run.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

if __package__ in (None, ""):  # run as a file: this folder is on the import path, its parent is not
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn

from data.batches import Batches
from data.frontends import NAMED
from engine.config import cli
from engine.loop import LoopConfig, Task, accelerator, addressing, fit
from engine.optim import OptimConfig, Player
from engine.user_error import UserError, exits_cleanly
from vocoders.tasks.presets import SMALL_WAVENET
from vocoders.tasks.wavenet import WaveNetTask, WaveNetTaskConfig
from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.distributions import Gaussian, MuLaw
from vocoders.wavenet.network import GlobalConfig, WaveNetConfig
from vocoders.wavenet.phoneme_recogniser import PhonemeRecogniser, PhonemeRecogniserConfig
from vocoders.wavenet.spoken import SYMBOLS, FeatureConfig, Spoken, SpokenConfig, SpokenCrops

N_SCORED = 8
"""Validation utterances that are scored."""


@dataclass(frozen=True, kw_only=True)
class PhonemeTaskConfig:
    """Network, optimiser and losses of a phoneme recogniser."""

    network: PhonemeRecogniserConfig = field(default_factory=PhonemeRecogniserConfig)
    """The trunk and the recogniser's head."""
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(lr=1e-3, betas=(0.9, 0.999), gradient_clip=1.0)
    )
    """The network's optimiser."""
    prediction: float = 0.1
    """Weight of the next-sample likelihood; the frames' cross-entropy has weight 1."""


class PhonemeTask:
    """Training with two losses, which generalised better than one (van den Oord et al. 2016, section 3.4)."""

    def __init__(self, config: PhonemeTaskConfig, validation: Sequence[Spoken] = ()) -> None:
        self.config, self.validation = config, list(validation)
        self.network = PhonemeRecogniser(config.network)
        self.modules: dict[str, nn.Module] = {"network": self.network}
        self.players = {"recogniser": Player(self.network, config.optim, "recogniser")}

    def update(self, batch: Spoken, step: int) -> Mapping[str, Tensor]:
        """One optimisation step on both losses."""
        nll, cross_entropy = self.network.losses(batch.wave, batch.phonemes)
        self.players["recogniser"].step(cross_entropy + self.config.prediction * nll)
        return {"loss/recogniser/phonemes": cross_entropy, "loss/recogniser/nll": nll}

    def evaluate(self, step: int) -> dict[str, float]:
        """Frame accuracy on the validation utterances, over all frames and without pauses."""
        self.network.eval()
        hits, spoken = [], []
        for utterance in send_to_device(self.validation, self.network.classify.weight.device):
            hits.append((self.network.recognise(utterance.wave) == utterance.phonemes).flatten().double())
            spoken.append((utterance.phonemes != SYMBOLS.index("")).flatten())
        self.network.train()
        if not any(one.any() for one in spoken):
            return {}
        hit, in_speech = torch.cat(hits), torch.cat(spoken)
        return {
            "frame_accuracy": float(hit.mean()),
            "frame_accuracy_in_speech": float(hit[in_speech].mean()),
        }


@dataclass(frozen=True, kw_only=True)
class SpokenTrainConfig:
    """Configuration of a training run on speech with time-aligned phonemes."""

    KIND: ClassVar[str] = "spoken_training"
    loop: LoopConfig = field(default_factory=LoopConfig)
    """Training loop: number of steps, saving and logging intervals, and the run's folder."""
    data: SpokenConfig = field(default_factory=SpokenConfig)
    """Training data: voices, texts, features and crops."""
    task: WaveNetTaskConfig | PhonemeTaskConfig = field(default_factory=WaveNetTaskConfig)
    """Network and training algorithm."""

    def __post_init__(self) -> None:
        features = self.data.features
        if isinstance(self.task, PhonemeTaskConfig):
            pool = self.task.network.pool
            if pool != features.hop:
                raise UserError(f"task.network.pool={pool} and data.features.hop={features.hop} must agree")
            return
        network = self.task.network
        if not isinstance(network, WaveNetConfig) or network.local is None:
            raise UserError("speech from phonemes needs a task.network of WaveNetConfig with local features")
        if (network.local.n, network.local.hop) != (features.channels, features.hop):
            raise UserError(
                f"task.network.local has {network.local.n} channels and a hop of {network.local.hop}, the "
                f"features have {features.channels} and {features.hop}: make them agree"
            )


_FEATURES = FeatureConfig()
_SPEECH = replace(
    SMALL_WAVENET,
    local=LocalConfig(n=_FEATURES.channels, upsampling="repetition", scales=(_FEATURES.hop,), pad=0),
    global_=GlobalConfig(n_speakers=4),
)
_ADAM = OptimConfig(lr=2e-3, betas=(0.9, 0.999), gradient_clip=1.0, warmup_steps=50)
SPEECH = SpokenTrainConfig(
    loop=LoopConfig(steps=20_000, save_every=500, sample_every=2_000),
    task=WaveNetTaskConfig(network=_SPEECH, optim=_ADAM, ema_decay=0.999),
)
PHONEMES = SpokenTrainConfig(
    loop=LoopConfig(steps=10_000, save_every=500, sample_every=500),
    data=SpokenConfig(features=FeatureConfig(hop=160), crop_samples=8_000, batch=4),
    task=PhonemeTaskConfig(
        network=PhonemeRecogniserConfig(
            wavenet=replace(_SPEECH, output=Gaussian(), local=None, global_=None)
        ),
        optim=_ADAM,
    ),
)
PUBLISHED = replace(
    # 30 layers as in the paper, for a GPU; use it with a corpus of many voices and hours.
    SPEECH,
    loop=LoopConfig(steps=500_000, save_every=5_000, sample_every=10_000, mixed_precision="bf16"),
    data=SpokenConfig(n_voices=24, n_sentences=200, crop_samples=16_000, batch=8),
    task=WaveNetTaskConfig(
        network=replace(
            _SPEECH,
            layers=30,
            stacks=3,
            residual=64,
            gate=128,
            skip=128,
            output=MuLaw(),
            global_=GlobalConfig(n_speakers=32),
        )
    ),
)
_SMALL = {"layers": 4, "residual": 8, "gate": 16, "skip": 8}
TINY = replace(
    SPEECH,
    loop=LoopConfig(steps=2, log_every=1, save_every=2, sample_every=2),
    data=SpokenConfig(n_voices=2, n_sentences=1, crop_samples=1_600, batch=2),
    task=WaveNetTaskConfig(network=replace(_SPEECH, **_SMALL), ema_decay=0.9, seconds=0.1),
)
TINY_PHONEMES = replace(
    PHONEMES,
    loop=TINY.loop,
    data=replace(TINY.data, features=FeatureConfig(hop=160)),
    task=PhonemeTaskConfig(
        network=PhonemeRecogniserConfig(
            wavenet=replace(_SPEECH, **_SMALL, output=MuLaw(), local=None, global_=None), channels=8
        )
    ),
)
PRESETS = {
    "speech": SPEECH,
    "phonemes": PHONEMES,
    "speech_published": PUBLISHED,
    "tiny": TINY,
    "tiny_phonemes": TINY_PHONEMES,
}


def build(config: SpokenTrainConfig, crops: SpokenCrops) -> Task:
    validation = SpokenCrops(replace(config.data, split="validation"), progress=False)
    scored = [utterance for utterance in validation.utterances if int(utterance.speaker) >= 0][:N_SCORED]
    match config.task:
        case PhonemeTaskConfig():
            return PhonemeTask(config.task, scored)
        case WaveNetTaskConfig():
            network = config.task.network
            known = getattr(getattr(network, "global_", None), "n_speakers", 0)
            if 0 < known < len(crops.speakers):
                raise UserError(
                    f"the data has {len(crops.speakers)} voices: give --task.network.global-.n-speakers "
                    f"{len(crops.speakers)}, not {known}"
                )
            mel = NAMED["speech16k" if config.data.features.sample_rate == 16_000 else "speech24k"]
            return WaveNetTask(config.task, mel, scored)


@exits_cleanly
def main() -> None:
    config = cli(PRESETS)
    here = accelerator(config.loop)
    crops = SpokenCrops(config.data, progress=here.is_main_process)
    source = Batches(
        crops,  # pyright: ignore[reportArgumentType]
        **addressing(config.loop, here),
    )
    fit(lambda: build(config, crops), source, config.loop, full_config=config)


if __name__ == "__main__":
    main()
