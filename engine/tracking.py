"""What a run shows of itself: scalars, sounds and pictures, in TensorBoard or Weights & Biases."""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from jaxtyping import Float, UInt8
from torch import Tensor

from engine.user_error import UserError


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What a task lets be heard and seen."""

    audio: Mapping[str, tuple[Tensor, int]] = field(default_factory=dict)
    """Name to a wave of any shape with one signal in it, and its rate in Hz."""
    mels: Mapping[str, Tensor] = field(default_factory=dict)
    """Name to a picture, ``n_mels frames``, low bands first."""


def require(tracker: str) -> None:
    """Refuse a tracker that is not installed before a run has begun."""
    if tracker == "wandb" and importlib.util.find_spec("wandb") is None:
        raise UserError("wandb is not installed: pip install wandb, or use --loop.trackers tensorboard")


def start_trackers(accelerator: Accelerator, tracker: str, out: Path, config_json: str, step: int) -> None:
    """Open the tracker; what an interrupted run had logged after ``step`` is dropped."""
    options: dict[str, dict[str, Any]] = {
        "tensorboard": {"purge_step": step + 1},
        "wandb": {"name": out.name, "dir": str(out), "id": out.name, "resume": "allow"},
    }
    if tracker == "none":
        return
    accelerator.init_trackers("log", init_kwargs={tracker: options[tracker]})
    if accelerator.is_main_process and tracker == "tensorboard":
        fenced = "".join(f"    {line}\n" for line in config_json.splitlines())
        _writer(accelerator).add_text("config", fenced, step)


def track(accelerator: Accelerator, scalars: Mapping[str, float], step: int) -> None:
    """Log numbers."""
    if scalars:
        accelerator.log(dict(scalars), step=step)


def track_samples(accelerator: Accelerator, samples: Samples, step: int) -> None:
    """Log sounds and mel pictures."""
    audio = {
        k: (w.detach().float().cpu().reshape(1, -1).clamp(-1, 1), rate)
        for k, (w, rate) in samples.audio.items()
    }
    pictures = {name: mel_picture(mel) for name, mel in samples.mels.items()}
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            for name, (wave, rate) in audio.items():
                tracker.tracker.add_audio(f"audio/{name}", wave, step, sample_rate=rate)
            for name, picture in pictures.items():
                tracker.tracker.add_image(f"mel/{name}", picture, step, dataformats="CHW")
            tracker.tracker.flush()
        if tracker.name == "wandb":
            import wandb  # pyright: ignore[reportMissingImports]

            shown: dict[str, Any] = {
                f"mel/{n}": wandb.Image(p.permute(1, 2, 0).numpy()) for n, p in pictures.items()
            }
            shown |= {f"audio/{n}": wandb.Audio(w[0].numpy(), sample_rate=r) for n, (w, r) in audio.items()}
            tracker.tracker.log(shown, step=step)


def _writer(accelerator: Accelerator) -> Any:
    return accelerator.get_tracker("tensorboard", unwrap=True)


# Magma at nine even places; between them colours are interpolated.
_COLOURS = np.array(
    [
        [0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122],
        [229, 80, 100], [251, 135, 97], [254, 194, 135], [252, 253, 191],
    ]
)  # fmt: skip


def mel_picture(mel: Float[Tensor, "n_mels frames"], scale: int = 3) -> UInt8[Tensor, "3 height width"]:
    """Colour a (log-)mel from least to greatest value, low bands at the bottom, ``scale`` pixels a bin."""
    values = mel.detach().float().cpu().nan_to_num(0.0).flip(0).numpy()
    low, high = float(values.min()), float(values.max())
    level = (values - low) / max(high - low, 1e-8) * (len(_COLOURS) - 1)
    places = np.arange(len(_COLOURS))
    channels = np.stack([np.interp(level, places, _COLOURS[:, c]) for c in range(3)])
    return torch.from_numpy(channels.repeat(scale, axis=1).repeat(scale, axis=2).astype(np.uint8))
