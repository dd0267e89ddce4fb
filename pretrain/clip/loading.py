"""Trained audio encoders by name and place."""

import json
from pathlib import Path

from engine.checkpoint import fill, load_export, load_weights, newest_checkpoint
from engine.config import from_json
from engine.user_error import UserError
from pretrain.clip.audio_encoder import AudioEncoder, AudioEncoderConfig
from pretrain.clip.published import load_published

NAMES = ("wav2clip",)
RELEASED = Path(__file__).parents[1] / "released" / "wav2clip_world"
"""The encoder that comes with the code: the path ``released``; its CLIP lies in ``clip`` beside it."""


def load_audio_encoder(name: str, path: Path | str) -> AudioEncoder:
    """Return an audio encoder in evaluation mode.

    ``path`` is a run of ``pretrain/wav2clip.py``, its export, or the published weights file; ``released`` is
    the small one of the embedded world that comes with the code.
    """
    if name not in NAMES:
        raise UserError(f"there is no audio encoder {name!r}; choose from {', '.join(NAMES)}")
    path = RELEASED if str(path) == "released" else Path(path)
    if path.is_file():
        return load_published(path)
    if not path.is_dir():
        raise UserError(f"there is no audio encoder at {path}: give a run, its export or a published file")
    if (path / "export" / "config.json").is_file():
        path = path / "export"
    if not (path / "model.safetensors").is_file():
        return _from_run(path)
    config, state = load_export(path, AudioEncoderConfig)
    encoder = AudioEncoder(config)
    fill(encoder, {key: tensor.float() for key, tensor in state.items()}, path / "model.safetensors")
    return encoder.eval()


def _from_run(run: Path) -> AudioEncoder:
    """Read the newest checkpoint of a run that has not been exported yet."""
    newest = newest_checkpoint(run)
    if newest is None or not (newest / "encoder.safetensors").is_file():
        raise UserError(f"{run} is neither an exported audio encoder nor a run of pretrain/wav2clip.py")
    stored = json.loads((newest / "config.json").read_text())
    config = from_json(AudioEncoderConfig, json.dumps(stored["encoder"]), str(newest / "config.json"))
    encoder = AudioEncoder(config)
    fill(encoder, load_weights(newest / "encoder.safetensors"), newest / "encoder.safetensors")
    return encoder.eval()
