"""Pretrain a speech encoder on unlabelled speech: data2vec, data2vec 2.0, and wav2vec 2.0's contrastive loss.

accelerate launch pretrain/data2vec.py --preset small --data.paths a.csv b.csv --loop.out runs/speech
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

if __package__ in (None, ""):  # run as a file: this folder is on the import path, its parent is not
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.batches import Batches
from data.recordings import end_training
from engine.checkpoint import export
from engine.config import cli
from engine.loop import LoopConfig, accelerator, addressing, fit
from engine.optim import OptimConfig
from engine.user_error import UserError, exits_cleanly
from pretrain.speech import encoder
from pretrain.speech.batches import Clips, SpeechConfig, first_of, unlabelled_speech
from pretrain.speech.contrast import ContrastConfig
from pretrain.speech.pretraining import Pretraining, PretrainingConfig
from pretrain.speech.regression import RegressionConfig, SpectrumConfig, TeacherConfig
from pretrain.speech.student import MaskConfig, MultiMaskConfig


@dataclass(frozen=True, kw_only=True)
class Data2VecConfig(PretrainingConfig):
    """Pretraining of a speech encoder on unlabelled speech."""

    data: SpeechConfig = field(default_factory=SpeechConfig)
    validation_seconds: float = 120.0
    """Speech of the split ``validation``, where there is one, on which the loss terms are evaluated."""
    loop: LoopConfig = field(default_factory=LoopConfig)


def tri_stage(lr: float, steps: int) -> OptimConfig:
    """Return the papers' schedule: 3 % of the steps warm-up, 90 % constant, 7 % decay to 1 % of ``lr``."""
    rise, fall = round(0.03 * steps), round(0.07 * steps)
    return OptimConfig(
        lr=lr,
        betas=(0.9, 0.98),
        eps=1e-6,
        weight_decay=0.01,
        warmup_steps=rise,
        hold_steps=steps - rise - fall,
        schedule="exponential",
        decay_steps=max(fall, 1),
        final=0.01,
    )


BASE = Data2VecConfig(
    optim=tri_stage(5e-4, 400_000),
    # The paper's 63 minutes of speech per step: 16 micro-batches on one GPU; on 16 GPUs, --loop.accumulate 1.
    data=SpeechConfig(batch_seconds=236.0, cache_gib=64.0),
    loop=LoopConfig(out=Path("runs/speech"), steps=400_000, accumulate=16, mixed_precision="bf16", workers=4),
)
SMALL = Data2VecConfig(
    model=encoder.SMALL,
    student=MultiMaskConfig(masks=4, mask=MaskConfig(share=0.5, span=5), decoder_dim=256),
    # In a few thousand updates the teacher's targets are still mostly noise, so the contrastive and spectrum
    # losses dominate and the regression has a small weight.
    regression=RegressionConfig(
        weight=0.05,
        teacher=TeacherConfig(top=3, decay_first=0.99, decay_last=0.999, decay_steps=1000),
        guard_from=500,
    ),
    contrast=ContrastConfig(codes=160, diversity=0.3, gumbel_decay=0.9995),
    spectrum=SpectrumConfig(),
    optim=replace(tri_stage(1e-3, 2400), gradient_clip=5.0),
    data=SpeechConfig(batch_seconds=12.0, longest_seconds=6.0, shortest_seconds=1.5),
    loop=LoopConfig(
        out=Path("runs/speech"), steps=2400, save_every=200, sample_every=200, mixed_precision="bf16"
    ),
)
TINY = replace(
    SMALL,
    model=encoder.TINY,
    student=MultiMaskConfig(masks=2, decoder_dim=32, decoder_layers=1, decoder_groups=4),
    regression=RegressionConfig(teacher=TeacherConfig(top=1)),
    contrast=ContrastConfig(codes=8, code_dim=16, dim=16, negatives=10),
    optim=tri_stage(1e-3, 4),
    data=SpeechConfig(batch_seconds=4.0, longest_seconds=2.0, shortest_seconds=0.5),
    validation_seconds=4.0,
    loop=replace(SMALL.loop, steps=4, save_every=2, sample_every=4, log_every=2, mixed_precision="no"),
)
PRESETS = {
    "base": BASE,
    "base-2.0": replace(
        BASE,
        student=MultiMaskConfig(mask=MaskConfig(share=0.5, span=5)),
        data=replace(BASE.data, batch_seconds=62.5),
    ),
    "base-contrastive": replace(BASE, regression=None, contrast=ContrastConfig()),
    "base-both": replace(BASE, contrast=ContrastConfig()),
    "small": SMALL,
    "tiny": TINY,
}


@exits_cleanly
def main() -> None:
    config = cli(PRESETS, default="small")
    here = accelerator(config.loop)
    rate = config.model.sample_rate
    ranks = {"rank": here.process_index, "n_ranks": here.num_processes, "accumulate": config.loop.accumulate}
    speech = unlabelled_speech(config.data, sample_rate=rate, progress=here.is_main_process, **ranks)
    try:
        held_out = unlabelled_speech(
            replace(config.data, split="validation"), sample_rate=rate, progress=False
        )
        validation = list(first_of(held_out).in_order(config.validation_seconds))
    except UserError:
        validation: list[Clips] = []  # a corpus without a validation split is trained without evaluation
    batches = Batches(speech, **addressing(config.loop, here))
    task, _ = fit(lambda: Pretraining(config, validation), batches, config.loop, full_config=config)
    if here.is_main_process:
        # Half precision halves the file, without a visible loss of quality.
        state = {name: tensor.half() for name, tensor in task.encoder.state_dict().items()}
        print(f"exported to {export(config.loop.out / 'export', config.model, state)}")
    end_training(speech)


if __name__ == "__main__":
    main()
