"""Find the picture or caption of a sound, and back: ``python -m pretrain.probe cross_modal --encoder E``.

``--data`` is whatever holds sounds with pictures (videos, pairs, a manifest; data/audiovisual/scenes.py), or
``world`` for the embedded world's held-out combinations, one drawing each. Pictures and captions are embedded
by the towers (``--towers``, else those in the encoder's run), sounds by the encoder distilled from them; each
is ranked among all, so chance of R@1 is one in the number of scenes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.audio import resample
from pretrain.probe.listener import Listener
from pretrain.probe.options import listener, opened_embedders, probe_arguments
from pretrain.probe.ranking import first_right, rank_scores
from pretrain.probe.results import Result, report, results_of
from pretrain.probe.scores import mean_interval
from pretrain.probe.zero_shot import check_space, tower_arguments


class Corresponding(NamedTuple):
    """The same scenes heard, seen and told, row by row."""

    heard: Float[Tensor, "scenes dim"]
    seen: Float[Tensor, "scenes other"] | None
    said: list[str]
    """Captions; empty if a scene has none."""


def cross_scores(
    scenes: Corresponding, told: Float[Tensor, "captions dim"] | None
) -> dict[str, tuple[float, float, float]]:
    """MRR and recalls from sound to picture and caption and back, with intervals over the scenes.

    ``told`` are the vectors of the different captions, in order of appearance: each scene that
    bears a caption is right for it.
    """
    scores, n_scenes = {}, len(scenes.heard)
    ways = []
    if scenes.seen is not None:
        ways.append(("picture", scenes.seen, torch.eye(n_scenes, dtype=torch.bool)))
    if told is not None:
        different = {caption: i for i, caption in enumerate(dict.fromkeys(scenes.said))}
        right = torch.zeros(n_scenes, len(different), dtype=torch.bool)
        right[torch.arange(n_scenes), torch.tensor([different[c] for c in scenes.said])] = True
        ways.append(("caption", told, right))
    for name, vectors, right in ways:
        directions = (
            (f"sound to {name}", scenes.heard, vectors, right),
            (f"{name} to sound", vectors, scenes.heard, right.T),
        )
        for way, queries, answers, matches in directions:
            for metric, values in rank_scores(first_right(queries, answers, matches)).items():
                scores[f"{way} {metric}"] = mean_interval(
                    values.numpy(), [str(i) for i in range(len(values))]
                )
    return scores


def world_scenes(ear: Listener, towers: Any, *, seed: int = 0, draws: int = 1) -> Corresponding:
    """The embedded world's held-out combinations."""
    from data.synthetic.world import SAMPLE_RATE, World

    world = World(seed, "held_out", draws=draws)

    def read(index: int, sample_rate: int) -> Tensor:
        return resample(world.wave(index)[None], SAMPLE_RATE, sample_rate)

    parts = np.array_split(world.indices, -(-len(world) // 64))
    seen = torch.cat([towers.images(world.pictures(part)) for part in parts]).cpu()
    return Corresponding(ear.hear(list(range(len(world))), read), seen, world.captions(world.indices))


def file_scenes(ear: Listener, towers: Any, words: argparse.Namespace) -> Corresponding:
    """Scenes of files; those whose pictures cannot be used are left out."""
    from data.audiovisual.finding import scenes_from
    from data.audiovisual.scenes import wave_of
    from pretrain.clip.embedded import embedded_scenes

    scenes = scenes_from(words.data, words.layout, split=words.split or None)
    scenes, seen = embedded_scenes(scenes, towers, words.cache)
    by_name = {scene.name: scene for scene in scenes}
    heard = ear.hear(list(by_name), lambda name, rate: wave_of(by_name[name], rate))
    captions = [scene.caption or "" for scene in scenes]
    return Corresponding(heard, seen.cpu(), captions if all(captions) else [])


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Retrieve across senses by one or several encoders."""
    parser = probe_arguments("cross_modal", __doc__, data="world")
    tower_arguments(parser, "")
    parser.add_argument("--layout", default="auto", help="of the data: auto, videos, vggsound, pairs, hub")
    parser.add_argument("--split", default="", help="scenes of this split only (all)")
    parser.add_argument(
        "--cache", type=Path, default=Path("runs/embedded"), help="folder of pictures' embeddings"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the world's drawings (0)")
    words = parser.parse_args(argv)
    from pretrain.probe.own_towers import towers_for

    embedders = opened_embedders(words, ("released",))
    towers = towers_for(words.encoder or ["released"], words.towers, words.pretrained)
    results: list[Result] = []
    for embedder in embedders:
        check_space(embedder, towers)
        ear = listener(embedder, words)
        if words.data == "world":
            scenes = world_scenes(ear, towers, seed=words.seed)
        else:
            scenes = file_scenes(ear, towers, words)
        told = towers.texts(list(dict.fromkeys(scenes.said))).cpu() if scenes.said else None
        known = {"task": "cross_modal", "data": Path(words.data).name, "encoder": embedder.name}
        results += results_of(cross_scores(scenes, told), **known, n=len(scenes.heard))
    print(f"{results[0].n} scenes; towers {towers.title}")
    report(results, words.out, "cross_modal")
    return results
