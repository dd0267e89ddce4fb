"""Train the converter: ``accelerate launch w2w/train.py --data.path FOLDER --loop.out runs/voice``.

Run the same command again to resume. The presets ``small`` and ``files`` (a converter of whole recordings)
train on a CPU, ``base`` on one large GPU; ``tiny`` is for tests; ``small_24k`` and ``base_24k`` are 24 kHz
variants. Supervision and initial weights other than the recordings:

- ``--pairs.path FOLDER``: time-aligned speech of several voices, made by ``python -m data.parallel``;
- ``--teacher FOLDER``: a frozen speech encoder (Moonshine, Whisper, HuBERT, WavLM, data2vec) whose features
  of an output are matched to those of its source;
- ``--pretrained.student runs/student``: initial content encoder, from ``pretrain/distil.py``;
  ``--pretrained.pitch runs/f0``: F0 tracker, from ``pretrain/f0.py``; ``--pretrained.style runs/wav2clip``:
  initial style encoder.

Baselines are trained by ``--task cluit-mel`` and ``--task stargan``, which have presets of their own:
``--task cluit-mel --help``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from data.batches import DataConfig
from data.pairs import PairConfig
from engine.config import free
from engine.contents import Contents, folder_contents
from engine.loop import LoopConfig
from engine.optim import OptimConfig
from engine.user_error import UserError
from pretrain.causal.encoder import CausalEncoderConfig
from w2w.cluit.adversary import DiscriminatorConfig
from w2w.cluit.config import CLUITConfig
from w2w.cluit.losses import Weights
from w2w.networks.config import ConverterConfig
from w2w.networks.decoder import DecoderConfig
from w2w.networks.refiner import RefinerConfig
from w2w.networks.style import StyleConfig
from w2w.pretrained import PretrainedConfig

SHORTEST_CROP_S = 0.1
"""Shortest allowed crop in seconds; longer than the longest analysis window of a loss."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Complete configuration of a training run."""

    KIND: ClassVar[str] = "converter_training"
    GONE: ClassVar[Mapping[str, Any]] = {"content": ...}
    loop: LoopConfig = field(default_factory=LoopConfig)
    """Length of the training, intervals of logging and saving, and the output folder."""
    init: str = ""
    """Initial weights of all networks: a run (its newest checkpoint, without the optimisers) or an exported
    converter; empty: random."""
    finetune: str = ""
    """Converter to fine-tune to the speaker of the recordings: an exported converter, a run, or ``released``.
    Its network sizes are used, and the speaker's voice is saved with the export; see preset ``finetune``."""
    data: DataConfig = field(default_factory=DataConfig)
    """Speech recordings."""
    pairs: PairConfig = field(default_factory=PairConfig)
    """Time-aligned pairs, if any."""
    teacher: str = free("released")
    """Frozen speech encoder for the losses ``content`` and ``distil``: a transformers model folder, a run of
    ``pretrain/distil.py`` or ``pretrain/data2vec.py``, hub:owner/name, or ``released``, the student included
    with the code; empty: no teacher and no such losses."""
    converter: ConverterConfig = field(default_factory=ConverterConfig)
    """The converter's networks."""
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    """The discriminator."""
    cluit: CLUITConfig = field(default_factory=CLUITConfig)
    """The training algorithm and its loss weights."""
    pretrained: PretrainedConfig = field(
        default_factory=lambda: PretrainedConfig(student="released", pitch="released")
    )
    """Pretrained encoders inside the converter; their sizes override those of ``converter``."""
    optim_converter: OptimConfig = field(default_factory=lambda: OptimConfig(lr=5e-4, betas=(0.8, 0.99)))
    """The converter's optimiser."""
    optim_discriminator: OptimConfig = field(default_factory=lambda: OptimConfig(lr=2e-4, betas=(0.5, 0.9)))
    """The discriminator's optimiser."""

    def __post_init__(self) -> None:
        if self.init and self.finetune:
            raise UserError("init and finetune exclude each other: give one of them")
        rates = {"data": self.data.sample_rate, "pairs": self.pairs.sample_rate}
        for name, rate in rates.items():
            if rate != self.converter.sample_rate and (name == "data" or self.pairs.path):
                raise UserError(
                    f"{name}.sample_rate={rate} and converter.sample_rate={self.converter.sample_rate} must"
                    " be the same: set both"
                )

        shortest = round(SHORTEST_CROP_S * self.converter.sample_rate)
        for name in ("crop_samples", "reference_samples"):
            for part in ("data", *(["pairs"] if self.pairs.path else [])):
                if 0 < (samples := getattr(getattr(self, part), name)) < shortest:
                    raise UserError(
                        f"{part}.{name}={samples} is too short to train on: give {shortest} or more"
                    )
            if self.pairs.path and getattr(self.data, name) != getattr(self.pairs, name):
                raise UserError(
                    f"data.{name}={getattr(self.data, name)} and pairs.{name}={getattr(self.pairs, name)}"
                    " must be the same: they are rows of one batch"
                )

    def contents(self) -> dict[str, Contents | None]:
        """Digest of the teacher's files, if it is a folder."""
        return {"teacher": folder_contents(self.teacher, "a teacher")}

    def check_labels(self, n_speakers: int) -> None:
        """Raise if a label loss is on and the label head has fewer classes than the data has speakers."""
        weights, known = self.cluit.weights, self.discriminator.n_speakers
        if (weights.label_discriminator or weights.label_converter) and known < max(n_speakers, 1):
            raise UserError(
                f"the data has {n_speakers} speakers and discriminator.n_speakers is {known}: label losses"
                f" need --discriminator.n-speakers {n_speakers}, and labels in the data"
            )


