"""Embeddings of files: each file heard once, long ones in crops."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from data.audio import load
from engine.user_error import UserError
from pretrain.probe.embedders import Embedder


class Listener:
    """Hears files through one embedder and remembers what it heard.

    A file longer than ``crop_s`` is heard in crops of that length, the last one flush with its end, and its
    vector is the mean of theirs.
    """

    def __init__(
        self, embedder: Embedder, *, crop_s: float = 10.0, batch: int = 8, progress: bool = True
    ) -> None:
        if crop_s <= 0:
            raise UserError(f"--crop-s {crop_s} must be above 0 seconds")
        self.embedder, self.batch, self.progress = embedder, batch, progress
        self.crop_samples = max(1, round(crop_s * embedder.sample_rate))
        self._heard: dict[Path, Tensor] = {}

    def hear(self, paths: Sequence[Path]) -> Float[Tensor, "files dim"]:
        """One vector a file, in the order asked for."""
        new = [path for path in dict.fromkeys(paths) if path not in self._heard]
        waiting: dict[int, list[tuple[Path, Tensor]]] = {}
        crops: dict[Path, list[Tensor]] = {path: [] for path in new}
        bar = tqdm(
            new, desc=f"hearing by {self.embedder.name}", unit="file", delay=1.0, disable=not self.progress
        )
        for path in bar:
            for crop in self._crops(load(path, self.embedder.sample_rate)):
                queue = waiting.setdefault(crop.shape[-1], [])
                queue.append((path, crop))
                if len(queue) == self.batch:
                    self._embed(waiting.pop(crop.shape[-1]), crops)
        for queue in waiting.values():
            self._embed(queue, crops)
        self._heard |= {path: torch.stack(parts).mean(0) for path, parts in crops.items()}
        return torch.stack([self._heard[path] for path in paths])

    def _crops(self, wave: Float[Tensor, "1 1 samples"]) -> list[Tensor]:
        length, n_samples = self.crop_samples, wave.shape[-1]
        starts = [*range(0, max(n_samples - length, 0), length), max(n_samples - length, 0)]
        return [wave[..., start : start + length] for start in starts]

    def _embed(self, queue: list[tuple[Path, Tensor]], crops: dict[Path, list[Tensor]]) -> None:
        vectors = self.embedder.embed(torch.cat([crop for _, crop in queue]))
        for (path, _), vector in zip(queue, vectors, strict=True):
            if not torch.isfinite(vector).all():
                raise UserError(f"{path}: the encoder {self.embedder.name} gives no finite embedding of it")
            crops[path].append(vector)
