"""Distil a frozen speech encoder into a causal one, which initialises the converter's content encoder.

accelerate launch pretrain/distil.py --preset small --teacher.path models/moonshine-tiny \
    --data.path a.csv,b.csv --pairs.path pairs/manifest.csv --loop.out runs/student
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

if __package__ in (None, ""):  # run as a file: this folder is on the import path, its parent is not
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.batches import Address, Batches, DataConfig, speech_crops
from data.pairs import PairConfig, pair_crops
from data.recordings import end_training
from engine.checkpoint import export
from engine.config import cli, free
from engine.contents import Contents, folder_contents
from engine.loop import LoopConfig, accelerator, addressing, fit
from engine.optim import OptimConfig
from engine.user_error import UserError, exits_cleanly
from pretrain.causal.distillation import Distillation, DistillationConfig, DistillationData
from pretrain.causal.encoder import CausalEncoderConfig, Wave
from pretrain.speech.labelled import LabelledConfig, labelled_speech
from pretrain.teachers import load_teacher
from pretrain.units import Phonemes, Units


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The frozen teacher."""

    path: str = free("")
    """Folder of a speech encoder (Moonshine, Whisper, HuBERT, WavLM, wav2vec 2.0, or trained here), or
    hub:owner/name."""

    def contents(self) -> dict[str, Contents | None]:
        return {"path": folder_contents(self.path, "a teacher")}


@dataclass(frozen=True, kw_only=True)
class DistilConfig(DistillationConfig):
    """Training of a causal student of a frozen speech encoder."""

    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    data: DataConfig = field(default_factory=DataConfig)
    """Unlabelled speech; both crops of each speaker are used."""
    pairs: PairConfig = field(default_factory=PairConfig)
    """Optional time-aligned pairs of voices: the student's input is the source, the teacher's the target."""
    transcribed: LabelledConfig = field(default_factory=LabelledConfig)
    """Optional English speech with its text, for an additional CTC loss on phones."""
    validation: str = ""
    """Manifest with a split ``validation``; empty: that of the data, if it has one."""
    validation_clips: int = 64
    """Clips in the validation set."""
    loop: LoopConfig = field(default_factory=LoopConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pairs.path and self.pairs.crop_samples != self.data.crop_samples:
            raise UserError(
                f"pairs.crop_samples={self.pairs.crop_samples} and data.crop_samples="
                f"{self.data.crop_samples} must be equal: both kinds of crops form one batch"
            )


def decaying(lr: float, steps: int) -> OptimConfig:
    """Return optimiser settings with a short warm-up and a cosine decay."""
    return OptimConfig(
        lr=lr,
        betas=(0.9, 0.98),
        weight_decay=0.01,
        warmup_steps=min(200, steps // 10),
        schedule="cosine",
        decay_steps=max(1, steps - min(200, steps // 10)),
        final=0.02,
        gradient_clip=1.0,
    )


SMALL = DistilConfig(
    optim=decaying(2e-3, 2_400),
    # 3 s: a recogniser's encoder needs clips that are long enough to contain words.
    data=DataConfig(crop_samples=48_000, batch=4),
    pairs=PairConfig(crop_samples=48_000, reference_samples=1_600, batch=3),
    loop=LoopConfig(
        out=Path("runs/student"), steps=2_400, save_every=200, sample_every=200, mixed_precision="bf16"
    ),
)
PRESETS = {
    "small": SMALL,
    "base": replace(
        SMALL,
        model=CausalEncoderConfig(n_channels=512, n_blocks=12),
        optim=decaying(1e-3, 50_000),
        data=replace(SMALL.data, batch=32, crop_samples=64_000, cache_gib=64.0),
        pairs=replace(SMALL.pairs, batch=24, crop_samples=64_000, cache_gib=32.0),
        loop=replace(SMALL.loop, steps=50_000, save_every=1_000, sample_every=1_000, workers=8),
    ),
    "tiny": replace(
        SMALL,
        model=CausalEncoderConfig(n_channels=16, n_blocks=2, dim=8, n_mels=20),
        optim=decaying(1e-3, 4),
        data=replace(SMALL.data, crop_samples=8_000, batch=2),
        pairs=replace(SMALL.pairs, crop_samples=8_000, batch=2),
        transcribed=LabelledConfig(batch_seconds=2.0),
        validation_clips=2,
        loop=replace(SMALL.loop, steps=4, save_every=2, sample_every=4, log_every=2, mixed_precision="no"),
    ),
}


def held_out(config: DistilConfig) -> list[Wave]:
    """Return batches of clips of the split ``validation``; none where there is no such split."""
    data = replace(config.data, path=config.validation or config.data.path, split="validation")
    try:
        crops = speech_crops(data, progress=False)
    except UserError:
        if config.validation:
            raise
        return []
    return [crops[Address(0, i)].wave for i in range(max(1, config.validation_clips // data.batch))]


@exits_cleanly
def main() -> None:
    config = cli(PRESETS, default="small")
    here, loop = accelerator(config.loop), config.loop
    if not config.teacher.path:
        raise UserError("no teacher was given: set --teacher.path to the folder of a speech encoder")
    teacher = load_teacher(config.teacher.path)
    if config.data.sample_rate != teacher.sample_rate:
        raise UserError(f"data.sample_rate must be {teacher.sample_rate}, the teachers' sample rate")
    show = here.is_main_process
    ranks = {"rank": here.process_index, "n_ranks": here.num_processes, "accumulate": loop.accumulate}
    data = DistillationData(
        speech_crops(config.data, progress=show, **ranks),
        pair_crops(config.pairs, progress=show, **ranks) if config.pairs.path else None,
        labelled_speech(config.transcribed, Units(Phonemes()), progress=show, **ranks)
        if config.transcribed.paths
        else None,
    )
    validation, phones = held_out(config), bool(config.transcribed.paths)
    batches = Batches(data, **addressing(loop, here))
    task, _ = fit(
        lambda: Distillation(config, teacher, validation, phones=phones), batches, loop, full_config=config
    )
    if show:
        print(f"exported to {export(loop.out / 'export', task.shape, task.ema.module)}")
    end_training(data)


if __name__ == "__main__":
    main()
