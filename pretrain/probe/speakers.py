"""Who speaks, from frozen speech features: ``python -m pretrain.probe speakers --encoder E --data D``.

A linear classifier on the mean over time of each layer learns the speakers of the ``train`` split and names
those of other utterances, of the ``validation`` split, by the same speakers. Log-mel statistics and the same
network before any training stand beside it (``--encoder logmel --encoder random``, by default).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from data.manifest import Row, rows_from
from engine.arguments import Arguments
from engine.user_error import UserError
from pretrain.probe.embedders import short_name
from pretrain.probe.options import device_of
from pretrain.probe.results import Result, report, results_of
from pretrain.probe.scores import mean_interval
from pretrain.probe.speaking import classify, layer_means, log_mel_statistics, open_speech_encoder


def main(argv: Sequence[str] | None = None) -> list[Result]:
    """Name speakers by one or several encoders."""
    parser = speech_arguments("speakers", __doc__)
    parser.add_argument("--least", type=int, default=4, help="training utterances a speaker needs (4)")
    words = parser.parse_args(argv)
    rows = [row for path in words.data for row in rows_from(path) if row.speaker]
    train, test, names = splits_by_speaker(rows, words.least)
    print(f"{len(names)} speakers, {len(train)} utterances to learn from, {len(test)} to name")
    number = {name: i for i, name in enumerate(names)}
    labels, truth = (torch.tensor([number[str(row.speaker)] for row in part]) for part in (train, test))
    results: list[Result] = []
    for name, features in heard_by(words, [row.path for row in (*train, *test)]).items():
        for layer, vectors in features.items():
            logits = classify(vectors[: len(train)], labels, vectors[len(train) :], len(names))
            right = (logits.argmax(1) == truth).float().numpy()
            score = {layer: mean_interval(right, [str(row.path) for row in test])}
            data = Path(words.data[0]).name
            results += results_of(score, task="speakers", data=data, encoder=name, n=len(test))
    print(f"accuracy (chance {1 / len(names):.3f}), with 95 % intervals over utterances")
    report(results, words.out, "speakers")
    return results


def splits_by_speaker(rows: Sequence[Row], least: int) -> tuple[list[Row], list[Row], list[str]]:
    """Return the utterances to learn from and to name, of the speakers that have enough of the first."""
    train = [row for row in rows if (row.split or "train") == "train"]
    test = [row for row in rows if row.split == "validation"]
    count: dict[str | None, int] = {}
    for row in train:
        count[row.speaker] = count.get(row.speaker, 0) + 1
    names = sorted({str(row.speaker) for row in test if count.get(row.speaker, 0) >= least})
    if len(names) < 2:
        raise UserError(
            f"fewer than two speakers have {least} utterances of split 'train' and one of 'validation': "
            "fill the columns 'speaker' and 'split', or lower --least"
        )
    return [r for r in train if r.speaker in names], [r for r in test if r.speaker in names], names


def speech_arguments(task: str, docstring: str | None) -> Arguments:
    """Options of the probes that classify utterances by a linear layer."""
    parser = Arguments.described_by(f"pretrain.probe {task}", docstring)
    add = parser.add_argument
    what = "export or run of pretrain/data2vec.py, random or logmel; repeat for columns"
    add("--encoder", action="append", default=[], metavar="NAME", help=what)
    add("--data", action="append", required=True, help="manifest or folder; repeatable")
    add("--out", type=Path, default=Path("runs/probe"), help="folder of results (runs/probe)")
    add("--longest-s", type=float, default=10.0, help="seconds heard of each utterance (10)")
    add("--device", default="auto", help="auto, cpu or cuda")
    return parser


def heard_by(words, paths: Sequence[Path]) -> dict[str, dict[str, Float[Tensor, "utterances dim"]]]:
    """Return what each encoder named by ``--encoder`` hears, layer by layer; baselines come with it."""
    wanted: list[str] = words.encoder
    given = [name for name in wanted if name not in ("random", "logmel")]
    if not given and "random" in wanted:
        raise UserError("--encoder random has the shape of another encoder: give its folder too")
    names: dict[str, None] = dict.fromkeys([*wanted, *(["random"] if given else []), "logmel"])
    heard = {}
    for name in names:
        if name == "logmel":
            heard[name] = {"statistics": log_mel_statistics(paths, longest_s=words.longest_s)}
            continue
        encoder = open_speech_encoder(name, like=given[0])
        column = name if name == "random" else short_name(Path(name.removeprefix("speech:")))
        heard[column] = layer_means(
            encoder, paths, longest_s=words.longest_s, name=column, device=device_of(words.device)
        )
    return heard
