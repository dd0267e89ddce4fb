"""Images generated from sounds' embeddings.

--how:
  optimised   optimise an image until CLIP's image tower embeds it like the sound; any towers
  generator   a small generator on CLIP's image embeddings, trained within minutes on the training images and
              saved in OUT/generator; a linear map converts sounds' embeddings to images'. Of --tries
              samples, the one nearest to the sound by CLIP is used
  vqgan       optimise the codes of a published VQGAN (--weights FOLDER: taming's yaml and checkpoint, or
              diffusers' VQModel) until CLIP's image tower embeds the image like the sound; any towers
  diffusion   a published unCLIP pipeline of diffusers, such as Karlo (--weights FOLDER), with the linear map

One image is generated per test sound. Scores: retrieval by CLIP of the true image among all test images; in
the world also the attributes that a classifier, trained on the world's images without CLIP, recognises.
The baseline is an encoder with random weights; toplines are the scenes' images (in the world, another draw of
the same scene) and images generated from their embeddings. OUT/pictures_HOW.png shows all in a grid.

--audio FILE ... generates images of any recordings instead and writes OUT/pictures_HOW.html with each
recording's name, its image, and the caption that is nearest by CLIP, from the world's or from --captions FILE
(one per line). It accepts files, folders, UrbanSound8K, ESC-50 and MUSDB18 (stems and mix).
"""

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm

from data.audio.resampling import resample
from data.audiovisual.finding import scenes_from
from data.audiovisual.scenes import each_picture, wave_of
from data.synthetic.world import ATTRIBUTES, SAMPLE_RATE, World
from engine.checkpoint import export
from engine.files import read_text
from engine.user_error import UserError, at_least
from pretrain.clip.losses import ranks
from pretrain.clip.towers import Pictures, Towers
from pretrain.probe.embedders import Embedder
from pretrain.probe.harness import Probe, embedders_of, embeddings_of
from pretrain.probe.pictures_networks import (
    AttributeClassifier,
    GeneratorConfig,
    PictureGenerator,
    fit_classifier,
    fit_generator,
    fit_linear_map,
    load_generator,
)
from pretrain.probe.pictures_page import recordings, save_grid, write_page
from pretrain.probe.pictures_page import wave_of as recorded_wave
from pretrain.probe.pictures_untrained import OptimisedConfig, diffuse, open_unclip, optimise
from pretrain.probe.pictures_vqgan import open_vqgan
from pretrain.probe.results import Interval, Result, mean_interval
from pretrain.probe.texts import check_space, towers_for

WAYS = ("optimised", "generator", "vqgan", "diffusion")
FROM_PICTURE, ITSELF = "its embedding", "the picture"
"""Columns of the toplines."""
Draw = Callable[[Float[Tensor, "n dim"]], Pictures]


class Pairs(NamedTuple):
    names: list[str]
    wave: Callable[[int, int], Tensor]
    """Function that returns the i-th sound at a sample rate."""
    pictures: Pictures
    """Images, prepared for the towers."""
    images: Float[Tensor, "n dim"]
    """CLIP's image embeddings."""
    values: Int[np.ndarray, "n 5"] | None = None
    """Attributes of the world's scenes."""


def world_pairs(world: World, towers: Towers, n: int | None = None) -> Pairs:
    """Return the first draw of the world's scenes, or of ``n`` evenly chosen ones."""
    indices = _chosen(world.n_combinations, n)
    pictures, waves = towers.prepare(world.pictures(indices)), world.waves(indices)
    return Pairs(
        names=world.captions(indices, plain=True),
        wave=lambda i, rate: resample(waves[i][None], SAMPLE_RATE, rate),
        pictures=pictures,
        images=towers.images(pictures).cpu(),
        values=world.values(indices),
    )


def scene_pairs(path: str | Path, split: str | None, towers: Towers, n: int | None = None) -> Pairs:
    """Return scenes on disk with their first image, or a video's middle frame."""
    scenes = scenes_from(path, split=split)[:n]
    # With a frame rate close to 0, a video has one frame, the middle or the last one.
    first = (next(each_picture(scene, 1e-3)) for scene in tqdm(scenes, delay=2.0, disable=None))
    pictures = torch.cat([towers.prepare(picture[None]) for picture in first])
    names = [scene.caption or scene.label or scene.name for scene in scenes]
    return Pairs(names, lambda i, rate: wave_of(scenes[i], rate), pictures, towers.images(pictures).cpu())


