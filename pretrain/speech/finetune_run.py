"""Runs of fine-tuning: their presets, and from a config to an exported recogniser."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from engine.checkpoint import export
from engine.loop import LoopConfig, accelerator, fit
from engine.optim import OptimConfig
from engine.user_error import UserError
from pretrain.speech.encoder import SpeechEncoderConfig
from pretrain.speech.finetune import FineTune, FineTuneConfig, FreezeConfig, HidingConfig, resolved
from pretrain.speech.labelled import LabelledConfig, LabelledSpeech
from pretrain.speech.units import Phonemes, Units

_OPTIM = OptimConfig(
    betas=(0.9, 0.98), eps=1e-6, weight_decay=0.01, gradient_clip=1.0, schedule="cosine", final=0.05
)
CHARACTERS = FineTuneConfig(
    mix_layers=True,  # the last layer of a small encoder is not its best
    data=LabelledConfig(batch_seconds=20.0),
    hiding=HidingConfig(time_share=0.02, channel_share=0.004),
    freeze=FreezeConfig(trunk_steps=200),
    dropout=0.05,
    trunk=replace(_OPTIM, lr=1e-3, warmup_steps=80, hold_steps=400, decay_steps=820),
    head=replace(_OPTIM, lr=2e-2, warmup_steps=50, hold_steps=500, decay_steps=950),
    loop=LoopConfig(
        out=Path("runs/asr"), steps=1500, save_every=250, sample_every=250, mixed_precision="bf16"
    ),
)
TINY = SpeechEncoderConfig(
    conv_dims=(16, 16, 16),
    conv_kernels=(20, 16, 4),
    conv_strides=(10, 16, 2),
    hidden=32,
    layers=2,
    heads=2,
    ffn=32,
    position_layers=1,
    position_kernel=3,
    position_groups=4,
)
PRESETS = {
    "characters": CHARACTERS,
    "phonemes": replace(CHARACTERS, units=Phonemes()),
    "semi_supervised": replace(
        CHARACTERS, data=LabelledConfig(share=0.1, batch_seconds=20.0, unlabelled_seconds=20.0)
    ),
    "characters_tiny": replace(
        CHARACTERS,
        encoder=TINY,
        data=LabelledConfig(batch_seconds=4.0, unlabelled_seconds=4.0),
        freeze=FreezeConfig(convolutions=False, trunk_steps=1),
        pseudo_from=2,
        loop=LoopConfig(out=Path("runs/asr"), steps=4, save_every=2, sample_every=4, log_every=2),
    ),
}


def finetune(
    config: FineTuneConfig,
    *,
    validation_split: str = "validation",
    watch: Callable[[int, float], None] | None = None,
) -> FineTune:
    """Fine-tune, continue a run, or pick up a finished one; the recogniser is exported to its ``export``.

    ``watch`` receives the step and the error rate of the validation split, in percent, whenever it is scored.
    """
    config = resolved(config)
    assert config.encoder is not None
    here, units = accelerator(config.loop), Units(config.units)
    rate, show = config.encoder.sample_rate, here.is_main_process
    speech = LabelledSpeech(config.data, units, seed=config.loop.seed, sample_rate=rate, progress=show)
    if show:
        print(
            f"{len(speech.order)} utterances with labels ({speech.seconds / 60:.1f} min), "
            f"{len(speech.others)} without"
        )
    validation = _validation(config, units, validation_split) if config.loop.sample_every and show else None
    tasks: list[FineTune] = []

    def build() -> FineTune:
        tasks.append(FineTune(config, validation, watch))
        return tasks[0]

    batches = speech.batches(
        workers=config.loop.workers, rank=here.process_index, accumulate=config.loop.accumulate
    )
    fit(build, batches, config.loop, full_config=config)
    if show:
        # Half precision: the weights lose nothing that shows in the error rate, and half the size.
        recogniser = tasks[0].recogniser
        state = {name: tensor.half() for name, tensor in tasks[0].ema.module.state_dict().items()}
        print(f"exported to {export(config.loop.out / 'export', recogniser.config, state)}")
    return tasks[0]


def _validation(config: FineTuneConfig, units: Units, split: str) -> LabelledSpeech | None:
    """Return the split to score while training; a corpus without it trains unscored."""
    assert config.encoder is not None
    whole = replace(config.data, share=1.0, unlabelled_seconds=0.0)
    rate = config.encoder.sample_rate
    try:
        return LabelledSpeech(whole, units, sample_rate=rate, split=split, progress=False)
    except UserError:
        return None
