"""Logging of scalar means, audio and pictures to TensorBoard or Weights & Biases."""

import importlib.util
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from jaxtyping import Float, UInt8
from torch import Tensor

from engine.optim import Player
from engine.processes import n_processes
from engine.user_error import UserError


class Meter:
    """An accumulator of scalars on the device; only ``read`` synchronises with it."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, Tensor, int]] = {}  # sum and count of finite values, count of all
        self._steps, self._seconds, self._waited = 0, 0.0, 0.0

    def add(self, scalars: Mapping[str, Tensor | float]) -> None:
        """Add the scalars returned by one ``update``."""
        for name, value in scalars.items():
            value = torch.as_tensor(value).detach().float()
            finite = value.isfinite()
            total, good, count = self._sums.get(name, (torch.zeros_like(value), torch.zeros_like(value), 0))
            self._sums[name] = total + value.where(finite, 0.0), good + finite, count + 1

    @contextmanager
    def step(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._steps, self._seconds = self._steps + 1, self._seconds + time.perf_counter() - began

    @contextmanager
    def waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def read(self, players: Mapping[str, Player]) -> dict[str, float]:
        """Return means over all processes since the last call, each player's state, and timings.

        Non-finite values are excluded from the means; where there are any, ``spoilt/<name>`` is their share.
        """
        local = {
            name: (float(total), float(good), count) for name, (total, good, count) in self._sums.items()
        }
        shares = [local] * n_processes()
        if len(shares) > 1:
            dist.all_gather_object(shares, local)
        scalars: dict[str, float] = {}
        for name in dict.fromkeys(name for share in shares for name in share):
            parts = zip(*(share[name] for share in shares if name in share))
            total, good, count = (sum(part) for part in parts)
            scalars[name] = total / good if good else math.nan
            if good < count:
                scalars[f"spoilt/{name}"] = 1.0 - good / count
        for name, player in players.items():
            scalars |= {f"grad/{name}": float(player.grad_norm), f"lr/{name}": player.lr}
            scalars[f"skipped/{name}"] = float(player.skipped)
            if not math.isfinite(scalars[f"grad/{name}"]):
                scalars[f"spoilt/grad/{name}"] = 1.0
        scalars["time/step_seconds"] = self._seconds / max(self._steps, 1)
        scalars["time/data_share"] = self._waited / max(self._seconds, 1e-9)
        self.__init__()
        return scalars


def brief(scalars: Mapping[str, float]) -> str:
    """Format the first losses for a progress bar."""
    losses = [name for name in scalars if name.startswith("loss/")]
    return " ".join(f"{name.removeprefix('loss/')}={scalars[name]:.3g}" for name in losses[:6])


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Audio and mel spectrograms of a task, to be logged."""

    audio: Mapping[str, tuple[Tensor, int]] = field(default_factory=dict)
    """By name, a wave of any shape that holds one signal, and its sample rate in Hz."""
    mels: Mapping[str, Tensor] = field(default_factory=dict)
    """By name, a mel spectrogram ``n_mels frames``, low bands first."""


def require(tracker: str) -> None:
    """Raise before a run begins if its tracker is not installed."""
    if tracker == "wandb" and importlib.util.find_spec("wandb") is None:
        raise UserError("wandb is not installed: pip install wandb, or use --loop.trackers tensorboard")


def start_trackers(accelerator: Accelerator, tracker: str, out: Path, config_json: str, step: int) -> None:
    """Start the tracker; TensorBoard logs of an interrupted run after ``step`` are dropped."""
    if tracker == "none":
        return
    options: dict[str, Any] = {"name": out.name, "dir": str(out), "id": out.name, "resume": "allow"}
    options = {"purge_step": step + 1} if tracker == "tensorboard" else options
    accelerator.init_trackers("log", init_kwargs={tracker: options})
    if accelerator.is_main_process and tracker == "tensorboard":
        fenced = "".join(f"    {line}\n" for line in config_json.splitlines())
        writer: Any = accelerator.get_tracker("tensorboard", unwrap=True)
        writer.add_text("config", fenced, step)


def track(accelerator: Accelerator, scalars: Mapping[str, float], step: int) -> None:
    if scalars:
        accelerator.log(dict(scalars), step=step)


def track_samples(accelerator: Accelerator, samples: Samples, step: int) -> None:
    sounds = [
        (f"audio/{name}", wave.detach().float().cpu().flatten().clamp(-1, 1), rate)
        for name, (wave, rate) in samples.audio.items()
    ]
    pictures = {f"mel/{name}": mel_picture(mel) for name, mel in samples.mels.items()}
    for tracker in accelerator.trackers:
        if tracker.name == "tensorboard":
            for name, wave, rate in sounds:
                tracker.tracker.add_audio(name, wave[None], step, sample_rate=rate)
            for name, picture in pictures.items():
                tracker.tracker.add_image(name, picture, step, dataformats="CHW")
            tracker.tracker.flush()
        if tracker.name == "wandb":
            import wandb  # pyright: ignore[reportMissingImports]

            images = {name: wandb.Image(p.permute(1, 2, 0).numpy()) for name, p in pictures.items()}
            audio = {name: wandb.Audio(wave.numpy(), sample_rate=rate) for name, wave, rate in sounds}
            tracker.tracker.log(images | audio, step=step)


# The colour map magma at nine equidistant values, with linear interpolation between them.
_COLOURS = np.array(
    [
        [0, 0, 4], [28, 16, 68], [79, 18, 123], [129, 37, 129], [181, 54, 122],
        [229, 80, 100], [251, 135, 97], [254, 194, 135], [252, 253, 191],
    ]
)  # fmt: skip


def mel_picture(mel: Float[Tensor, "n_mels frames"], scale: int = 3) -> UInt8[Tensor, "3 height width"]:
    """Render a (log-)mel in RGB, scaled to its range, low bands at the bottom, ``scale`` pixels per bin."""
    values = mel.detach().float().cpu().nan_to_num(0.0).flip(0).numpy()
    low, high = float(values.min()), float(values.max())
    level = (values - low) / max(high - low, 1e-8) * (len(_COLOURS) - 1)
    places = np.arange(len(_COLOURS))
    channels = np.stack([np.interp(level, places, channel) for channel in _COLOURS.T])
    return torch.from_numpy(channels.repeat(scale, axis=1).repeat(scale, axis=2).astype(np.uint8))
