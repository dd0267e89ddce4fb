"""Take the vocoder for use out of a training run: config.json and model.safetensors, weight norm folded."""

from pathlib import Path
from typing import Any

from engine.checkpoint import export, fill, load_weights, newest_checkpoint
from engine.config import load_config
from engine.user_error import UserError
from vocoders.tasks.config import TrainConfig
from vocoders.vocoder import Vocoder, VocoderConfig
from vocoders.wavenet.network import WaveNet, WaveNetConfig


def export_run(run: Path, out: Path) -> Path:
    """Write the vocoder of a run's newest checkpoint, averaged if the run averages; return the folder."""
    vocoder = trained_vocoder(run)
    return export(out, vocoder.config, vocoder.network)


def speaks_of_itself(config: TrainConfig) -> bool:
    """Whether a run trains a network that needs no mel, which is no vocoder: python -m vocoders.babble."""
    return isinstance(config.task.network, WaveNetConfig) and config.task.network.local is None


def trained_vocoder(run: Path) -> Vocoder:
    """The vocoder of a run's newest checkpoint."""
    checkpoint, config = _newest(run)
    if speaks_of_itself(config):
        raise UserError(f"{run} trained a network that takes no mels: python -m vocoders.babble {run}")
    vocoder = Vocoder(VocoderConfig(mel=config.mel, network=config.task.network))
    _fill(vocoder.network, checkpoint)
    return vocoder


def trained_babbler(run: Path) -> tuple[WaveNet, TrainConfig]:
    """The network, of a run's newest checkpoint, that is told no more than who speaks."""
    checkpoint, config = _newest(run)
    network = config.task.network
    if not isinstance(network, WaveNetConfig) or network.local is not None:
        raise UserError(f"{run} trained a vocoder, which needs mels: python -m vocoders.synthesize")
    babbler = WaveNet(network)
    _fill(babbler, checkpoint)
    return babbler, config


def _newest(run: Path) -> tuple[Path, TrainConfig]:
    checkpoint = newest_checkpoint(run)
    if checkpoint is None:
        raise UserError(f"{run} holds no checkpoint of a run: give the folder that --loop.out named")
    return checkpoint, load_config(TrainConfig, checkpoint / "config.json")


def _fill(network: Any, checkpoint: Path) -> None:
    """Take the averaged weights if the run averages, and fold weight norm."""
    averaged = checkpoint / "network_ema.safetensors"
    weights = averaged if averaged.exists() else checkpoint / "network.safetensors"
    fill(network, load_weights(weights), weights)
    network.eval().fold()
