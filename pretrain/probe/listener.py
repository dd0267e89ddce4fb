"""Embeddings of recordings: each heard once, long ones in crops."""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from data.audio import load
from engine.user_error import UserError
from pretrain.probe.embedders import Embedder

T = TypeVar("T", bound=Hashable)


class Listener:
    """Hears recordings through one embedder and remembers what it heard.

    One longer than ``crop_s`` is heard in crops of that length, the last one flush with its end, and its
    vector is the mean of theirs.
    """

    def __init__(
        self, embedder: Embedder, *, crop_s: float = 10.0, batch: int = 8, progress: bool = True
    ) -> None:
        if crop_s <= 0:
            raise UserError(f"--crop-s {crop_s} must be above 0 seconds")
        self.embedder, self.batch, self.progress = embedder, batch, progress
        self.crop_samples = max(1, round(crop_s * embedder.sample_rate))
        self._heard: dict[Any, Tensor] = {}

    def hear(
        self, items: Sequence[T], read: Callable[[T, int], Tensor] | None = None
    ) -> Float[Tensor, "items dim"]:
        """One vector an item, in the order asked for.

        Items are paths of audio files, or whatever ``read(item, sample_rate)`` returns the wave of.
        """
        read = read or load  # pyright: ignore[reportAssignmentType]
        assert read is not None
        new = [item for item in dict.fromkeys(items) if item not in self._heard]
        waiting: dict[int, list[tuple[Any, Tensor]]] = {}
        crops: dict[Any, list[Tensor]] = {item: [] for item in new}
        about = f"hearing by {self.embedder.name}"
        for item in tqdm(new, desc=about, unit="clip", delay=1.0, disable=not self.progress):
            for crop in self._crops(read(item, self.embedder.sample_rate)):
                queue = waiting.setdefault(crop.shape[-1], [])
                queue.append((item, crop))
                if len(queue) == self.batch:
                    self._embed(waiting.pop(crop.shape[-1]), crops)
        for queue in waiting.values():
            self._embed(queue, crops)
        self._heard |= {item: torch.stack(parts).mean(0) for item, parts in crops.items()}
        return torch.stack([self._heard[item] for item in items])

    def _crops(self, wave: Float[Tensor, "1 1 samples"]) -> list[Tensor]:
        length, n_samples = self.crop_samples, wave.shape[-1]
        starts = [*range(0, max(n_samples - length, 0), length), max(n_samples - length, 0)]
        return [wave[..., start : start + length] for start in starts]

    def _embed(self, queue: list[tuple[Any, Tensor]], crops: dict[Any, list[Tensor]]) -> None:
        vectors = self.embedder.embed(torch.cat([crop for _, crop in queue]))
        for (item, _), vector in zip(queue, vectors, strict=True):
            if not torch.isfinite(vector).all():
                raise UserError(f"{item}: the encoder {self.embedder.name} gives no finite embedding of it")
            crops[item].append(vector)
