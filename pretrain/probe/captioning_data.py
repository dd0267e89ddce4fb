"""Sounds with captions, from a manifest or the audio-visual world, and what encoders hear in them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from data.audio import load
from data.audio.resampling import resample
from data.audiovisual.layouts import CAPTION_COLUMNS, SPLITS
from data.manifest import Row, rows_from
from data.synthetic.world import SAMPLE_RATE, World
from data.synthetic.world_captions import GROUNDS, PLURALS, SIZES
from data.synthetic.world_scenes import ATTRIBUTES
from engine.user_error import UserError
from pretrain.probe.captioning_decoder import Features
from pretrain.probe.captioning_words import words_of
from pretrain.probe.embedders import Clip2Vec, Embedder, LogMelStatistics, Speech2Vec

MOST_FRAMES = 96
"""Frames of a clip that the decoder looks at; longer ones are averaged down to so many."""
WORLD_REFERENCES = 5
"""Captions of a world's scene, in different words."""
VALIDATION_SHARE = 10
"""One of so many training clips validates where no split is called so."""


class Captioned(NamedTuple):
    """One clip and what people say of it."""

    name: str
    wave: Callable[[int], Tensor]
    """The sound at a rate, shaped (1, 1, samples)."""
    captions: tuple[str, ...]
    split: str
    truth: tuple[int, ...] = ()
    """Attributes of the world's scenes."""


def captioned_from(data: str, *, draws: int = 2) -> list[Captioned]:
    """The clips of a manifest with captions and splits (``draws`` scenes a combination of ``world``).

    A clip may have several captions: in columns ``caption``, ``caption_1``, ... or in several rows.
    """
    clips = list(_world(draws)) if data == "world" else _from_manifest(Path(data))
    if not any(clip.split == "validation" for clip in clips):
        training = [index for index, clip in enumerate(clips) if clip.split == "train"]
        first = min(VALIDATION_SHARE, len(training)) - 1
        for index in training[max(first, 1) :: VALIDATION_SHARE]:
            clips[index] = clips[index]._replace(split="validation")
    for split in ("train", "validation", "test"):
        if not any(clip.split == split for clip in clips):
            found = ", ".join(sorted({clip.split for clip in clips}))
            raise UserError(f"{data} has no captioned clip of split {split!r} (found: {found or 'none'})")
    return clips


def _from_manifest(path: Path) -> list[Captioned]:
    found: dict[Path, Captioned] = {}
    for row in rows_from(path):
        captions = tuple(_captions(row))
        if not captions:
            continue
        before = found.get(row.path)
        split = SPLITS.get(row.split or "", row.split or "none")
        if before is not None and before.split != split:
            raise UserError(f"{path}: {row.path.name} stands in the splits {before.split} and {split}")
        every = tuple(dict.fromkeys((*(before.captions if before else ()), *captions)))
        found[row.path] = Captioned(str(row.path), _Loading(row.path), every, split)
    if not found:
        raise UserError(f"{path} has no captions: it needs a column 'caption' (or caption_1, caption_2, ...)")
    return list(found.values())


class _Loading(NamedTuple):
    path: Path

    def __call__(self, sample_rate: int) -> Tensor:
        return load(self.path, sample_rate)


def _captions(row: Row) -> Iterable[str]:
    if row.text and not any(name.startswith(CAPTION_COLUMNS) for name in row.extra):
        yield row.text
    for name in CAPTION_COLUMNS:
        if name in row.extra:
            yield row.extra[name]
    numbered = (name for name in row.extra if name.rpartition("_")[0] in CAPTION_COLUMNS)
    yield from (row.extra[name] for name in sorted(numbered) if row.extra[name])


def _world(draws: int) -> Iterable[Captioned]:
    """The held-out combinations are the test."""
    for world, ours in ((World(0, "train", draws=draws), "train"), (World(0, "held_out"), "test")):
        others = [world.captions(world.indices + n * world.n_combinations) for n in range(WORLD_REFERENCES)]
        waves, values = world.waves(world.indices), world.values(world.indices).tolist()
        for index, (*captions, wave, truth) in enumerate(zip(*others, waves, values)):
            alone = tuple(dict.fromkeys(captions))
            yield Captioned(f"{world.split} {index}", _Made(wave[None]), alone, ours, tuple(truth))


