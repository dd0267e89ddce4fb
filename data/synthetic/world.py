"""A synthetic audio-visual world, without downloads: drawn scenes, sounds and captions by attributes.

python -m data.synthetic.world worlds/shapes

writes pictures, sounds and a manifest of (sound, picture) pairs, with a caption and a label for each
attribute. In memory, ``World`` generates any scene by its index.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from tqdm import tqdm

from data.audio import save
from data.manifest import Row, write_manifest
from data.synthetic.world_pictures import N_DRAWN, draw
from data.synthetic.world_sounds import N_HEARD, SAMPLE_RATE, synthesise
from engine.arguments import Arguments
from engine.user_error import UserError, exits_cleanly

Split = Literal["train", "held_out"]
N_HELD_OUT = 345
"""Number of held-out combinations of all five attributes, of 3456."""
SPLIT_SEED = 1
"""Random seed of the held-out combinations, independent of that of pictures and sounds."""


class Attribute(NamedTuple):
    name: str
    values: tuple[str, ...]
    """Names of the values in captions."""


_SHAPES = "circle ring square triangle star cross diamond heart bar crescent arrow drop"
ATTRIBUTES = (
    Attribute("shape", tuple(_SHAPES.split())),
    Attribute("colour", ("red", "orange", "yellow", "green", "blue", "purple")),
    Attribute("size", ("small", "medium", "large")),
    Attribute("count", ("one", "two", "three", "four")),
    Attribute("background", ("plain", "striped", "dotted", "checkered")),
)
"""They are heard as timbre, pitch, length and number of the notes, and background noise."""
N_COMBINATIONS = int(np.prod([len(attribute.values) for attribute in ATTRIBUTES]))


def combinations(split: Split) -> Int[np.ndarray, "n"]:
    """Return the sorted indices of a split's combinations."""
    order = np.random.default_rng(SPLIT_SEED).permutation(N_COMBINATIONS)
    return np.sort(order[:N_HELD_OUT] if split == "held_out" else order[N_HELD_OUT:])


def values_of(combination: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n 5"]:
    sizes = [len(attribute.values) for attribute in ATTRIBUTES]
    return np.stack(np.unravel_index(combination, sizes), axis=-1)


SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "middle-sized"),
    "large": ("large", "big"),
}
GROUNDS = {
    "plain": ("plain", "bare"),
    "striped": ("striped", "lined"),
    "dotted": ("dotted", "spotted"),
    "checkered": ("checkered", "chequered"),
}
PLURALS = {"cross": "crosses"}
SENTENCES = (
    "{count} {size} {colour} {shape} on a {ground} background",
    "a picture of {count} {size} {colour} {shape} on a {ground} background",
    "{count} {colour} {shape}, {size}, on a {ground} background",
    "on a {ground} background, {count} {size} {colour} {shape}",
    "a {ground} background with {count} {size} {colour} {shape}",
    "there {are} {count} {size} {shape} in {colour} on a {ground} background",
)
"""Forms of captions; the first is the plain one."""
N_SAID = 4
"""Random numbers per caption."""


def describe(values: Int[np.ndarray, "n 5"], chance: Float[np.ndarray, "n 4"] | None = None) -> list[str]:
    """Make a caption of each scene, with words and order chosen by ``chance``, or the plain one without it.

    Every caption contains all five attributes, so that it identifies the combination.
    """
    if chance is None:
        chance = np.zeros((len(values), N_SAID))
    return [_sentence(*row) for row in zip(values.tolist(), chance.tolist())]


def _sentence(values: Sequence[int], chance: Sequence[float]) -> str:
    shape, colour, size, count, ground = (a.values[v] for a, v in zip(ATTRIBUTES, values))
    alone = count == "one"
    return _choose(SENTENCES, chance[0]).format(
        count="a single" if alone and chance[1] > 0.5 else count,
        size=_choose(SIZE_WORDS[size], chance[2]),
        colour=colour,
        shape=shape if alone else PLURALS.get(shape, f"{shape}s"),
        ground=_choose(GROUNDS[ground], chance[3]),
        are="is" if alone else "are",
    )


def _choose(options: Sequence[str], chance: float) -> str:
    return options[int(chance * len(options))]


Indices = Int[np.ndarray, "n"]


