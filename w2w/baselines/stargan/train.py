"""Train StarGAN: ``accelerate launch w2w/train.py --task stargan --data.path FOLDER --loop.out RUN``.

Run the same command again to resume. ``--preset stargan_small`` is sized for a CPU; presets are in
``presets.py``. Labels come from the manifest's columns:
``--stargan.labels.second.column corpus --stargan.labels.second.size 0``.
"""

import warnings
from dataclasses import replace
from pathlib import Path

from engine.checkpoint import newest_checkpoint
from engine.loop import accelerator, fit
from engine.user_error import UserError
from w2w.baselines.stargan.labels import LabelledCrops, labelled_batches, rows_with_known_speakers, with_names
from w2w.baselines.stargan.presets import PRESETS, StarGANTrainConfig
from w2w.baselines.stargan.task import StarGAN
from w2w.export import export_run
from w2w.weights import begin_from

__all__ = ["PRESETS", "StarGANTrainConfig", "build", "completed", "train"]


def train(config: StarGANTrainConfig) -> LabelledCrops:
    """Train or resume, write the networks to ``export``, and return the training data."""
    here = accelerator(config.loop)
    config, shape = completed(config), config.stargan.spectrogram
    crops = labelled_batches(
        config.data,
        config.loop,
        shape,
        config.stargan.labels,
        n_parts=config.task.critic_updates,
        rank=here.process_index,
    )
    fit(lambda: build(config), crops, config.loop, full_config=config)
    if here.is_main_process:
        print(f"exported to {export_run(config.loop.out, config.loop.out / 'export')}")
    return crops.crops


def completed(config: StarGANTrainConfig) -> StarGANTrainConfig:
    """Fill in the label names and group sizes from the data."""
    labels = with_names(config.stargan.labels, rows_with_known_speakers(config.data))
    if not any(group.names for group in labels.groups):
        columns = ", ".join(group.column for group in labels.groups)
        raise UserError(f"{config.data.path} has no labels in {columns}: set the columns in stargan.labels")
    for group in labels.groups:
        if not group.names:
            warnings.warn(f"no recording of {config.data.path} has the label {group.column}", stacklevel=2)
    return replace(config, stargan=replace(config.stargan, labels=labels))


def build(config: StarGANTrainConfig) -> StarGAN:
    task = StarGAN(config.task, config.stargan, config.optim_generator, config.optim_discriminator)
    if config.init and not newest_checkpoint(config.loop.out):
        begin_from(task.modules, Path(config.init))
    return task