def targets_of(
    embedder: Embedder,
    sounds: Sequence[Any],
    read: Callable[[Any, int], Tensor],
    args: argparse.Namespace,
    train: Pairs | None,
) -> Float[Tensor, "n dim"]:
    """Embed sounds and, with training pairs, map their embeddings linearly to those of images."""
    vectors = F.normalize(embeddings_of(embedder, args).of(sounds, read), dim=-1)
    if train is None:
        return vectors
    known = embeddings_of(embedder, args).of(range(len(train.names)), train.wave)
    return fit_linear_map(F.normalize(known, dim=-1), train.images)(vectors)


def picture_scores(
    drawn: Pictures, test: Pairs, towers: Towers, classifier: AttributeClassifier | None
) -> dict[str, Interval]:
    """Score retrieval of the true test images by CLIP, and attributes recognised by the classifier."""
    places = ranks(towers.images(drawn).cpu(), test.images).numpy()
    scores = {f"R@{k}": mean_interval((places <= k).astype(float), test.names) for k in (1, 10)}
    scores["MRR"] = mean_interval(1 / places, test.names)
    if classifier is not None and test.values is not None:
        right = classifier.values(drawn).numpy() == test.values
        for number, attribute in enumerate(ATTRIBUTES):
            scores[f"right {attribute.name}"] = mean_interval(right[:, number].astype(float), test.names)
    return scores


def run_pictures(args: argparse.Namespace) -> list[Result]:
    at_least(0, args, "count", "steps", prefix="--")
    at_least(1, args, "tries", prefix="--")
    if args.how in ("diffusion", "vqgan") and not args.weights:
        what = "an unCLIP pipeline of diffusers such as Karlo" if args.how == "diffusion" else "a VQGAN"
        raise UserError(f"--how {args.how} needs --weights FOLDER, {what}")
    towers = towers_for(args.encoder or ["released"], args.towers, args.pretrained).to(args.device)
    embedders = embedders_of(args, "released")
    for embedder in embedders:
        check_space(embedder, towers)
    world = World(0, "train", draws=3) if args.data == "world" else None
    if args.audio:
        return draw_recordings(args, towers, embedders, world)
    count = args.count or (64 if args.how != "generator" else None)
    classifier = None
    if world:
        held_out = World(0, "held_out")
        test = world_pairs(held_out, towers, count)
        if not args.no_judge:
            values = torch.from_numpy(world.values(world.indices))
            classifier = fit_classifier(values, world.pictures(world.indices))
        others = held_out.pictures(_chosen(held_out.n_combinations, count) + held_out.n_combinations)
    else:
        test = scene_pairs(args.data, args.split or None, towers, count)
        others = test.pictures
    draw, train = _drawer(args, towers, world)
    indices = range(len(test.names))
    drawings = {e.name: draw(targets_of(e, indices, test.wave, args, train)) for e in embedders}
    drawings[FROM_PICTURE] = draw(towers.images(others).cpu())
    drawings[ITSELF] = others
    results: list[Result] = []
    given = {FROM_PICTURE: "the picture", ITSELF: "nothing: another picture of the same"}
    for name, drawn in drawings.items():
        about = {"encoder": name, "n": len(test.names), "trained_on": given.get(name, "the sound")}
        scores = picture_scores(drawn, test, towers, classifier)
        results += args.rows(scores, task=f"pictures ({args.how})", **about)
    print(f"{len(test.names)} sounds to draw, {args.how}; chance R@1 {1 / len(test.names):.4f}")
    place = args.out / f"pictures_{args.how}.png"
    save_grid(place, {"true": test.pictures, **drawings}, towers)
    print(f"pictures: {place}")
    return results


def draw_recordings(
    args: argparse.Namespace, towers: Towers, embedders: list[Embedder], world: World | None
) -> list[Result]:
    sounds = recordings(args.audio)
    captions = world.captions(np.arange(world.n_combinations), plain=True) if world else []
    if args.captions:
        captions = [line for line in read_text(args.captions).splitlines() if line.strip()]
    texts = towers.texts(captions).cpu()
    draw, train = _drawer(args, towers, world)
    columns = []
    for embedder in embedders:
        vectors = targets_of(embedder, sounds, recorded_wave, args, train)
        nearest = [f": {captions[i]}" for i in (vectors @ texts.T).argmax(-1)] if captions else []
        labels = [embedder.name + words for words in nearest or [""] * len(sounds)]
        columns.append(list(zip(labels, draw(vectors))))
    rows = [(sound.caption, row) for sound, *row in zip(sounds, *columns)]
    page = write_page(args.out, f"pictures_{args.how}", rows)
    print(f"{len(sounds)} recordings drawn: {page}")
    return []


