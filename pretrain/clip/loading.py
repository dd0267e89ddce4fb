"""Loading of audio encoders from exports, runs and the published Wav2CLIP weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from engine.checkpoint import fill, load_network, load_weights, newest_checkpoint
from engine.config import from_json
from engine.torch_files import read_torch_file
from engine.user_error import UserError
from pretrain.clip.audio_encoder import AudioEncoder, AudioEncoderConfig

NAMES = ("wav2clip",)
RELEASED = Path(__file__).parents[1] / "released" / "wav2clip_world"
"""The packaged encoder, loaded by the path ``released``; its CLIP is in the subfolder ``clip``."""
WINDOW = "audio_encoder.spectrogram.window"
PREFIXES = {"audio_encoder.": "trunk.", "audio_transform.sequential.": "transform."}
"""Published prefixes of parameter names, and ours."""
IGNORED = ("image_transform.", "loss_fn_a.", "loss_fn_i.", "loss_fn.")
"""Prefixes of parameters that only training needs: the projection of images, and temperatures."""


def load_audio_encoder(name: str, path: Path | str) -> AudioEncoder:
    """Return an audio encoder in evaluation mode.

    ``path`` is a run of ``pretrain/wav2clip.py``, its export, or the published weights file; ``released`` is
    the packaged small encoder, trained in the synthetic world.
    """
    if name not in NAMES:
        raise UserError(f"there is no audio encoder {name!r}; choose from {', '.join(NAMES)}")
    path = RELEASED if str(path) == "released" else Path(path)
    if path.is_file():
        return from_published(read_torch_file(path), path)
    if not path.is_dir():
        raise UserError(f"there is no audio encoder at {path}: give a run, its export or a published file")
    if (path / "export" / "config.json").is_file() or (path / "model.safetensors").is_file():
        return load_network(path, AudioEncoderConfig, AudioEncoder)
    return _from_run(path)


def _from_run(run: Path) -> AudioEncoder:
    """Load the newest checkpoint of a run without an export."""
    newest = newest_checkpoint(run)
    if newest is None or not (newest / "encoder.safetensors").is_file():
        raise UserError(f"{run} is neither an exported audio encoder nor a run of pretrain/wav2clip.py")
    stored = json.loads((newest / "config.json").read_text())
    config = from_json(AudioEncoderConfig, json.dumps(stored["encoder"]), str(newest / "config.json"))
    encoder = AudioEncoder(config)
    fill(encoder, load_weights(newest / "encoder.safetensors"), newest / "encoder.safetensors")
    return encoder.eval()


def from_published(content: Mapping[str, Any], where: Path | str) -> AudioEncoder:
    """Build an encoder from the published weights or a training checkpoint of the published code.

    Its sizes are derived from the weights' shapes.
    """
    state = content.get("state_dict", content)  # Lightning's checkpoints
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{where} is not a published Wav2CLIP file: not all it contains are named tensors")
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        prefix = next((prefix for prefix in PREFIXES if name.startswith(prefix)), None)
        if prefix is not None and name != WINDOW:
            ours[PREFIXES[prefix] + name.removeprefix(prefix)] = tensor
        elif name != WINDOW and not name.startswith(IGNORED):
            raise UserError(f"{where} contains the tensor {name}, which is not in published Wav2CLIP weights")
    if "trunk.conv1.weight" not in ours:
        raise UserError(f"{where} has no audio_encoder.conv1.weight: it is not a published Wav2CLIP file")
    encoder = AudioEncoder(_config(ours, where))
    window = state.get(WINDOW)
    if window is not None and not torch.allclose(window.float(), encoder.window, atol=1e-6):
        raise UserError(f"{where}: {WINDOW} is not the Hann window of {encoder.config.n_fft} samples")
    fill(encoder, ours, where)
    return encoder.eval()


def _config(ours: Mapping[str, Shaped[Tensor, "..."]], where: Path | str) -> AudioEncoderConfig:
    blocks: list[int] = []
    while any(name.startswith(f"trunk.layer{len(blocks) + 1}.") for name in ours):
        stage = f"trunk.layer{len(blocks) + 1}."
        blocks.append(len({name.split(".")[2] for name in ours if name.startswith(stage)}))
    width = ours["trunk.conv1.weight"].shape[0]
    sizes: dict[str, Any] = {"transform": False, "dim": width * 2 ** max(len(blocks) - 1, 0)}
    if "transform.0.weight" in ours and "transform.3.weight" in ours:
        dim, hidden = ours["transform.3.weight"].shape
        sizes = {"transform": True, "dim": dim, "hidden": hidden}
    try:
        return AudioEncoderConfig(width=width, blocks=tuple(blocks), **sizes)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
