"""Train CLUIT on mels: ``accelerate launch w2w/train.py --task cluit-mel --data.path FOLDER --loop.out RUN``.

Run the same command again to continue. ``--preset bank_norm_label_small`` suits a CPU; presets are in
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
    """Train, or continue; leave the converter for use in ``export``, and return what was learned from."""
    here = accelerator(config.loop)
    loop, rank, n_ranks = config.loop, here.process_index, here.num_processes
    crops = batches(config.data, loop.seed, loop.workers, rank, n_ranks, loop.accumulate)
    config = completed(config, crops.crops)
    fit(lambda: build(config), crops, loop, full_config=config)
    if here.is_main_process:
        print(f"exported to {export_run(loop.out, loop.out / 'export')}")
    return crops.crops


def completed(config: CluitMelTrainConfig, crops: Any) -> CluitMelTrainConfig:
    """Fill in what only the data knows: how many speakers are told of, and how many recordings there are.

    Where ``data.label_share`` is 0 the label losses are silent, as for any clip whose speaker is not known.
    """
    n_speakers = len(crops.speakers)
    if config.task.uses_labels and config.data.label_share:
        config = replace(config, network=_naming(config, n_speakers))
    if config.task.negatives == "bank" and not config.task.bank_slots:
        config = replace(config, task=replace(config.task, bank_slots=crops.n_recordings))
    return config


def _naming(config: CluitMelTrainConfig, n_speakers: int) -> CluitMelConfig:
    if not n_speakers:
        raise UserError(
            f"the label losses need speakers, and {config.data.path} names none: take a preset without, "
            "such as bank_norm, or give a manifest with speakers"
        )
    known = config.network.n_speakers or n_speakers
    if known < n_speakers:
        raise UserError(
            f"the data has {n_speakers} speakers and network.n_speakers is {known}: leave it at 0, or give "
            f"--network.n-speakers {n_speakers}"
        )
    return replace(config.network, n_speakers=known)


def build(config: CluitMelTrainConfig) -> CluitMel:
    """The task of a ``completed`` config; the recogniser is loaded only where its loss has a weight."""
    content = MelContentLoss(config.network.mel) if config.task.weights.content else None
    players = config.optim_generator, config.optim_critic
    task = CluitMel(config.task, config.network, *players, content)
    if config.init and not newest_checkpoint(config.loop.out):
        begin_from(task.modules, Path(config.init), without=("negatives",))
    return task
