"""Train the converter or a baseline; options and presets are in ``train_config.py``."""

import re
import sys
from argparse import ArgumentError, ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module

from data.pairs import Together, batches_together
from data.recordings import end_training
from engine.checkpoint import export, newest_checkpoint
from engine.config import cli
from engine.loop import accelerator, addressing, fit
from engine.user_error import UserError, exits_cleanly
from pretrain.causal.encoder import load_student
from w2w.cluit.task import CLUIT
from w2w.pretrained import PretrainedConfig, with_encoders
from w2w.train_config import PRESETS, TrainConfig
from w2w.weights import load_converter, weights_folder


def build(config: TrainConfig) -> CLUIT:
    """Build the task; the frozen teacher is loaded only if a loss of non-zero weight uses it."""
    weights = config.cluit.weights
    teacher = None
    if config.teacher and (weights.content or weights.distil):
        from pretrain.teachers import load_teacher

        teacher = load_teacher(config.teacher)
    task = CLUIT(
        config.cluit,
        config.converter,
        config.discriminator,
        config.optim_converter,
        config.optim_discriminator,
        teacher=teacher,
        pretrained=config.pretrained,
    )
    if config.pretrained.student and teacher is not None:
        head = load_student(config.pretrained.student).head
        if head.weight.shape == task.teacher_head.weight.shape:  # else it was trained for another teacher
            task.teacher_head.load_state_dict(head.state_dict())
    init = str(weights_folder(config.finetune)) if config.finetune else config.init
    if init and not newest_checkpoint(config.loop.out):
        from w2w.finetune import begin_task_from

        begin_task_from(task, init)
    return task


def train(config: TrainConfig) -> Together:
    """Train or resume, write the averaged converter to ``export`` and return the training data."""
    if config.finetune:
        sizes, _ = load_converter(weights_folder(config.finetune))
        config = replace(config, converter=sizes, pretrained=PretrainedConfig())
    else:
        config = replace(config, converter=with_encoders(config.converter, config.pretrained))
    here = accelerator(config.loop)
    loop, n_ranks = config.loop, here.num_processes
    crops = batches_together(config.data, config.pairs, n_ranks=n_ranks, **addressing(loop, here))
    config.check_labels(len(crops.crops.human.speakers))
    task, _ = fit(lambda: build(config), crops, loop, full_config=config)
    if here.is_main_process:
        folder = export(loop.out / "export", config.converter, task.converter_ema.module)
        if config.finetune:
            from w2w.finetune import save_voice

            save_voice(folder, task.converter_ema.module, config.data)
        print(f"exported to {folder}")
    return crops.crops


TASKS = {
    "w2w": "w2w.train",
    "cluit-mel": "w2w.baselines.cluit_mel.train",
    "stargan": "w2w.baselines.stargan.train",
}
"""Values of ``--task``, and their modules, each with ``PRESETS`` and ``train``."""


def task_of(args: Sequence[str]) -> tuple[str, list[str]]:
    """Split ``--task`` (default: w2w) from the command line; return its value and the other arguments."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--task", default="w2w")
    try:
        known, rest = parser.parse_known_args(args)
    except ArgumentError:
        raise UserError(f"--task needs a value: {', '.join(TASKS)}") from None
    if known.task not in TASKS:
        raise UserError(f"there is no task {known.task!r}; choose from {', '.join(TASKS)}")
    return known.task, rest


@exits_cleanly
def main() -> None:
    name, args = task_of(sys.argv[1:])
    if name == "w2w":  # options with "critic" in their name were renamed; old commands still work
        args = [re.sub(r"\bcritic\b", "discriminator", a) if a.startswith("--") else a for a in args]
        finetunes = any(arg.split("=")[0] == "--finetune" for arg in args)
        crops = train(cli(PRESETS, default="finetune" if finetunes else "small", argv=args))
    else:
        module = import_module(TASKS[name])
        crops = module.train(cli(module.PRESETS, argv=args))
    end_training(crops)


if __name__ == "__main__":
    main()
