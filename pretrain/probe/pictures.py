"""Draw what is heard: ``python -m pretrain.probe pictures --encoder RUN --data world|SCENES --how HOW``.

HOW:
  optimised   a picture is changed until CLIP's image tower sees the sound's embedding in it; any towers
  generator   a small generator draws from CLIP's image embeddings; trained here in some minutes on the
              training pictures (or given: --generator FOLDER), led to by a linear map from sound to picture
  diffusion   a published unCLIP pipeline of diffusers, such as Karlo (--weights FOLDER), by the same map

Each test sound is drawn once. Scored is whether CLIP finds the right one of all test pictures by the drawing,
and in the world also which attributes a judge that is no CLIP reads off it. Beside the encoders stand one of
random weights, drawings of what was seen instead of heard, and the pictures themselves; all in a grid,
OUT/pictures_HOW.png.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from data.synthetic.world import World
from data.synthetic.world_scenes import ATTRIBUTES
from engine.files import atomic
from engine.user_error import UserError
from pretrain.clip.ranking import ranks
from pretrain.clip.towers import Towers
from pretrain.probe.embedders import Embedder, open_embedders
from pretrain.probe.options import device_of, probe_arguments
from pretrain.probe.own_towers import towers_for
from pretrain.probe.pictures_data import Pairs, fit_bridge, heard_by, scene_pairs, world_pairs
from pretrain.probe.pictures_diffusion import diffuse, open_unclip
from pretrain.probe.pictures_generator import (
    GeneratorConfig,
    PictureGenerator,
    fit_generator,
    load_generator,
    save_generator,
)
from pretrain.probe.pictures_judge import AttributeJudge, fit_judge
from pretrain.probe.pictures_optimised import DreamConfig, dream
from pretrain.probe.results import Result, report, results_of
from pretrain.probe.scores import Interval, mean_interval

WAYS = ("optimised", "generator", "diffusion")
GRID = 12
"""Test sounds in the grid."""
SEEN, ITSELF = "what was seen", "the picture"
"""Columns beside the encoders."""

Draw = Callable[[Float[Tensor, "n dim"]], UInt8[Tensor, "n 3 height width"]]


def picture_scores(
    drawn: UInt8[Tensor, "n 3 height width"],
    test: Pairs,
    towers: Towers,
    judge: AttributeJudge | None,
) -> dict[str, Interval]:
    """Where the right test picture stands by CLIP, and what the judge reads off a drawing."""
    places = ranks(towers.images(drawn).cpu(), test.images).numpy()
    scores = {f"R@{k}": mean_interval((places <= k).astype(float), test.names) for k in (1, 10)}
    scores["MRR"] = mean_interval(1 / places, test.names)
    if judge is not None and test.values is not None:
        right = judge.values(drawn).numpy() == test.values
        for number, attribute in enumerate(ATTRIBUTES):
            scores[f"judged {attribute.name}"] = mean_interval(right[:, number].astype(float), test.names)
    return scores


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Draw, score and show."""
    words = _words(argv)
    device = device_of(words.device)
    names = words.encoder or ["released"]
    towers = towers_for(names, words.towers, words.pretrained).to(device)
    if not words.no_random and not any(name.startswith("random") for name in names):
        names = [*names, "random"]
    embedders = open_embedders(names, device=device)
    for embedder in embedders:
        if embedder.dim != towers.dim:
            raise UserError(
                f"{embedder.name} gives {embedder.dim} numbers and the towers {towers.dim}: give the towers"
                " that it was distilled from (--towers FOLDER)"
            )
    count = words.count or (64 if words.how != "generator" else None)
    judge = None
    if words.data == "world":
        train_world, test = World(0, "train", draws=3), world_pairs(World(0, "held_out"), towers, count)
        judge = None if words.no_judge else fit_judge(train_world, train_world.pictures(train_world.indices))
        other = World(0, "held_out", draws=2)
        again = other.pictures(_same(other, test))
    else:
        train_world = None
        test = scene_pairs(words.data, words.split or None, towers, embedders[0].sample_rate, count)
        again = test.pictures
    train = None if words.how == "optimised" else _train_pairs(words, train_world, towers, embedders[0])
    draw = _drawer(words, towers, train_world, train)
    drawings: dict[str, Tensor] = {}
    for embedder in embedders:
        heard = heard_by(embedder, test)
        if train is not None:
            heard = fit_bridge(heard_by(embedder, train), train.images)(heard)
        drawings[embedder.name] = draw(heard)
    drawings[SEEN] = draw(towers.images(again).cpu())
    drawings[ITSELF] = again
    results = []
    for name, drawn in drawings.items():
        saw = {SEEN: "the picture's own embedding", ITSELF: "nothing: another picture of the same"}
        known = {"task": f"pictures ({words.how})", "data": Path(words.data).name, "encoder": name}
        scores = picture_scores(drawn, test, towers, judge)
        results += results_of(scores, **known, n=len(test.names), saw=saw.get(name, "the sound"))
    print(f"{len(test.names)} sounds to draw, {words.how}; chance R@1 {1 / len(test.names):.4f}")
    report(results, words.out, f"pictures_{words.how}")
    place = words.out / f"pictures_{words.how}.png"
    save_grid(place, {"true": test.pictures, **drawings}, towers)
    print(f"pictures: {place}")
    return results


