"""Train a small CLIP on drawn faces and captions of voices: ``python -m w2w.words.face_clip --out CLIP``

It replaces a published CLIP where none is available: ``python -m w2w.tie --towers FOLDER`` accepts either.
Pictures (``data/synthetic/faces.py``) and captions (``data/voice_captions.py``) are generated; nothing is
downloaded.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from data.batches import Batches
from data.synthetic.faces import draw_face
from data.voice_captions import HEARD, Traits, describe, some_of
from engine.arguments import Arguments
from engine.checkpoint import fill, load_weights
from engine.loop import LoopConfig, fit
from engine.optim import OptimConfig
from engine.user_error import UserError, exits_cleanly
from pretrain.clip.small_clip import (
    PAD,
    PicturesAndCaptions,
    SmallCLIP,
    SmallCLIPConfig,
    SmallCLIPRun,
    SmallCLIPTraining,
    save_small_clip,
    tokens_of,
    train_tokeniser,
)

AGES = ("child", "young", "adult", "old")


class Portraits(NamedTuple):
    """Drawn faces, their captions, and the traits that each caption names."""

    pictures: UInt8[Tensor, "n 3 size size"]
    captions: list[str]
    traits_of_each: list[Traits]


def config_for(steps: int, lr: float = 2e-3) -> SmallCLIPConfig:
    """Model sizes and learning-rate schedule of the small CLIP."""
    optim = OptimConfig(
        lr=lr,
        betas=(0.9, 0.98),
        weight_decay=0.05,
        warmup_steps=max(1, steps // 10),
        schedule="cosine",
        decay_steps=max(1, steps - steps // 10),
        gradient_clip=1.0,
    )
    return SmallCLIPConfig(picture_width=12, text_width=96, vocabulary=400, batch=128, optim=optim)


def portraits(count: int, *, seed: int = 0, size: int = 64) -> Portraits:
    """Draw faces with random traits; 45 % of them also show traits of the voice."""
    rng = np.random.default_rng([seed, 11])
    pictures, captions, traits_of_each = [], [], []
    for _ in range(count):
        traits = random_traits(rng, with_voice=bool(rng.random() < 0.45))
        pictures.append(draw_face(traits, rng, size=size))
        part = some_of(traits, rng, keep=0.7)  # the caption names only a part of what the picture shows
        captions.append(describe(part, rng))
        traits_of_each.append(part)
    return Portraits(torch.stack(pictures), captions, traits_of_each)


def random_traits(rng: np.random.Generator, *, with_voice: bool) -> Traits:
    """Draw a gender and an age at random, and with ``with_voice`` the levels of the voice's traits."""
    levels = {name: int(rng.integers(-2, 3)) if with_voice else None for name in HEARD}
    gender = "F" if rng.random() < 0.5 else "M"
    return Traits(gender=gender, age=AGES[rng.integers(4)], **levels)


def train_face_clip(
    out: Path, *, count: int, steps: int, seed: int = 0, lr: float = 2e-3, init: Path | None = None
) -> SmallCLIP:
    """Draw pictures, train, and write ``out`` as a folder that ``TowersConfig(name=out)`` can open.

    ``init`` is a folder written by this function, from which training continues with new pictures.
    """
    config = config_for(steps, lr)
    people = portraits(count, seed=seed, size=config.picture_size)
    tokeniser = train_tokeniser(people.captions, config)
    if init is not None:
        tokeniser = saved_tokeniser(init, config)
    run = out.with_name(f"{out.name}.run")
    loop = LoopConfig(out=run, steps=steps, save_every=steps, log_every=50, seed=seed, cpu=True)
    # Pictures are sampled uniformly, so a batch may contain a caption twice. With captions sampled uniformly,
    # faces without traits of the voice, which have few distinct captions, would hardly be drawn.
    pairs = PicturesAndCaptions(
        people.pictures, tokens_of(tokeniser, people.captions), np.arange(count), config.batch
    )

    def build() -> SmallCLIPTraining:
        training = SmallCLIPTraining(config, tokeniser)
        if init is not None:
            weights = init / "open_clip_model.safetensors"
            state = {k: v.float() if v.is_floating_point() else v for k, v in load_weights(weights).items()}
            fill(training.clip.clip, state, weights)
        return training

    source = Batches(pairs, seed=seed, workers=0, rank=0, accumulate=1)
    training, _ = fit(build, source, loop, full_config=SmallCLIPRun(model=config, loop=loop))
    clip = training.clip.eval().requires_grad_(False)
    save_small_clip(clip, out, half=True)
    shutil.rmtree(run, ignore_errors=True)
    return clip


def saved_tokeniser(folder: Path, config: SmallCLIPConfig) -> Any:
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise UserError(f"--init {folder} has no tokenizer.json: give a folder that this command wrote")
    tokeniser = Tokenizer.from_file(str(file))
    tokeniser.enable_truncation(config.context_length)
    tokeniser.enable_padding(length=config.context_length, pad_token=PAD)
    return tokeniser


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    parser = Arguments.described_by("w2w.words.face_clip", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--pictures", type=int, default=6000, help="faces to draw (default 6000)")
    parser.add_argument("--steps", type=int, default=450, help="training steps (default 450)")
    parser.add_argument(
        "--init", type=Path, metavar="FOLDER", help="CLIP written by this command to continue from"
    )
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate (default 0.002)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.pictures < 8 or args.steps < 1:
        raise UserError("--pictures must be at least 8 and --steps at least 1")
    train_face_clip(
        args.out, count=args.pictures, steps=args.steps, seed=args.seed, lr=args.lr, init=args.init
    )
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
