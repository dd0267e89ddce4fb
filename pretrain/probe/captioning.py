"""Say in words what is heard: ``python -m pretrain.probe captioning --encoder E --data MANIFEST|world``.

A 1-layer transformer decoder learns on the frozen encoder's frames to write the captions of the split
"train"; it is scored on "test" by BLEU, ROUGE-L and CIDEr-D. A manifest has a column caption (or caption_1,
caption_2, ..., or several rows a file) and split; "world" is the audio-visual world, whose held-out
combinations are the test and where it is also counted how often a caption names each attribute rightly.
Beside the encoders stand one of random weights, the most frequent training caption, and where clips have
several captions one person's against the others'.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.synthetic.world_scenes import ATTRIBUTES
from engine.user_error import UserError
from pretrain.probe.captioning_data import Captioned, attributes_named, captioned_from, hear
from pretrain.probe.captioning_decoder import DecoderConfig, Features, fit_decoder
from pretrain.probe.captioning_scores import caption_scores, commonest_caption
from pretrain.probe.captioning_words import Vocabulary
from pretrain.probe.embedders import Embedder, open_embedders
from pretrain.probe.options import checked_seeds, device_of, probe_arguments, seed_arguments
from pretrain.probe.results import Result, report, results_of
from pretrain.probe.scores import Interval, mean_interval

N_EXAMPLES = 5
"""Test clips whose captions are printed."""


def captioning(
    embedders: Sequence[Embedder],
    clips: Sequence[Captioned],
    *,
    data: str,
    seeds: Sequence[int] = (0,),
    config: DecoderConfig | None = None,
    least_count: int = 1,
    crop_s: float = 10.0,
    batch: int = 8,
    device: str = "cpu",
    progress: bool = True,
) -> tuple[list[Result], dict[str, list[str]]]:
    """Train and score a decoder per encoder and seed, and the controls; also returns the first captions."""
    config = config or DecoderConfig()
    parts = {split: [c for c in clips if c.split == split] for split in ("train", "validation", "test")}
    captions = {split: [c.captions for c in part] for split, part in parts.items()}
    vocabulary = Vocabulary([one for some in captions["train"] for one in some], least_count=least_count)
    said: dict[str, list[list[str]]] = {}
    for embedder in embedders:
        heard = {
            split: _on(hear(embedder, part, crop_s=crop_s, batch=batch, progress=progress), device)
            for split, part in parts.items()
        }
        said[embedder.name] = [
            fit_decoder(
                (heard["train"], captions["train"]),
                (heard["validation"], captions["validation"]),
                vocabulary,
                seed=seed,
                config=config,
                progress=progress,
            ).captions(heard["test"], vocabulary)
            for seed in seeds
        ]
    test = parts["test"]
    said["commonest"] = [[commonest_caption(captions["train"])] * len(test)]
    results = []
    for name, candidates in said.items():
        known = {"task": "captioning", "data": data, "encoder": name, "n": len(test)}
        scores = _scores(candidates, test, captions["test"])
        learned = "the training captions" if name != "commonest" else "no sound"
        results += results_of(scores, **known, seeds=len(candidates), saw=learned)
    if all(len(some) > 1 for some in captions["test"]):
        first = [[some[0] for some in captions["test"]]]
        scores = _scores(first, test, [some[1:] for some in captions["test"]])
        known = {"task": "captioning", "data": data, "encoder": "a person", "n": len(test)}
        results += results_of(scores, **known, saw="the test clips, against the others' captions")
    return results, {name: candidates[0] for name, candidates in said.items()}


def _on(heard: Features, device: str) -> Features:
    return Features(*(part.to(device) for part in heard))


def _scores(
    candidates: Sequence[Sequence[str]], test: Sequence[Captioned], references: Sequence[Sequence[str]]
) -> dict[str, Interval]:
    groups = [clip.name for clip in test]
    scores = caption_scores(candidates, references, groups)
    if test and test[0].truth:
        named = np.array([[attributes_named(one) for one in some] for some in candidates], object)
        right = (named == np.array([clip.truth for clip in test], object)).astype(float).mean(0)
        for number, attribute in enumerate(ATTRIBUTES):
            scores[f"names the {attribute.name}"] = mean_interval(right[:, number], groups)
    return scores


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Train decoders and print the table."""
    parser = probe_arguments("captioning", __doc__)
    seed_arguments(parser, seeds=1)
    parser.add_argument("--epochs", type=int, default=30, help="passes over the training clips (30)")
    parser.add_argument("--beam", type=int, default=3, help="captions kept while searching (3)")
    parser.add_argument("--least-count", type=int, default=1, help="rarer words are not learned (1)")
    parser.add_argument("--draws", type=int, default=2, help="the world's scenes of a combination (2)")
    parser.add_argument("--no-random", action="store_true", help="leave the random encoder's column out")
    words = parser.parse_args(argv)
    if words.draws < 1 or words.batch < 1:
        raise UserError(f"--draws {words.draws} and --batch {words.batch} must be at least 1")
    names = words.encoder or ["logmel"]
    if not words.no_random and not any(name.startswith("random") for name in names):
        names = [*names, "random"]
    device = device_of(words.device)
    config = DecoderConfig(epochs=words.epochs, beam=words.beam)
    seeds = checked_seeds(words.seeds)
    clips = captioned_from(words.data, draws=words.draws)
    results, examples = captioning(
        open_embedders(names, device=device),
        clips,
        data=Path(words.data).name,
        seeds=seeds,
        config=config,
        least_count=words.least_count,
        crop_s=words.crop_s,
        batch=words.batch,
        device=device,
    )
    test = [clip for clip in clips if clip.split == "test"]
    counts = {split: sum(clip.split == split for clip in clips) for split in ("train", "validation", "test")}
    print(", ".join(f"{count} {split} clips" for split, count in counts.items()))
    for number in range(min(N_EXAMPLES, len(test))):
        print(f"\n{Path(test[number].name).name}: {test[number].captions[0]}")
        for name, captions in examples.items():
            print(f"  {name}: {captions[number]}")
    print()
    report(results, words.out, "captioning")
    return results
