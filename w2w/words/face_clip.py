"""Train a small CLIP that knows voices' words, on drawn faces: ``python -m w2w.words.face_clip --out CLIP``

It stands in where no published CLIP can be had: ``python -m w2w.tie --towers FOLDER`` takes either. Pictures
are drawn (``data/faces.py``) and captions written (``data/voice_captions.py``): nothing is downloaded.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from data.arguments import Arguments
from data.faces import draw_face
from data.voice_captions import HEARD, Traits, describe, some_of
from engine.loop import LoopConfig
from engine.optim import OptimConfig
from engine.user_error import UserError, exits_cleanly
from pretrain.clip.small_clip import SmallCLIP, SmallCLIPConfig, save_small_clip, train_small_clip

AGES = ("child", "young", "adult", "old")


class Portraits(NamedTuple):
    """Drawn people, what is said of each, and which sayings are one."""

    pictures: UInt8[Tensor, "n 3 size size"]
    captions: list[str]
    said: list[Traits]


def config_for(steps: int) -> SmallCLIPConfig:
    """The small CLIP's sizes and schedule."""
    optim = OptimConfig(
        lr=2e-3,
        betas=(0.9, 0.98),
        weight_decay=0.05,
        warmup_steps=max(1, steps // 10),
        schedule="cosine",
        decay_steps=max(1, steps - steps // 10),
        gradient_clip=1.0,
    )
    return SmallCLIPConfig(picture_width=12, text_width=96, vocabulary=400, batch=128, optim=optim)


def portraits(count: int, *, seed: int = 0, size: int = 64) -> Portraits:
    """Draw people of random traits; half of the faces come with a drawn voice."""
    rng = np.random.default_rng([seed, 11])
    pictures, captions, said = [], [], []
    for _ in range(count):
        traits = random_traits(rng, heard=bool(rng.random() < 0.7))
        # The picture shows everything; its caption says a part.
        pictures.append(draw_face(traits, rng, size=size))
        part = some_of(traits, rng, keep=0.6)
        captions.append(describe(part, rng))
        said.append(part)
    return Portraits(torch.stack(pictures), captions, said)


def random_traits(rng: np.random.Generator, *, heard: bool) -> Traits:
    """Draw a gender and an age, and where the voice is drawn, its levels."""
    levels = {name: int(rng.integers(-2, 3)) if heard else None for name in HEARD}
    gender = "F" if rng.random() < 0.5 else "M"
    return Traits(gender=gender, age=AGES[rng.integers(4)], **levels)


def train_face_clip(out: Path, *, count: int, steps: int, seed: int = 0) -> SmallCLIP:
    """Draw, train, and write ``out`` as a folder that ``TowersConfig(name=out)`` opens."""
    config = config_for(steps)
    people = portraits(count, seed=seed, size=config.picture_size)
    number = {traits: index for index, traits in enumerate(dict.fromkeys(people.said))}
    run = out.with_name(f"{out.name}.run")
    loop = LoopConfig(out=run, steps=steps, save_every=steps, log_every=50, seed=seed, cpu=True)
    clip = train_small_clip(
        people.pictures, people.captions, config, loop, groups=[number[traits] for traits in people.said]
    )
    save_small_clip(clip, out, half=True)
    shutil.rmtree(run, ignore_errors=True)
    return clip


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    parser = Arguments.described_by("w2w.words.face_clip", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--pictures", type=int, default=6000, help="faces to draw (default 6000)")
    parser.add_argument("--steps", type=int, default=450, help="training steps (default 450)")
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args(argv)
    if words.pictures < 8 or words.steps < 1:
        raise UserError("--pictures must be at least 8 and --steps at least 1")
    train_face_clip(words.out, count=words.pictures, steps=words.steps, seed=words.seed)
    print(f"wrote {words.out}")


if __name__ == "__main__":
    main()
