"""Take the vocoder for use out of a training run: config.json and model.safetensors, weight norm folded."""

from pathlib import Path

from vocoders.vocoder import Vocoder, VocoderConfig

from engine.checkpoint import export, fill, load_weights, newest_checkpoint
from engine.config import load_config
from engine.user_error import UserError
from vocoders.train_config import TrainConfig


def export_run(run: Path, out: Path) -> Path:
    """Write the vocoder of a run's newest checkpoint, averaged if the run averages; return the folder."""
    vocoder = trained_vocoder(run)
    return export(out, vocoder.config, vocoder.network)


def trained_vocoder(run: Path) -> Vocoder:
    """The vocoder of a run's newest checkpoint."""
    checkpoint = newest_checkpoint(run)
    if checkpoint is None:
        raise UserError(f"{run} holds no checkpoint of a run: give the folder that --loop.out named")
    config = load_config(TrainConfig, checkpoint / "config.json")
    vocoder = Vocoder(VocoderConfig(mel=config.mel, network=config.task.network))
    averaged = checkpoint / "network_ema.safetensors"
    weights = averaged if averaged.exists() else checkpoint / "network.safetensors"
    fill(vocoder.network, load_weights(weights), weights)
    vocoder.network.fold()
    return vocoder
