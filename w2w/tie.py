"""Tie a converter's voices to CLIP, so that words and pictures choose voices: ``python -m w2w.tie``

    python -m w2w.words.face_clip --out runs/clip
    python -m w2w.tie --converter released --towers runs/clip --data speech --out runs/words
    python -m w2w.tie --converter runs/voice/export --towers ViT-B-32 --pretrained openai --data speech

Voices of a corpus are embedded by the converter's style encoder, measured on the converter's output with
them, and described in captions; columns ``gender`` and ``age`` of a manifest are used if present. CLIP is
frozen. By default the tie is written to ``words`` in the converter's folder, where
``Converter.from_pretrained`` and ``python -m w2w.convert --text`` find it.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.manifest import Row
from data.rows import split_rows
from data.voice_captions import fit_scale
from engine.arguments import Arguments
from engine.user_error import UserError, exits_cleanly
from pretrain.clip.towers import Towers, TowersConfig, open_towers
from w2w.converter import Converter
from w2w.weights import weights_folder
from w2w.words.fitting import FittingConfig, captions_for, embedded, fit_words, remembered
from w2w.words.known_voices import (
    CHILDREN,
    KnownVoices,
    as_spoken,
    between,
    embed_recordings,
    joined,
    probes_from,
    speaker_of,
)
from w2w.words.network import WordsConfig, WordsNetwork
from w2w.words.tied import FOLDER, Tie, voices_key

HELD_OUT = 0.15
"""Fraction of the speakers that are used for early stopping only."""
FEWEST = 8
"""Minimum number of training voices."""
MOST_OF_ONE = 6
"""Maximum number of recordings per speaker; more add little information."""


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    parser = Arguments.described_by("w2w.tie", __doc__)
    option = parser.add_argument
    converter = "exported converter (default: the released)"
    option("--converter", default="released", metavar="FOLDER", help=converter)
    towers = "folder with open_clip_config.json, or open_clip's name"
    option("--towers", required=True, metavar="CLIP", help=towers)
    option("--pretrained", default="openai", metavar="TAG", help="weights of a named CLIP (default openai)")
    option("--data", required=True, metavar="SPEECH", help="manifest or folder of speech")
    option("--split", default="train", help="rows of the manifest to use (default train)")
    option("--out", type=Path, help="folder to write (default: words in the converter's folder)")
    option("--made", type=int, default=600, help="voices to interpolate between recorded ones (default 600)")
    option("--steps", type=int, default=400, help="training steps of each map (default 400)")
    option("--no-age-analogy", action="store_true", help="caption ages only where the manifest has them")
    option("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    if args.made < 0:
        raise UserError(f"--made {args.made} must be 0 or more")
    folder = weights_folder(args.converter)
    config = TowersConfig(name=args.towers, pretrained=args.pretrained)
    fitting = FittingConfig(steps=args.steps, analogous_age=not args.no_age_analogy, seed=args.seed)
    rows = split_rows(args.data, args.split)
    converter, towers = Converter.from_pretrained(folder), open_towers(config)
    known_voices, held = train_and_held_out(converter, rows, made=args.made, seed=args.seed)
    tie, losses = tie_to(towers, config, converter, known_voices, held, fitting)
    out = tie.save(args.out or folder / FOLDER, config)
    scores = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
    print(f"{len(known_voices.voice)} voices used, {len(held.voice)} held out ({scores}); wrote {out}")


def train_and_held_out(
    converter: Converter, rows: Sequence[Row], *, made: int, seed: int = 0
) -> tuple[KnownVoices, KnownVoices]:
    """Training and held-out voices, of disjoint speakers, measured on the converter's output with them."""
    speakers = sorted({speaker_of(row) for row in rows})
    rng = np.random.default_rng([seed, 5])
    rows = few_of_each(rows)
    held_out_speakers = set(rng.permutation(speakers)[: round(HELD_OUT * len(speakers))].tolist())
    train = [row for row in rows if speaker_of(row) not in held_out_speakers]
    held_out = [row for row in rows if speaker_of(row) in held_out_speakers]
    if not train or not held_out:
        raise UserError(f"{len(speakers)} speakers are too few to learn words from: give at least 4")
    recorded = embed_recordings(converter, train)
    probes = probes_from(converter, train, recorded)
    women = list({row.speaker: row for row in train if row.gender == "F"}.values())
    parts = [recorded, *children(converter, women)]
    if made:
        parts.append(between(recorded, made, rng))
    measured = [
        as_spoken(converter, part, probes) for part in (joined(parts), embed_recordings(converter, held_out))
    ]
    if len(measured[0].known) < FEWEST or not measured[1].known:
        raise UserError(
            "this converter's output has no voiced frames with most voices, so that words cannot be learned"
            " from it: train it for longer first"
        )
    return measured[0], measured[1]


def few_of_each(rows: Sequence[Row]) -> list[Row]:
    """The first recordings of each speaker."""
    count = Counter[str]()
    kept = []
    for row in rows:
        count[speaker_of(row)] += 1
        if count[speaker_of(row)] <= MOST_OF_ONE:
            kept.append(row)
    return kept


def children(converter: Converter, women: Sequence[Row]) -> list[KnownVoices]:
    """Stand-ins for children's voices, from one recording of each woman played at several speeds."""
    low, high = CHILDREN
    speeds = [low, (low + high) / 2, high]
    return [embed_recordings(converter, women, faster=speed) for speed in speeds if women]


def tie_to(
    towers: Towers,
    towers_config: TowersConfig,
    converter: Converter,
    known_voices: KnownVoices,
    held: KnownVoices,
    fitting: FittingConfig,
) -> tuple[Tie, dict[str, float]]:
    """Write captions, embed them and fit the maps; return the tie and its losses on the held-out voices."""
    rng = np.random.default_rng([fitting.seed, 7])
    scale = fit_scale(known_voices.measures, known_voices.gender)
    train, check = (embed(captions_for(part, scale, fitting, rng), towers) for part in (known_voices, held))
    torch.manual_seed(fitting.seed)
    network = WordsNetwork(
        WordsConfig(
            towers=towers_config,
            towers_key=towers.key,
            converter_key=voices_key(converter.network.style),
            clip_dim=towers.dim,
            voice_dim=known_voices.voice.shape[-1],
        )
    )
    memory = towers.texts(remembered(network.config.n_memory, rng)).cpu()
    losses = fit_words(network, known_voices.voice, train, held.voice, check, memory, fitting)
    return Tie(network, towers), losses


def embed(written: tuple[list[str], list[int]], towers: Towers, at_once: int = 256):
    """Embed captions in batches, with a progress bar if it takes long."""

    def texts(captions: list[str]) -> torch.Tensor:
        parts = range(0, len(captions), at_once)
        bar = tqdm(parts, desc="embedding captions", delay=2.0, leave=False, disable=None)
        return torch.cat([towers.texts(captions[start : start + at_once]) for start in bar])

    return embedded(*written, texts)


if __name__ == "__main__":
    main()
