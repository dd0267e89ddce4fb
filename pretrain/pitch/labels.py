"""F0 labels by non-causal trackers that process whole recordings."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soxr
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from data.batches import Address
from data.manifest import contents_of_rows
from data.recordings import Recordings
from data.rows import split_rows
from engine.config import free
from engine.contents import Contents
from engine.files import atomic
from engine.user_error import UserError
from pretrain.pitch.network import PitchNetworkConfig
from pretrain.pitch.tracker import F_MAX, F_MIN

SAMPLE_RATE = 16_000
"""Sample rate, in Hz, of the labelled recordings."""
HARVEST_RATE, HARVEST_MS = 4_000, 5.0
"""Harvest's input rate in Hz and frame period in ms. F0 shows below 2 kHz: at 4 kHz Harvest takes half the
time, with no more errors."""
SURE, UNSURE, GUESSED = 1.0, 0.5, 0.1
"""Weights of a frame's F0: voiced by both trackers, voiced by Harvest only, or interpolated."""
Curves = Float[np.ndarray, "3 frames"]
"""Per frame: log-F0 (natural log of Hz), its weight and voicing, the latter two from 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class PitchDataConfig:
    """Training speech and its crops."""

    path: str = free("")
    """A manifest (.csv, .jsonl) or a folder of recordings, or several separated by commas."""
    split: str = "train"
    """Split to use; empty: all rows."""
    recordings: int = 3_000
    """Maximum number of recordings, drawn at random; labelling takes a tenth of their duration."""
    crop_frames: int = 200
    """Frames per crop."""
    batch: int = 16
    """Crops per micro-batch and process."""
    cache_gib: float = 8.0
    """Memory for decoded waves."""

    def contents(self) -> dict[str, Contents | None]:
        return {"path": contents_of_rows(split_rows(self.path, self.split) if self.path else [])}


class LabelledPitch(NamedTuple):
    wave: Float[Tensor, "batch 1 samples"]
    log_f0: Float[Tensor, "batch 1 frames"]
    """Natural log of F0 in Hz."""
    weight: Float[Tensor, "batch 1 frames"]
    """Confidence in ``log_f0``, 0 to 1."""
    voicing: Float[Tensor, "batch 1 frames"]
    """Probability of being voiced, 0 to 1."""


class PitchLabels(Dataset[LabelledPitch]):
    """Labelled crops in batches: F0 by WORLD's Harvest (Morise 2017), voicing by SwiftF0 (Nieradzik 2025).

    Harvest tracks weak frames but calls too many frames voiced; SwiftF0 is strict. Labels are computed in
    parallel on all processors and cached in the file ``store``.
    """

    def __init__(
        self, config: PitchDataConfig, network: PitchNetworkConfig, store: Path, *, progress: bool = True
    ) -> None:
        if network.sample_rate != SAMPLE_RATE:
            raise UserError(
                f"model.sample_rate={network.sample_rate} must be {SAMPLE_RATE}, the labels' rate"
            )
        rows = split_rows(config.path, config.split)
        chosen = np.random.default_rng(0).permutation(len(rows))[: config.recordings]
        options = {"sample_rate": SAMPLE_RATE, "cache_gib": config.cache_gib, "progress": progress}
        self.config, self.network = config, network
        self.recordings = Recordings([rows[index] for index in chosen], **options)
        self.n_frames = self.recordings.lengths // network.hop
        if not store.is_file():
            with atomic(store) as path:
                np.save(path, np.concatenate([*self._labelled(progress)], axis=-1))
        curves = np.load(store)
        if curves.shape[-1] != self.n_frames.sum():
            raise UserError(
                f"{store} contains labels of other recordings: remove it, or choose another --loop.out"
            )
        self.labels: list[Curves] = np.split(curves, np.cumsum(self.n_frames)[:-1], axis=-1)

    def __getitem__(self, address: Address) -> LabelledPitch:
        rng, length = np.random.default_rng(list(address)), self.config.crop_frames
        waves, labels = [], []
        for index in map(int, rng.choice(self.recordings.usable, self.config.batch)):
            first = int(rng.integers(max(1, int(self.n_frames[index]) - length + 1)))
            curves = self.labels[index][:, first : first + length]
            wave = self.recordings.read(index, first * self.network.hop, curves.shape[-1] * self.network.hop)
            # Short recordings are repeated.
            waves.append(np.resize(wave, length * self.network.hop))
            labels.append([np.resize(curve, length) for curve in curves])
        log_f0, weight, voicing = torch.from_numpy(np.stack(labels, axis=1))[:, :, None]
        return LabelledPitch(torch.from_numpy(np.stack(waves))[:, None], log_f0, weight, voicing)

    def _labelled(self, progress: bool) -> Iterator[Curves]:
        trackers()
        lengths = self.recordings.lengths
        waves = (self.recordings.read(i, 0, int(lengths[i])) for i in map(int, self.recordings.usable))
        with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            found = pool.map(partial(label, network=self.network), waves, chunksize=4)
            total = len(self.recordings.usable)
            yield from tqdm(found, desc="labelling F0", total=total, unit="recording", disable=not progress)


def label(wave: Float[np.ndarray, " samples"], network: PitchNetworkConfig) -> Curves:
    """Return one recording's labels at each frame's time."""
    pyworld, swift_f0 = trackers()
    times = np.arange(1, len(wave) // network.hop + 1) * network.hop_ms - network.look_ahead_ms
    low = soxr.resample(wave.astype(np.float64), SAMPLE_RATE, HARVEST_RATE)
    f0, places = pyworld.harvest(low, HARVEST_RATE, f0_floor=F_MIN, f0_ceil=F_MAX, frame_period=HARVEST_MS)
    strict = swift_f0.detect(wave, SAMPLE_RATE, F_MIN, F_MAX)
    voicing = np.interp(times / 1000, strict.timestamps, strict.confidence)
    known = f0 > 0
    if not known.any():
        return np.stack([np.full(len(times), 5.0), np.zeros(len(times)), voicing]).astype(np.float32)
    log_f0 = np.interp(times / 1000, places[known], np.log(f0[known]))
    voiced = np.interp(times / 1000, places, known.astype(float)) > 0.5
    weight = np.where(voiced, np.where(voicing > 0.5, SURE, UNSURE), GUESSED)
    return np.stack([log_f0, weight, voicing]).astype(np.float32)


def trackers() -> tuple[Any, Any]:
    """Return the labelling trackers, or raise an error with the command that installs them."""
    try:
        import pyworld
        from swift_f0 import SwiftF0
    except ImportError as error:
        raise UserError(f"F0 labels need {error.name}: pip install 'timbre[pitch]'") from None
    return pyworld, SwiftF0(threads=1)
