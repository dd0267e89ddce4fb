"""Toplines, and baselines that need no training, to compare every system with."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from data.audio import load
from data.audio.writing import save
from engine.files import atomic
from eval import pitch
from eval.features import Cache, Features, compute_features, content_hash
from eval.pairs import Pair

SAMPLE_RATE = pitch.SAMPLE_RATE
TOPLINES = {
    "source": "source itself",
    "target_other": "target, another utterance",
    "resynthesis": "resynthesis of the source",
}
BASELINES = {
    "copy_source": "copy the source",
    "copy_target": "copy the target",
    "world_f0": "WORLD, F0 moved",
    "world_warp": "WORLD, F0 moved, envelope warped",
}
WARPS = np.round(np.arange(0.80, 1.2501, 0.025), 3)
"""Candidate factors to stretch the spectral envelope in frequency."""
MATCHED_HZ = (200.0, 5000.0)
VERSION = "world-3"

Resynthesis = Callable[[Path, Path], None]
"""Resynthesise a file with its own voice into another file."""


def toplines_and_baselines(
    pairs: Sequence[Pair], out: Path, cache: Cache, *, jobs: int, resynthesise: Resynthesis | None = None
) -> list[Pair]:
    """Generate all toplines and baselines for each distinct pair of source and target.

    Generated files are written to ``out/<system>/``. Without a converter's ``resynthesise``, WORLD
    resynthesises the source.
    """
    melody = pitch.Pitch()
    originals = sorted({path for pair in pairs for path in (pair.source, pair.target)})
    wanted = [(path, [melody]) for path in originals]
    features = compute_features(wanted, cache, jobs=jobs, title="pitch of originals")
    distinct = list({(pair.source, pair.target): pair for pair in pairs}.values())
    # Sorted by source, so that each is analysed once.
    order = sorted(enumerate(distinct), key=lambda item: (item[1].source.as_posix(), item[0]))
    outputs: dict[int, dict[str, Path | None]] = {}
    resynthesised: dict[Path, Path] = {}
    for number, pair in tqdm(order, desc="baselines", unit="pair"):
        source, target, name = pair.source, pair.target, f"{number:03d}.wav"
        f0, target_f0 = (features[path][melody.kind]["f0"] for path in (source, target))
        voiced = f0.any() and target_f0.any()
        ratio = float(np.exp(pitch.log_mean(target_f0) - pitch.log_mean(f0))) if voiced else 1.0
        warp = best_warp(_envelope(source, f0, cache), _envelope(target, target_f0, cache))
        if source not in resynthesised:
            resynthesised[source] = out / "resynthesis" / name
            if resynthesise is None:
                _write(resynthesised[source], source, f0, 1.0, 1.0, cache)
            else:
                resynthesise(source, resynthesised[source])
        world_f0, world_warp = out / "world_f0" / name, out / "world_warp" / name
        _write(world_f0, source, f0, ratio, 1.0, cache)
        _write(world_warp, source, f0, ratio, warp, cache)
        outputs[number] = {
            "source": source,
            "target_other": pair.target_other,
            "resynthesis": resynthesised[source],
            "copy_source": source,
            "copy_target": target,
            "world_f0": world_f0,
            "world_warp": world_warp,
        }
    return [
        replace(pair, system=system, output=output)
        for system in (*TOPLINES, *BASELINES)
        for number, pair in enumerate(distinct)
        if (output := outputs[number][system])
    ]


def best_warp(source: Float[np.ndarray, "bins"], target: Float[np.ndarray, "bins"]) -> float:
    """Stretch factor that best maps the source's mean log envelope to the target's, ignoring level."""
    hz = np.linspace(0, SAMPLE_RATE / 2, len(source))
    band = (hz >= MATCHED_HZ[0]) & (hz <= MATCHED_HZ[1])

    def error(warp: float) -> float:
        return float(np.var(np.interp(hz / warp, hz, source)[band] - target[band]))

    return float(min(WARPS, key=lambda warp: (error(warp), abs(warp - 1))))


def synthesise(
    n_samples: int, f0: np.ndarray, envelope: np.ndarray, aperiodicity: np.ndarray, ratio: float, warp: float
) -> np.ndarray:
    """Resynthesise with WORLD, with F0 scaled by ``ratio`` and the envelope stretched by ``warp``."""
    if warp != 1:
        last = envelope.shape[1] - 1
        place = np.minimum(np.arange(last + 1) / warp, last)
        low = np.minimum(place.astype(int), last - 1)
        log, part = np.log(envelope), place - low
        envelope = np.ascontiguousarray(np.exp(log[:, low] * (1 - part) + log[:, low + 1] * part))
    f0 = f0.astype(np.float64) * ratio
    voice = pitch.world().synthesize(f0, envelope, aperiodicity, SAMPLE_RATE, pitch.HOP_MS)
    return np.pad(voice, (0, max(0, n_samples - len(voice))))[:n_samples]


def _write(path: Path, source: Path, f0: np.ndarray, ratio: float, warp: float, cache: Cache) -> None:
    """Write a WORLD resynthesis, from the cache if possible."""
    name = f"{content_hash(source)}-{ratio:.6f}-{warp:.3f}.wav"
    cached = cache.folder / VERSION / name[:2] / name
    if not cached.is_file():
        n_samples, envelope, aperiodicity = _analysis(source, f0.tobytes())
        wave = synthesise(n_samples, f0, envelope, aperiodicity, ratio, warp)
        save(cached, torch.from_numpy(wave).float()[None, None], SAMPLE_RATE)
    with atomic(path) as temporary:
        shutil.copyfile(cached, temporary)


def _envelope(path: Path, f0: np.ndarray, cache: Cache) -> Float[np.ndarray, "bins"]:
    """Mean log envelope over a file's voiced frames, or over all if none is voiced."""

    def compute() -> Features:
        _, envelope, _ = _analysis(path, f0.tobytes())
        return {"mean": np.log(envelope[f0 > 0] if f0.any() else envelope).mean(0)}

    return cache.remember(f"{VERSION}-envelope", content_hash(path), compute)["mean"]


@lru_cache(maxsize=2)
def _analysis(path: Path, f0: bytes) -> tuple[int, np.ndarray, np.ndarray]:
    samples = load(path, SAMPLE_RATE)[0, 0].double().numpy()
    return len(samples), *analyse(samples, np.frombuffer(f0, np.float32))


def analyse(samples: np.ndarray, f0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    f0, times = f0.astype(np.float64), np.arange(len(f0)) * pitch.HOP_MS / 1000
    world = pitch.world()
    return world.cheaptrick(samples, f0, times, SAMPLE_RATE), world.d4c(samples, f0, times, SAMPLE_RATE)
