"""What each ingredient of the mel road does: arms that differ from a base in one thing, over seeds.

    python -m experiments.ablation --data speech --out runs/ingredients --seeds 0 1 --steps 1200

The road is CLUIT on mels at a size for a CPU, spoken by the released vocoder. The base arm has a memory bank,
the norm loss, the speaker label of every recording, and masks keys of a query's own speaker. The others:

- ``moco``: MoCo's queue for the memory bank;
- ``no_norm``: without the norm loss;
- ``labels_10``, ``labels_0``: the speaker is known of 10 % of the recordings, or of none;
- ``content``: with the content loss of a recogniser;
- ``no_masking``: keys of the query's own speaker are negatives, too;
- ``same_recording``, ``same_speaker``: the critic's positives are other crops of the recording, or of the
  speaker, instead of augmentations of one crop;
- ``labels_0_same_recording``: the same remedy where no speaker is known, beside ``labels_0``.

All arms of a seed begin from the same networks, which have learned to rebuild speech with its own voice and
nothing of conversion: from random weights, minutes do not suffice for both. Every finished run is kept in OUT
and never repeated; one that was cut off continues. OUT/table.md has scores on pairs of unseen speakers and
what each arm changed; OUT/ARM/SEED/curve.jsonl and OUT/*.svg show the way there.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.batches import batches, split_rows
from engine.arguments import Arguments
from engine.checkpoint import newest_checkpoint
from engine.config import differences, load_config, save_config
from engine.loop import fit
from engine.user_error import UserError, exits_cleanly
from eval.cache import Cache
from eval.pairs import MAX_PAIRS, Pair, fixed_pairs
from experiments.ablation.logging import Watched, held_out, judged, toplines
from experiments.ablation.report import pictures, read_curve, tables
from experiments.ablation.variants import ARMS, Bench, chosen, config_of, start
from w2w.baselines.cluit_mel.train import CluitMelTrainConfig, build, completed, with_its_crops
from w2w.export import export_run


def begin(config: CluitMelTrainConfig) -> None:
    """Train what the arms of a seed begin from, unless that is done."""
    newest = newest_checkpoint(config.loop.out)
    if newest is None or json.loads((newest / "progress.json").read_text())["step"] < config.loop.steps:
        crops = batches(config.data, config.loop.seed)
        config = completed(config, crops.crops)
        fit(lambda: build(config), crops, config.loop, full_config=config)


def train(config: CluitMelTrainConfig) -> float:
    """Train one run, or what is left of it; return the processor's seconds."""
    began, run = time.process_time(), config.loop.out
    config = with_its_crops(config)
    crops, looks = batches(config.data, config.loop.seed), held_out(config.data)
    config = completed(config, crops.crops)
    fit(lambda: Watched(build(config), looks, run / "curve.jsonl"), crops, config.loop, full_config=config)
    export_run(run, run / "export")
    return time.process_time() - began


def one(name: str, seed: int, bench: Bench, pairs: Sequence[Pair], cache: Cache) -> dict[str, Any]:
    """The result of one run, from its file where it is finished."""
    config = config_of(name, bench, seed)
    run = config.loop.out
    result, whose = run / "result.json", run / "arm.json"
    if whose.is_file():
        told = [field for field, *_ in differences(config, load_config(CluitMelTrainConfig, whose))]
        if told:
            raise UserError(
                f"{run} holds a run of another {told[0]}: choose another --out, or give its options"
            )
    found = json.loads(result.read_text()) if result.is_file() else None
    if found and found["pairs"] == len(pairs):
        return found
    save_config(config, whose)
    seconds = found["seconds"] if found else train(config)
    point = read_curve(run / "curve.jsonl")[-1]
    looks = {key: point[key] for key in ("cycle", "norm", "moves")}
    found = {"arm": name, "seed": seed, "steps": bench.steps, "pairs": len(pairs), "seconds": seconds}
    found |= {**looks, **judged(run, pairs, cache)}
    result.write_text(json.dumps(found, indent=2) + "\n")
    return found


def count_speakers(data: Path) -> int:
    """How many speakers the training split names; refuses data that names none."""
    n_speakers = len({row.speaker for row in split_rows(str(data), "train")} - {None})
    if n_speakers < 2:
        raise UserError(
            f"the train split of {data} names {n_speakers or 'no'} speakers: the arms compare what "
            "labels are worth, so give a manifest with a column 'speaker'"
        )
    return n_speakers


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Train, score and compare all arms."""
    parser = Arguments.described_by("experiments.ablation", __doc__)
    parser.add_argument("--data", type=Path, required=True, help="manifest with speakers, texts and splits")
    parser.add_argument("--out", type=Path, default=Path("runs/ingredients"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="one tells nothing of chance")
    parser.add_argument("--steps", type=int, default=1200, help="of every run")
    parser.add_argument("--start-steps", type=int, default=1000, help="of what all runs of a seed begin from")
    parser.add_argument("--pairs", type=int, default=MAX_PAIRS, help=f"of the fixed {MAX_PAIRS}")
    parser.add_argument("--arms", nargs="+", default=list(ARMS), metavar="ARM", help="the base always runs")
    parser.add_argument("--cache", type=Path, help="folder of the judges' features kept between runs")
    words = parser.parse_args(argv)
    arms, seeds = chosen(words.arms), list(dict.fromkeys(words.seeds))
    if min(words.steps, words.pairs) < 1 or words.pairs > MAX_PAIRS or min([*seeds, words.start_steps]) < 0:
        raise UserError(
            f"--steps and --pairs go from 1, --pairs to {MAX_PAIRS}, --seeds and --start-steps from 0"
        )
    bench = Bench(
        data=words.data,
        out=words.out,
        steps=words.steps,
        n_speakers=count_speakers(words.data),
        start_steps=words.start_steps,
    )
    listed = fixed_pairs(words.data)
    pairs = [listed[i * len(listed) // words.pairs] for i in range(words.pairs)]
    cache = Cache(words.cache)
    words.out.mkdir(parents=True, exist_ok=True)
    if len(seeds) == 1:
        print("one seed: whatever differs may be chance; give --seeds 0 1 or more")
    found: list[dict[str, Any]] = []
    against = {name: ARMS[name].against for name in arms if ARMS[name].fields}
    # Seed by seed, so that a table of all arms is there early.
    for seed in seeds:
        if bench.start_steps:
            begin(start(bench, seed))
        for name in arms:
            found.append(one(name, seed, bench, pairs, cache))
            text = tables(found, toplines(pairs, words.out, cache), against)
            (words.out / "table.md").write_text(text + "\n")
            pictures(words.out, arms, seeds)
    print(text)


if __name__ == "__main__":
    main()