def save_grid(place: Path, rows: Mapping[str, UInt8[Tensor, "n 3 height width"]], towers: Towers) -> None:
    """A line of drawings under each other for every encoder, evenly chosen."""
    from PIL import Image, ImageDraw

    n = min(GRID, min(len(row) for row in rows.values()))
    side = 96 if towers.height <= 96 else 160
    left, gap = 110, 4
    sheet = Image.new("RGB", (left + n * (side + gap), len(rows) * (side + gap)), "white")
    pen = ImageDraw.Draw(sheet)
    for line, (name, pictures) in enumerate(rows.items()):
        pen.text((4, line * (side + gap) + side // 2), name[:18], fill="black")
        chosen = np.linspace(0, len(pictures) - 1, n).round().astype(int)
        for column, index in enumerate(chosen):
            picture = Image.fromarray(pictures[index].permute(1, 2, 0).numpy()).resize((side, side))
            sheet.paste(picture, (left + column * (side + gap), line * (side + gap)))
    with atomic(place) as temporary:
        sheet.save(temporary)


def _words(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = probe_arguments("pictures", __doc__, data="world")
    parser.add_argument("--how", choices=WAYS, default="generator", help="who draws (%(default)s)")
    parser.add_argument("--towers", default="", help="open_clip model or folder (RUN/clip, else ViT-B-32)")
    parser.add_argument("--pretrained", default="openai", help="open_clip weights or a file (openai)")
    parser.add_argument("--count", type=int, default=0, help="sounds to draw (all; 64 unless generator)")
    parser.add_argument("--steps", type=int, default=0, help="of optimising, training or diffusing")
    parser.add_argument("--parametrisation", choices=("fourier", "pixels"), default="fourier")
    parser.add_argument("--generator", default="", help="folder of a trained generator")
    parser.add_argument("--weights", default="", help="folder of a diffusers pipeline")
    parser.add_argument("--split", default="test", help="scenes to draw, where --data are some (test)")
    parser.add_argument("--no-random", action="store_true", help="leave the random encoder's column out")
    parser.add_argument("--no-judge", action="store_true", help="leave the world's judge out")
    words = parser.parse_args(argv)
    if words.count < 0 or words.steps < 0:
        raise UserError(f"--count {words.count} and --steps {words.steps} must not be negative")
    if words.how == "diffusion" and not words.weights:
        raise UserError(
            "--how diffusion needs --weights FOLDER, an unCLIP pipeline of diffusers such as Karlo"
        )
    return words


def _train_pairs(words: argparse.Namespace, world: World | None, towers: Towers, embedder: Embedder) -> Pairs:
    if world is not None:
        return world_pairs(world, towers)
    return scene_pairs(words.data, "train", towers, embedder.sample_rate)


def _drawer(words: argparse.Namespace, towers: Towers, world: World | None, train: Pairs | None) -> Draw:
    match words.how:
        case "optimised":
            steps = words.steps or DreamConfig.steps
            config = DreamConfig(parametrisation=words.parametrisation, steps=steps)
            return lambda targets: dream(towers, targets, config)
        case "generator":
            return _generator(words, towers, world, train).draw
        case _:
            pipeline = open_unclip(words.weights, device_of(words.device))
            return lambda targets: diffuse(pipeline, targets, steps=words.steps or 25)


def _generator(
    words: argparse.Namespace, towers: Towers, world: World | None, train: Pairs | None
) -> PictureGenerator:
    if words.generator:
        generator = load_generator(words.generator)
        own = generator.config
        if own.dim != towers.dim or (own.teacher and own.teacher != towers.key):
            raise UserError(f"the generator {words.generator} draws from the embeddings of other towers")
        return generator
    assert train is not None
    size = GeneratorConfig.size
    pictures = train.pictures if world is None else _prepared(world, towers)
    if pictures.shape[-2:] != (size, size):
        small = torch.nn.functional.interpolate(pictures.float(), (size, size), mode="area")
        pictures = small.round().to(torch.uint8)
    embeddings = towers.images(pictures).cpu()
    config = GeneratorConfig(
        dim=towers.dim, steps=words.steps or GeneratorConfig.steps, teacher=towers.key, size=size
    )
    generator = fit_generator(pictures, embeddings, config)
    print(f"generator: {save_generator(generator, words.out / 'generator')}")
    return generator


def _prepared(world: World, towers: Towers) -> Tensor:
    return towers.prepare(world.pictures(world.indices))


def _same(world: World, test: Pairs) -> np.ndarray:
    """Second draws of the combinations that are tested."""
    assert test.values is not None
    rows = {
        tuple(row): index for index, row in enumerate(world.values(np.arange(world.n_combinations)).tolist())
    }
    return np.array([rows[tuple(row)] for row in test.values.tolist()]) + world.n_combinations