class _Made(NamedTuple):
    wave: Tensor

    def __call__(self, sample_rate: int) -> Tensor:
        return resample(self.wave, SAMPLE_RATE, sample_rate)


def hear(
    embedder: Embedder,
    clips: Sequence[Captioned],
    *,
    crop_s: float = 10.0,
    batch: int = 8,
    progress: bool = True,
) -> Features:
    """The clips' embeddings and frames; a long clip is heard in crops whose frames follow each other."""
    least = round(crop_s * embedder.sample_rate)
    if least < 1:
        raise UserError(f"--crop-s {crop_s:g} must be above 0 seconds")
    waiting: dict[int, list[tuple[int, Tensor]]] = {}
    vectors: list[list[Tensor]] = [[] for _ in clips]
    frames: list[list[Tensor]] = [[] for _ in clips]

    def listen(queue: list[tuple[int, Tensor]]) -> None:
        waves = torch.cat([wave for _, wave in queue])
        for (index, _), vector, seen in zip(queue, embedder.embed(waves), frames_of(embedder, waves)):
            vectors[index].append(vector)
            frames[index].append(seen)

    bar = tqdm(clips, desc=f"hearing by {embedder.name}", unit="clip", delay=1.0, disable=not progress)
    for index, clip in enumerate(bar):
        wave = clip.wave(embedder.sample_rate)
        n_crops = max(1, -(-wave.shape[-1] // least))
        length = -(-wave.shape[-1] // n_crops)
        for start in range(0, wave.shape[-1], length):
            begin = max(0, min(start, wave.shape[-1] - length))
            queue = waiting.setdefault(length, [])
            queue.append((index, wave[..., begin : begin + length]))
            # A clip's crops have one length, so that they stay in order.
            if len(queue) >= batch:
                listen(waiting.pop(length))
    for queue in waiting.values():
        listen(queue)
    rows = [_shortened(torch.cat(parts)) for parts in frames]
    longest = max(len(row) for row in rows)
    valid = torch.stack([torch.arange(longest) < len(row) for row in rows])
    padded = torch.stack([F.pad(row, (0, 0, 0, longest - len(row))) for row in rows])
    return Features(torch.stack([torch.stack(parts).mean(0) for parts in vectors]), padded, valid)


@torch.no_grad()
def frames_of(
    embedder: Embedder, wave: Float[Tensor, "batch 1 samples"]
) -> Float[Tensor, "batch frames channels"]:
    """What an encoder knows before it pools over time; its embedding alone where it does not tell."""
    match embedder:
        case Clip2Vec(encoder=encoder, device=device):
            return encoder.features(wave.to(device)).float().cpu().mT
        case Speech2Vec(encoder=encoder, device=device):
            return encoder(wave.to(device), None).last.float().cpu()
        case LogMelStatistics(mel=mel):
            return mel(wave).mT
        case _:
            return embedder.embed(wave)[:, None]


def _shortened(frames: Float[Tensor, "frames channels"]) -> Float[Tensor, "fewer channels"]:
    if len(frames) <= MOST_FRAMES:
        return frames
    return F.adaptive_avg_pool1d(frames.T[None], MOST_FRAMES)[0].T


def attributes_named(caption: str) -> list[Any]:
    """Which value of each of the world's attributes a caption names; None where it names none or several."""
    said = set(words_of(caption))
    named = []
    for attribute in ATTRIBUTES:
        words = [_ways(attribute.name, value) for value in attribute.values]
        found = [number for number, ways in enumerate(words) if said & ways]
        named.append(found[0] if len(found) == 1 else None)
    return named


def _ways(attribute: str, value: str) -> set[str]:
    match attribute:
        case "size":
            return {word for way in SIZES[value] for word in words_of(way)} - {"sized"}
        case "background":
            return set(GROUNDS[value])
        case "shape":
            return {value, PLURALS.get(value, f"{value}s")}
        case "count":
            return {"one", "single"} if value == "one" else {value}
        case _:
            return {value}