def _drawer(args: argparse.Namespace, towers: Towers, world: World | None) -> tuple[Draw, Pairs | None]:
    """Return the method of ``--how``, and the training pairs of methods that are trained on images."""
    match args.how:
        case "optimised":
            config = OptimisedConfig(steps=args.steps or OptimisedConfig.steps)
            return lambda targets: optimise(towers, targets, config), None
        case "vqgan":
            vqgan, side = open_vqgan(args.weights, args.device), args.side or towers.picture_size
            config = OptimisedConfig(steps=args.steps or 300, lr=0.1, smoothness=0.0, batch=4)
            canvas = partial(vqgan.canvas, side=side)
            return lambda targets: optimise(towers, targets, config, canvas=canvas), None
    train = world_pairs(world, towers) if world else scene_pairs(args.data, "train", towers)
    if args.how == "generator":
        generator = _generator(args, towers, world, train)
        return lambda targets: best_of(generator, targets, towers, args.tries), train
    pipeline = open_unclip(args.weights, args.device)
    return lambda targets: diffuse(pipeline, targets, steps=args.steps or 25), train


def best_of(
    generator: PictureGenerator, targets: Float[Tensor, "n dim"], towers: Towers, tries: int
) -> Pictures:
    """Generate ``tries`` images per target and return those whose CLIP embedding is nearest to it."""
    drawn = torch.stack([generator.draw(targets, seed=seed) for seed in range(tries)])
    cosine = torch.stack([(towers.images(one).cpu() * F.normalize(targets, dim=-1)).sum(-1) for one in drawn])
    return drawn[cosine.argmax(0), torch.arange(len(targets))]


def _generator(
    args: argparse.Namespace, towers: Towers, world: World | None, train: Pairs
) -> PictureGenerator:
    if args.generator:
        generator = load_generator(args.generator)
        trained = generator.config
        if trained.dim != towers.dim or (trained.teacher and trained.teacher != towers.key):
            raise UserError(f"the generator {args.generator} was trained on embeddings of other towers")
        return generator
    size = GeneratorConfig.size
    pictures = train.pictures if world is None else towers.prepare(world.pictures(world.indices))
    if pictures.shape[-2:] != (size, size):
        pictures = F.interpolate(pictures.float(), (size, size), mode="area").round().to(torch.uint8)
    steps = args.steps or GeneratorConfig.steps
    config = GeneratorConfig(dim=towers.dim, steps=steps, teacher=towers.key, size=size)

    def embed_image(pixels: Tensor) -> Tensor:
        return towers.embed_resized(pixels.to(towers.device)).cpu()

    generator = fit_generator(pictures, towers.images(pictures).cpu(), config, embed_image=embed_image)
    print(f"generator: {export(args.out / 'generator', config, generator)}")
    return generator


def _chosen(n_combinations: int, n: int | None) -> Int[np.ndarray, "n"]:
    """Return the indices of all combinations, or of ``n`` evenly chosen ones."""
    n = min(n or n_combinations, n_combinations)
    return np.linspace(0, n_combinations - 1, n).round().astype(int)


FILES = {"nargs": "+", "type": Path, "default": [], "metavar": "FILE"}
OPTIONS = {
    "--towers": {},
    "--pretrained": {},
    "--how": {"choices": WAYS, "default": "generator", "help": "method (%(default)s)"},
    "--count": {"type": int, "default": 0, "help": "number of sounds (all; 64 unless generator)"},
    "--steps": {"type": int, "default": 0, "help": "steps of optimisation, training or diffusion"},
    "--generator": {"default": "", "help": "folder of a trained generator"},
    "--tries": {"type": int, "default": 16, "help": "samples of a generator to choose from by CLIP (16)"},
    "--weights": {"default": "", "help": "folder of a VQGAN, or of a diffusers pipeline"},
    "--side": {"type": int, "default": 0, "help": "size of a VQGAN's images in pixels (CLIP's input size)"},
    "--audio": {**FILES, "help": "recordings to generate images of"},
    "--captions": {"type": Path, "metavar": "FILE", "help": "candidate captions for --audio, one per line"},
    "--split": {"default": "test", "help": "split of the scenes of --data (test)"},
    "--no-random": {},
    "--no-judge": {"action": "store_true", "help": "omit the classifier of the world's attributes"},
}
pictures = Probe("pictures", __doc__, run_pictures, OPTIONS, data="world")
