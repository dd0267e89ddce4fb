"""Train the converter or a baseline; options and presets are in ``train_config.py``.

Fine-tuning to one speaker (``--finetune released``) takes some minutes of recordings, a small learning rate
and few steps. Recordings are reconstructed from the converter's own conversions of them to the voice of
recordings at other speeds, so that it learns to produce this voice from speech in others. Adversarial and
contrastive losses are off, since they need other voices.
"""

import re
import sys
from argparse import ArgumentError, ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from data.audio import excerpt
from data.batches import DataConfig
from data.pairs import Together, batches_together
from data.recordings import end_training
from data.rows import split_rows
from engine.checkpoint import export, fill, newest_checkpoint
from engine.config import cli
from engine.loop import accelerator, addressing, fit
from engine.outcome import leaving_out, note
from engine.user_error import UserError, exits_cleanly
from pretrain.causal.encoder import load_student
from w2w.cluit.task import CLUIT
from w2w.converter import OWN_VOICE, Converter
from w2w.pretrained import PretrainedConfig, with_encoders
from w2w.recording import LONGEST_S
from w2w.train_config import PRESETS, TrainConfig
from w2w.voice_fitting import MOST_CLIPS
from w2w.weights import begin_from, load_converter, pitch_tracker, weights_folder


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
            save_voice(folder, task.converter_ema.module, config.data)
        print(f"exported to {folder}")
    return crops.crops


def begin_task_from(task: CLUIT, where: str) -> None:
    """Fill the networks from another run's newest checkpoint, or from an export; memory banks start empty."""
    folder = Path(where)
    if where in ("released", "released_live") or (folder / "model.safetensors").is_file():
        folder = weights_folder(where)
        theirs, state = load_converter(folder)
        if theirs.pitch_ahead != task.converter.config.pitch_ahead:  # the weights have equal shapes
            raise UserError(
                f"init={where} has an F0 tracker with {theirs.pitch_ahead} frames more look-ahead than the"
                f" converter, not {task.converter.config.pitch_ahead}: give --pretrained.pitch the tracker"
                " that it was trained with, released or released_ahead"
            )
        for module in (task.converter, task.converter_ema.module):
            fill(module, pitch_tracker(module) | state, folder / "model.safetensors")
    elif newest_checkpoint(folder) is None:
        raise UserError(
            f"init={where} holds neither a checkpoint of a run nor an exported converter: give the folder"
            " that --loop.out named, or one with config.json and model.safetensors"
        )
    else:
        begin_from(task.modules, folder, without=("bank", "voices", "balancer"))


def save_voice(folder: Path, network: Any, data: DataConfig) -> None:
    """Save the speaker's voice with an export, for ``--voice own``: the recordings' mean, fitted to them."""
    converter, faults, voices, clips = Converter(network), [], [], []
    for row in split_rows(data.path, data.split):
        with leaving_out(faults):
            clip = excerpt(row.path, 0, round(LONGEST_S * converter.sample_rate), converter.sample_rate)
            voices.append(converter.embed(clip, names=[str(row.path)]))
            clips += [clip] if len(clips) < MOST_CLIPS else []
    if not voices:
        raise UserError(faults[0])
    note(*faults)
    save_file({"voice": converter.fit(torch.stack(voices).mean(0), clips).cpu()}, folder / OWN_VOICE)


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
