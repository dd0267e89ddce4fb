"""Evaluation of the synthetic world's study: retrieval among combinations held out of all training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from data.synthetic.world import ATTRIBUTES, World
from engine.files import write_json
from engine.table import table as plain_table
from pretrain.clip.audio_encoder import AudioEncoder
from pretrain.clip.losses import retrieval
from pretrain.clip.towers import Towers

N_SHOWN, N_ANSWERS = 8, 5
"""Sounds in the figure, and retrieved images shown for each."""


Vectors = Float[Tensor, "n dim"]


class Study(NamedTuple):
    towers: Towers
    encoders: Mapping[str, AudioEncoder]
    """Encoders by name; the first is the distilled one, others are controls."""
    held_out: World
    """Held-out combinations, with one draw per query sound; the first draw is the gallery."""


class Gallery(NamedTuple):
    """CLIP's embeddings of one image and one caption of each held-out combination."""

    images: Vectors
    texts: Vectors


def write_report(study: Study, out: Path, cpu_seconds: Mapping[str, float], exported: Path) -> dict[str, Any]:
    """Evaluate, print a table, and write ``report.json`` and ``answers.png`` into the run's folder."""
    gallery, results = measure(study)
    seconds = {name: round(value, 1) for name, value in cpu_seconds.items()}
    seconds["total"] = round(sum(seconds.values()), 1)
    places = {"export": str(exported), "teacher": str(out / "clip")}
    report = {**results, "cpu_seconds": seconds, **places}
    write_json(out / "report.json", report)
    draw_answers(study, gallery, out / "answers.png")
    print(table(report))
    print(f"wrote {out / 'report.json'} and {out / 'answers.png'}; the encoder is {exported}")
    return report


@torch.no_grad()
def measure(study: Study) -> tuple[Gallery, dict[str, Any]]:
    """Evaluate retrieval of images and captions by every encoder, and by CLIP as a topline."""
    world = study.held_out
    first, towers = np.arange(world.n_combinations), study.towers
    gallery = Gallery(towers.images(world.pictures(first)).cpu(), towers.texts(world.captions(first)).cpu())
    other = towers.images(world.pictures(first + world.n_combinations)).cpu()
    values = world.values(first)
    clip = {
        "image_to_text": retrieval(gallery.images, gallery.texts),
        "text_to_image": retrieval(gallery.texts, gallery.images),
        "image_to_other_image": retrieval(other, gallery.images),
        "attributes_by_caption": attributes(gallery.images, gallery.texts, values),
    }
    encoders = {name: _measure(encoder, world, gallery) for name, encoder in study.encoders.items()}
    chance = {a.name: 100 / len(a.values) for a in ATTRIBUTES}
    about = {"combinations": len(first), "sounds": len(world), "chance_R@1": 100 / len(first)}
    return gallery, {**about, "chance_attributes": chance, "clip": clip, "encoders": encoders}


def _measure(encoder: AudioEncoder, world: World, gallery: Gallery) -> dict[str, Any]:
    """Return the scores of an encoder, averaged over the draws of its query sounds."""
    values = world.values(np.arange(world.n_combinations))
    draws = [
        {
            "audio_to_image": retrieval(audio, gallery.images),
            "audio_to_text": retrieval(audio, gallery.texts),
            "image_to_audio": retrieval(gallery.images, audio),
            "text_to_audio": retrieval(gallery.texts, audio),
            "attributes_by_picture": attributes(audio, gallery.images, values),
            "attributes_by_caption": attributes(audio, gallery.texts, values),
        }
        for part in np.split(world.indices, world.draws)
        for audio in [embed(encoder, world, part)]
    ]
    return {
        what: {key: float(np.mean([draw[what][key] for draw in draws])) for key in draws[0][what]}
        for what in draws[0]
    }


