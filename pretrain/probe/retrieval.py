"""Retrieval by embeddings.

``audio_retrieval``: every clip is a query for all others, ranked by cosine similarity. Scores are the mean
average precision and recall at 1, 5 and 10 of clips with the same label (with several labels: a common one).
Nothing is trained.

``cross_modal`` retrieves the image or the caption of a sound among those of all scenes, and the reverse.
``--data`` is a data set with sounds and images (videos, pairs, a manifest; see data/audiovisual), or
``world`` for the synthetic world's held-out combinations, one scene each. Images and captions are embedded by
the towers (``--towers``, else those in the encoder's run), sounds by the encoder distilled from them. The
chance level of R@1 is 1 / number of scenes.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.audio.resampling import resample
from data.audiovisual.finding import scenes_from
from data.audiovisual.scenes import wave_of
from data.synthetic.world import SAMPLE_RATE, World
from engine.user_error import UserError
from pretrain.clip.embedded import embedded_scenes
from pretrain.clip.losses import neighbour_scores, rank_scores, ranks
from pretrain.clip.towers import Towers
from pretrain.probe.clips import clips_from, label_names, targets_of
from pretrain.probe.harness import Embeddings, Probe, embedders_of, embeddings_of, readable
from pretrain.probe.results import Interval, Result, mean_interval
from pretrain.probe.texts import check_space, towers_for


class Scenes(NamedTuple):
    """Embeddings of scenes' sounds and images, and their captions."""

    sounds: Float[Tensor, "scenes dim"]
    pictures: Float[Tensor, "scenes other"] | None
    captions: list[str]
    """Captions; empty if any scene lacks one."""


def run_audio_retrieval(args: argparse.Namespace) -> list[Result]:
    clips = [c for c in clips_from(args.data, args.label) if not args.split or c.split == args.split]
    clips = readable(clips, args)
    if len(clips) < 2:
        raise UserError(f"{args.data} has fewer than two clips of split {args.split!r}")
    groups, targets = [clip.group for clip in clips], targets_of(clips, label_names(clips))
    same = (targets @ targets.T) > 0
    # Other clips of the query's own recording are excluded, as they are too easy.
    other = torch.tensor([[a != b for b in groups] for a in groups])
    results: list[Result] = []
    for embedder in embedders_of(args):
        vectors = embeddings_of(embedder, args).of([clip.path for clip in clips])
        if args.centre:
            vectors = (vectors - vectors.mean(0)) / vectors.std(0, correction=0).clamp_min(1e-6)
        each = neighbour_scores(vectors, same, other)
        scores = {metric: mean_interval(values.numpy(), groups) for metric, values in each.items()}
        results += args.rows(scores, encoder=embedder.name, n=len(clips))
    return results


def cross_scores(scenes: Scenes, texts: Float[Tensor, "captions dim"] | None) -> dict[str, Interval]:
    """Return MRR and recall between sounds and images and between sounds and captions, in both directions.

    ``texts``: embeddings of the distinct captions in order of appearance; all scenes with a caption are
    correct answers for it.
    """
    n_scenes, targets = len(scenes.sounds), []
    if scenes.pictures is not None:
        targets.append(("picture", scenes.pictures, torch.eye(n_scenes, dtype=torch.bool)))
    if texts is not None:
        different = {caption: i for i, caption in enumerate(dict.fromkeys(scenes.captions))}
        right = torch.zeros(n_scenes, len(different), dtype=torch.bool)
        right[torch.arange(n_scenes), torch.tensor([different[c] for c in scenes.captions])] = True
        targets.append(("caption", texts, right))
    scores = {}
    for name, vectors, right in targets:
        forth, back = ranks(scenes.sounds, vectors, right), ranks(vectors, scenes.sounds, right.T)
        for direction, places in ((f"sound to {name}", forth), (f"{name} to sound", back)):
            for metric, values in rank_scores(places).items():
                groups = [str(i) for i in range(len(values))]
                scores[f"{direction} {metric}"] = mean_interval(values.numpy(), groups)
    return scores


def _world_scenes(embeddings: Embeddings, towers: Towers, seed: int) -> Scenes:
    world = World(seed, "held_out")
    parts = np.array_split(world.indices, -(-len(world) // 64))
    pictures = torch.cat([towers.images(world.pictures(part)) for part in parts]).cpu()
    sounds = embeddings.of(
        range(len(world)), lambda index, rate: resample(world.wave(index)[None], SAMPLE_RATE, rate)
    )
    return Scenes(sounds, pictures, world.captions(world.indices))


def _file_scenes(embeddings: Embeddings, towers: Towers, args: argparse.Namespace) -> Scenes:
    """Embed scenes on disk; those with unusable images are skipped."""
    scenes = scenes_from(args.data, args.layout, split=args.split or None)
    scenes, pictures = embedded_scenes(scenes, towers, args.cache)
    by_name = {scene.name: scene for scene in scenes}
    sounds = embeddings.of(list(by_name), lambda name, rate: wave_of(by_name[name], rate))
    captions = [scene.caption or "" for scene in scenes]
    return Scenes(sounds, pictures.cpu(), captions if all(captions) else [])


def run_cross_modal(args: argparse.Namespace) -> list[Result]:
    embedders = embedders_of(args, "released")
    towers = towers_for(args.encoder or ["released"], args.towers, args.pretrained)
    results: list[Result] = []
    for embedder in embedders:
        check_space(embedder, towers)
        embeddings = embeddings_of(embedder, args)
        if args.data == "world":
            scenes = _world_scenes(embeddings, towers, args.seed)
        else:
            scenes = _file_scenes(embeddings, towers, args)
        texts = towers.texts(list(dict.fromkeys(scenes.captions))).cpu() if scenes.captions else None
        results += args.rows(cross_scores(scenes, texts), encoder=embedder.name, n=len(scenes.sounds))
    print(f"{results[0].n} scenes; towers {towers.title}")
    return results


AUDIO_OPTIONS = {
    "--label": {},
    "--split": {},
    "--centre": {"action": "store_true", "help": "standardise embeddings over the clips first"},
}
CROSS_OPTIONS = {
    "--towers": {},
    "--pretrained": {},
    "--layout": {"default": "auto", "help": "layout of the data: auto, videos, vggsound, pairs, hub"},
    "--split": {"help": "scenes of this split only (all)"},
    "--cache": {"type": Path, "default": Path("runs/embedded"), "help": "cache folder of image embeddings"},
    "--seed": {"type": int, "default": 0, "help": "random seed of the world's scenes (0)"},
}
audio_retrieval = Probe("audio_retrieval", __doc__, run_audio_retrieval, AUDIO_OPTIONS)
cross_modal = Probe("cross_modal", __doc__, run_cross_modal, CROSS_OPTIONS, data="world")
