"""Train CLUIT on mels: ``accelerate launch w2w/train.py --task cluit-mel --data.path FOLDER --loop.out RUN``.

Run the same command again to resume. ``--preset bank_norm_label_small`` is sized for a CPU; presets are in
``presets.py``.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from data.batches import batches
from engine.checkpoint import newest_checkpoint
from engine.loop import accelerator, fit
from engine.user_error import UserError
from w2w.baselines.cluit_mel.losses import MelContentLoss
from w2w.baselines.cluit_mel.network import CluitMelConfig
from w2w.baselines.cluit_mel.presets import PRESETS, CluitMelTrainConfig
from w2w.baselines.cluit_mel.task import CluitMel
from w2w.export import export_run
from w2w.weights import begin_from

__all__ = ["PRESETS", "CluitMelTrainConfig", "build", "completed", "train"]


def train(config: CluitMelTrainConfig) -> Any:
    """Train or resume, write the converter to ``export``, and return the training data."""
    here = accelerator(config.loop)
    loop, rank, n_ranks = config.loop, here.process_index, here.num_processes
    crops = batches(config.data, loop.seed, loop.workers, rank, n_ranks, loop.accumulate)
    config = completed(config, crops.crops)
    fit(lambda: build(config), crops, loop, full_config=config)
    if here.is_main_process:
        print(f"exported to {export_run(loop.out, loop.out / 'export')}")
    return crops.crops


def completed(config: CluitMelTrainConfig, crops: Any) -> CluitMelTrainConfig:
    """Fill in the numbers of speakers and recordings from the data.

    With ``data.label_share`` 0 the label losses have no effect, as for unlabelled clips.
    """
    n_speakers = len(crops.speakers)
    if config.task.uses_labels and config.data.label_share:
        config = replace(config, network=_with_speakers(config, n_speakers))
    if config.task.negatives == "bank" and not config.task.bank_slots:
        config = replace(config, task=replace(config.task, bank_slots=crops.n_recordings))
    return config


def _with_speakers(config: CluitMelTrainConfig, n_speakers: int) -> CluitMelConfig:
    if not n_speakers:
        raise UserError(
            f"the label losses need speakers, but {config.data.path} names none: use a preset without them, "
            "such as bank_norm, or give a manifest with speakers"
        )
    known = config.network.n_speakers or n_speakers
    if known < n_speakers:
        raise UserError(
            f"the data has {n_speakers} speakers, but network.n_speakers is {known}: omit it, or give "
            f"--network.n-speakers {n_speakers}"
        )
    return replace(config.network, n_speakers=known)


def build(config: CluitMelTrainConfig) -> CluitMel:
    """Build the task of a ``completed`` config; the recogniser is loaded only if its loss is used."""
    content = MelContentLoss(config.network.mel) if config.task.weights.content else None
    players = config.optim_generator, config.optim_critic
    task = CluitMel(config.task, config.network, *players, content)
    if config.init and not newest_checkpoint(config.loop.out):
        begin_from(task.modules, Path(config.init), without=("negatives",))
    return task