def embed(encoder: AudioEncoder, world: World, indices: Int[np.ndarray, "n"]) -> Vectors:
    parts = np.array_split(indices, max(1, len(indices) // 128))
    return torch.cat([encoder(world.waves(part).to(encoder.window.device)).cpu() for part in parts])


def attributes(query: Vectors, answers: Vectors, values: Int[np.ndarray, "n 5"]) -> dict[str, float]:
    """Return how often the first answer has the query's value of each attribute, in percent."""
    agree = (values[best(query, answers, 1)[:, 0]] == values).mean(0)
    return {a.name: 100 * float(share) for a, share in zip(ATTRIBUTES, agree)}


def best(query: Vectors, answers: Float[Tensor, "m dim"], count: int) -> Int[np.ndarray, "n count"]:
    cosines = F.normalize(query, dim=-1) @ F.normalize(answers, dim=-1).T
    return cosines.topk(count, dim=1).indices.numpy()


def table(report: Mapping[str, Any]) -> str:
    clip, chance = report["clip"], report["chance_attributes"]
    ways = ("audio_to_image", "audio_to_text", "image_to_audio", "text_to_audio")
    recalls, by = [], {}
    for name, scores in report["encoders"].items():
        cells = [f"{scores[way]['R@1']:.1f}" for way in ways]
        recalls.append((name, *cells, f"{scores['audio_to_image']['MRR']:.3f}"))
        by |= {f"{name}, by {way}": scores[f"attributes_by_{way}"] for way in ("picture", "caption")}
    by["CLIP, picture by caption"] = clip["attributes_by_caption"]
    shares = [
        (name, *(f"{share[a.name]:.1f} ({share[a.name] / chance[a.name]:.1f})" for a in ATTRIBUTES))
        for name, share in by.items()
    ]
    seconds = ", ".join(f"{name} {value:.0f}" for name, value in report["cpu_seconds"].items())
    return (
        f"{report['combinations']} held-out combinations, {report['sounds']} sounds; R@1 in %"
        f" (chance {report['chance_R@1']:.2f})\n"
        + plain_table(["", *(way.replace("_to_", "→") for way in ways), "MRR a→i"], recalls)
        + f"\nCLIP itself, the ceiling: image→text {clip['image_to_text']['R@1']:.1f}, text→image"
        f" {clip['text_to_image']['R@1']:.1f}, image→another image of the same"
        f" {clip['image_to_other_image']['R@1']:.1f}\n\n"
        "attributes of the first answer, right in % (times chance)\n"
        + plain_table(["", *(a.name for a in ATTRIBUTES)], shares)
        + f"\n\nprocessor seconds of this run: {seconds}"
    )


@torch.no_grad()
def draw_answers(study: Study, gallery: Gallery, path: Path) -> None:
    """Draw the spectrogram, the true image, the nearest images and the nearest caption of some sounds."""
    from matplotlib.figure import Figure

    world, encoder = study.held_out, next(iter(study.encoders.values()))
    queries = np.linspace(0, world.n_combinations - 1, N_SHOWN).astype(int)
    audio = embed(encoder, world, queries)
    pictures, captions = best(audio, gallery.images, N_ANSWERS), best(audio, gallery.texts, 1)[:, 0]
    spectrograms = encoder.spectrogram(world.waves(queries).to(encoder.window.device)).cpu()
    all_captions = world.captions(np.arange(world.n_combinations))
    figure = Figure(figsize=(1.3 * (N_ANSWERS + 2), 1.6 * N_SHOWN))
    axes = figure.subplots(N_SHOWN, N_ANSWERS + 2)
    for row, index in enumerate(queries):
        axes[row, 0].imshow(spectrograms[row].numpy(), origin="lower", aspect="auto")
        axes[row, 0].set_title("sound", fontsize=7)
        for column, number in enumerate([index, *pictures[row]], start=1):
            axes[row, column].imshow(world.picture(int(number)).permute(1, 2, 0).numpy())
            rank = "true picture" if column == 1 else f"answer {column - 1}" + " ✓" * int(number == index)
            axes[row, column].set_title(rank, fontsize=7)
        caption = f"caption: {all_captions[captions[row]]} {'✓' if captions[row] == index else '✗'}"
        label = axes[row, 1].set_xlabel(caption, fontsize=7, loc="left")
        label.set_in_layout(False)  # it may extend below the answers
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    figure.tight_layout(pad=0.4, h_pad=1.4)
    figure.savefig(path, dpi=100)