SHARPNESS = 0.4
"""Formant sharpening of converted speech, chosen on validation speakers (docs/experiments.md)."""
SMALL = TrainConfig(
    loop=LoopConfig(steps=50_000, save_every=250, sample_every=2_000, mixed_precision="bf16"),
    data=DataConfig(batch=10, crop_samples=20_480, reference_samples=32_000, equal_speakers=True),
    pairs=PairConfig(batch=6, crop_samples=20_480, reference_samples=32_000),
    converter=ConverterConfig(decoder=DecoderConfig(sharpness=SHARPNESS)),
    cluit=CLUITConfig(adversary_from=15_000),
    optim_converter=OptimConfig(
        lr=1e-3,
        betas=(0.8, 0.99),
        gradient_clip=5.0,
        warmup_steps=200,
        schedule="exponential",
        decay_steps=50_000,
        final=0.05,
    ),
    optim_discriminator=OptimConfig(lr=2e-4, betas=(0.5, 0.9), gradient_clip=5.0),
)
TINY = replace(
    SMALL,
    pretrained=PretrainedConfig(),
    loop=LoopConfig(steps=4, log_every=1, save_every=2, sample_every=4),
    data=DataConfig(batch=3, crop_samples=6_400, reference_samples=8_000),
    pairs=PairConfig(batch=2, crop_samples=6_400, reference_samples=8_000),
    converter=ConverterConfig(
        content=CausalEncoderConfig(n_channels=16, n_blocks=2, dim=8, n_mels=40),
        style=StyleConfig(n_channels=16, n_blocks=1, n_tokens=2, token_dim=8),
        decoder=DecoderConfig(n_channels=32, n_blocks=2, refiner=RefinerConfig(n_channels=8, n_blocks=1)),
    ),
    discriminator=DiscriminatorConfig(
        n_scales=2, n_channels=4, max_channels=16, n_strided=3, projection_dim=16
    ),
    cluit=CLUITConfig(
        discriminator_samples=4_096,
        discriminator_batch=0,
        convert_from=1,
        back_translate_from=1,
        adversary_from=2,
        bank_size=16,
    ),
)
BASE = TrainConfig(
    loop=LoopConfig(steps=300_000, save_every=2_000, sample_every=5_000, mixed_precision="bf16", workers=8),
    data=DataConfig(batch=40, crop_samples=32_000, reference_samples=64_000, equal_speakers=True),
    pairs=PairConfig(batch=24, crop_samples=32_000, reference_samples=64_000),
    converter=ConverterConfig(
        content=CausalEncoderConfig(n_channels=384, n_blocks=12, dim=96),
        style=StyleConfig(n_channels=384, n_blocks=6, n_tokens=16, token_dim=48),
        decoder=DecoderConfig(
            n_channels=512,
            n_blocks=12,
            sharpness=SHARPNESS,
            refiner=RefinerConfig(n_channels=256, n_blocks=6),
        ),
    ),
    discriminator=DiscriminatorConfig(max_channels=1_024),
    pretrained=PretrainedConfig(),
    cluit=CLUITConfig(convert_from=2_000, adversary_from=50_000, discriminator_batch=32),
    optim_converter=replace(
        SMALL.optim_converter, lr=5e-4, warmup_steps=1_000, decay_steps=300_000, final=0.02
    ),
    optim_discriminator=replace(SMALL.optim_discriminator, gradient_clip=10.0),
)


