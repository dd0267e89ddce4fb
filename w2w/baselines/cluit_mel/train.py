"""Train CLUIT on mels: ``accelerate launch w2w/train.py --task cluit-mel --data.path FOLDER --loop.out RUN``.

Run the same command again to continue. ``--preset bank_norm_label_small`` suits a CPU; presets are in
``presets.py``.
"""

from dataclasses import replace
from pathlib import Path

from data.batches import SpeechCrops, StreamedCrops, batches
from engine.checkpoint import fill, load_weights, newest_checkpoint
from engine.loop import accelerator, fit
from engine.user_error import UserError
from w2w.baselines.cluit_mel.losses import MelContentLoss
from w2w.baselines.cluit_mel.network import CluitMelConfig
from w2w.baselines.cluit_mel.presets import PRESETS, CluitMelTrainConfig
from w2w.baselines.cluit_mel.task import CluitMel
from w2w.export import export_run

__all__ = ["PRESETS", "CluitMelTrainConfig", "build", "completed", "train"]


def train(config: CluitMelTrainConfig) -> SpeechCrops | StreamedCrops:
    """Train, or continue; leave the converter for use in ``export``, and return what was learned from."""
    here = accelerator(config.loop)
    config = with_its_crops(config)
    loop, rank, n_ranks = config.loop, here.process_index, here.num_processes
    crops = batches(config.data, loop.seed, loop.workers, rank, n_ranks, loop.accumulate)
    config = completed(config, crops.crops)
    fit(lambda: build(config), crops, loop, full_config=config)
    if here.is_main_process:
        print(f"exported to {export_run(loop.out, loop.out / 'export')}")
    return crops.crops


def with_its_crops(config: CluitMelTrainConfig) -> CluitMelTrainConfig:
    """The config whose batches hold the positives it asks for."""
    if config.task.positives == "recording":
        return replace(config, data=replace(config.data, other="recording"))
    return config


def completed(config: CluitMelTrainConfig, crops: SpeechCrops | StreamedCrops) -> CluitMelTrainConfig:
    """Fill in what only the data knows: how many speakers are told of, and how many recordings there are.

    Where ``data.label_share`` is 0 the label losses are silent, as for any clip whose speaker is not known.
    """
    config, n_speakers = with_its_crops(config), len(crops.speakers)
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
    if config.task.positives == "recording" and config.data.other != "recording":
        raise UserError("task.positives=recording needs --data.other recording")
    content = MelContentLoss(config.network.mel) if config.task.weights.content else None
    players = config.optim_generator, config.optim_critic
    task = CluitMel(config.task, config.network, *players, content)
    if config.init and not newest_checkpoint(config.loop.out):
        begin_from(task, Path(config.init))
    return task


def begin_from(task: CluitMel, run: Path) -> None:
    """Fill the networks from another run's newest checkpoint; negatives begin empty."""
    folder = newest_checkpoint(run)
    if folder is None:
        raise UserError(f"init={run} holds no checkpoint of a run: give the folder that --loop.out named")
    for name, module in task.modules.items():
        if name != "negatives":
            path = folder / f"{name}.safetensors"
            fill(module, load_weights(path), path)