class World:
    """The scenes of one split, with ``draws`` pictures and sounds of each combination of attributes.

    Scene i is draw ``i // n_combinations`` of combination ``i % n_combinations``. A picture, sound or caption
    is a function of only ``seed``, combination and draw; indices beyond ``len(world)`` are further draws. The
    two splits share no combination.
    """

    def __init__(self, seed: int = 0, split: Split = "train", *, draws: int = 1) -> None:
        if draws < 1:
            raise UserError(f"draws={draws} must be at least 1")
        if split not in ("train", "held_out"):
            raise UserError(f"there is no split {split!r} of the world; choose train or held_out")
        self.seed, self.split, self.draws = seed, split, draws
        self.combinations = combinations(split)
        """Indices of the split's combinations among all combinations."""
        self._values = values_of(self.combinations)

    @property
    def n_combinations(self) -> int:
        return len(self.combinations)

    def __len__(self) -> int:
        return self.n_combinations * self.draws

    @property
    def indices(self) -> Indices:
        return np.arange(len(self))

    def groups(self, indices: Indices) -> Indices:
        """Return the combination of each scene, as an index within the split."""
        return indices % self.n_combinations

    def values(self, indices: Indices) -> Int[np.ndarray, "n 5"]:
        return self._values[self.groups(indices)]

    def pictures(self, indices: Indices) -> UInt8[Tensor, "n 3 height width"]:
        return torch.from_numpy(draw(self.values(indices), self._chance(indices, 0, N_DRAWN)))

    def waves(self, indices: Indices) -> Float[Tensor, "n 1 samples"]:
        return torch.from_numpy(synthesise(self.values(indices), self._chance(indices, 1, N_HEARD)))[:, None]

    def captions(self, indices: Indices, *, plain: bool = False) -> list[str]:
        chance = None if plain else self._chance(indices, 2, N_SAID)
        return describe(self.values(indices), chance)

    def picture(self, index: int) -> UInt8[Tensor, "3 height width"]:
        return self.pictures(np.array([index]))[0]

    def wave(self, index: int) -> Float[Tensor, "1 samples"]:
        return self.waves(np.array([index]))[0]

    def _chance(self, indices: Indices, sense: int, count: int) -> Float[np.ndarray, "n count"]:
        keys = np.stack([self.combinations[self.groups(indices)], indices // self.n_combinations], axis=1)
        rngs = (np.random.default_rng([self.seed, sense, *key]) for key in keys.tolist())
        return np.stack([rng.random(count) for rng in rngs])


def write(folder: Path, worlds: Sequence[World]) -> Path:
    """Write worlds as files and return the path of their manifest."""
    rows = []
    for world in worlds:
        for start in tqdm(range(0, len(world), 256), desc=world.split):
            rows += _write_some(folder, world, world.indices[start : start + 256])
    write_manifest(folder / "metadata.csv", rows)
    return folder / "metadata.csv"


def _write_some(folder: Path, world: World, indices: Indices) -> list[Row]:
    from PIL import Image

    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    rows = []
    parts = (of(indices) for of in (world.values, world.pictures, world.waves, world.captions))
    for index, values, picture, wave, caption in zip(indices, *parts):
        combination = world.combinations[index % world.n_combinations]
        name = f"{combination:04d}_{index // world.n_combinations:02d}"
        sound, image = folder / "sounds" / f"{name}.wav", folder / "pictures" / f"{name}.png"
        save(sound, wave, SAMPLE_RATE)
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(image)
        labels = {a.name: a.values[value] for a, value in zip(ATTRIBUTES, values)}
        extra = {"picture": f"pictures/{name}.png", "caption": caption, **labels}
        duration = wave.shape[-1] / SAMPLE_RATE
        rows.append(Row(path=sound, split=world.split, duration=duration, extra=extra))
    return rows


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    parser = Arguments.described_by("data.synthetic.world", __doc__)
    option = parser.add_argument
    option("out", metavar="OUT", type=Path, help="folder to write")
    option("--draws", type=int, default=1, help="scenes of each combination (%(default)s)")
    option("--seed", type=int, default=0, help="random seed of the scenes (%(default)s)")
    option("--split", choices=("train", "held_out", "all"), default="all", help="split (%(default)s)")
    given = parser.parse_args(argv)
    if (given.out / "metadata.csv").exists():
        raise UserError(f"{given.out} holds a world or other recordings already: name a new folder")
    splits: tuple[Split, ...] = ("train", "held_out") if given.split == "all" else (given.split,)
    worlds = [World(given.seed, split, draws=given.draws) for split in splits]
    manifest = write(given.out, worlds)
    print(f"wrote {manifest}: {sum(map(len, worlds))} scenes")


if __name__ == "__main__":
    main()