def at_24_khz(config: TrainConfig) -> TrainConfig:
    """The same configuration at 24 kHz, with equal durations."""
    cluit = config.cluit

    def resampled(data: Any) -> Any:
        crops = {n: getattr(data, n) * 3 // 2 for n in ("crop_samples", "reference_samples")}
        return replace(data, sample_rate=24_000, **crops)

    return replace(
        config,
        pretrained=PretrainedConfig(),  # the released student takes 16 kHz
        converter=replace(config.converter, sample_rate=24_000),
        cluit=replace(cluit, discriminator_samples=cluit.discriminator_samples * 3 // 2),
        data=resampled(config.data),
        pairs=resampled(config.pairs),
    )


FILES = replace(
    SMALL,
    teacher="moonshine",
    converter=replace(
        SMALL.converter, recogniser="moonshine", recogniser_layers=(3,), style=StyleConfig(n_blocks=6)
    ),
    pretrained=PretrainedConfig(pitch="released_ahead"),
    data=replace(SMALL.data, batch=9),
    pairs=replace(SMALL.pairs, batch=7),
    cluit=CLUITConfig(
        convert_share=0.22,
        back_translate_share=0.44,
        adversary_from=100_000,
        weights=Weights(content=3.0, code_invariance=2.0),
        augment=replace(CLUITConfig().augment, noise=0.6, snr_db=(6.0, 35.0), reverberation=0.2),
    ),
)
"""For converting files: the content encoder runs on a frozen recogniser, which needs whole utterances."""
FINETUNE = replace(
    SMALL,
    finetune="released",
    loop=LoopConfig(steps=400, save_every=100, sample_every=0, max_minutes=20.0),
    data=DataConfig(batch=8, crop_samples=20_480, reference_samples=32_000),
    cluit=CLUITConfig(
        weights=Weights(
            distil=0.0,
            adversarial=0.0,
            feature_matching=0.0,
            contrast_discriminator=0.0,
            contrast_converter=0.0,
            contrast_style=0.0,
            contrast_voice=0.0,
        ),
        convert_share=0.25,
        convert_from=0,
        back_translate_share=0.5,
        back_translate_from=0,
        ema=0.98,
    ),
    pretrained=PretrainedConfig(),
    optim_converter=replace(SMALL.optim_converter, lr=1e-4, warmup_steps=20, decay_steps=400, final=0.1),
)
"""For some minutes of one speaker; losses that need other voices are off, see ``w2w/finetune.py``."""
PRESETS = {
    "small": SMALL,
    "files": FILES,
    "tiny": TINY,
    "base": BASE,
    "small_24k": at_24_khz(SMALL),
    "base_24k": at_24_khz(BASE),
    "finetune": FINETUNE,
}
