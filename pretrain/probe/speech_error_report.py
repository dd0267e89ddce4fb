"""What ``speech_error`` prints and stores: a table with intervals, gains, and curves."""

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from pretrain.probe.results import Result, write_results
from pretrain.probe.scores import Interval, interval
from pretrain.probe.speech_error_run import Outcome, Scored


def report_errors(outcomes: Sequence[Outcome], splits: Sequence[str], units: str, out: Path) -> list[Result]:
    """Print error rates by arm and share, and store them with the curves."""
    unit = units.removesuffix("s")
    results = []
    arms, shares = list(dict.fromkeys(o.arm for o in outcomes)), sorted({o.share for o in outcomes})
    print(f"\n{unit} error rate in %, mean over seeds, with 95 % intervals over speakers")
    head = "".join(f"{arm:>24}" for arm in arms)
    print(f"{'split':<12} {'labels':>7} {'minutes':>8}{head}   gain of tuned over random")
    for split in splits:
        for share in shares:
            here = {arm: [o for o in outcomes if (o.arm, o.share) == (arm, share)] for arm in arms}
            minutes = np.mean([o.labelled_seconds for o in outcomes if o.share == share]) / 60
            cells, known = "", {"task": "speech_error", "data": split, "seeds": 0}
            for arm, runs in here.items():
                value, low, high = _rate([run.splits[split] for run in runs])
                cells += f"{f'{100 * value:.1f} [{100 * low:.1f}, {100 * high:.1f}]':>24}"
                known |= {
                    "seeds": len(runs),
                    "n": len(runs[0].splits[split].edits),
                    "saw": f"{share:g} of labels",
                }
                metric = f"{unit} error rate at {share:g}"
                results.append(Result(encoder=arm, metric=metric, value=value, low=low, high=high, **known))
            for arm in arms:
                if "random" in here and arm.endswith("tuned"):
                    value, low, high = _gain(*([r.splits[split] for r in here[a]] for a in (arm, "random")))
                    cells += f"   {100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
                    metric = f"relative gain over random at {share:g}"
                    results.append(
                        Result(encoder=arm, metric=metric, value=value, low=low, high=high, **known)
                    )
            print(f"{split:<12} {share:>7.0%} {minutes:>8.1f}{cells}")
    write_results(results, out, "speech_error")
    with (out / "curves.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["arm", "share", "seed", "step", f"{unit}_error_rate"])
        table.writerows([o.arm, o.share, o.seed, *point] for o in outcomes for point in o.curve)
    plotted = plot(outcomes, splits, unit, out / "speech_error.png")
    print(
        f"\nrows: {out}/speech_error.csv and .json, curves.csv" + (" and speech_error.png" if plotted else "")
    )
    return results


def _rate(runs: Sequence[Scored]) -> Interval:
    """Edits per unit, the mean over runs on the same utterances."""
    return interval(_ratio(runs), runs[0].speakers)


def _gain(ours: Sequence[Scored], theirs: Sequence[Scored]) -> Interval:
    """1 − our rate over theirs, on the same drawn speakers."""
    one, other = _ratio(ours), _ratio(theirs)
    return interval(lambda index: 1 - one(index) / other(index), ours[0].speakers)


def _ratio(runs: Sequence[Scored]) -> Callable[[np.ndarray], float]:
    edits = np.mean([run.edits for run in runs], axis=0)
    units = np.array(runs[0].units)
    return lambda index: float(edits[index].sum() / units[index].sum())


def plot(outcomes: Sequence[Outcome], splits: Sequence[str], unit: str, path: Path) -> bool:
    """Draw error by share of labels, and by step; False where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        print("no picture: pip install matplotlib")
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    arms, shares = list(dict.fromkeys(o.arm for o in outcomes)), sorted({o.share for o in outcomes})
    figure, axes = pyplot.subplots(1, 1 + len(shares), figsize=(4.2 * (1 + len(shares)), 3.6), squeeze=False)
    left, *others = axes[0]
    for colour, arm in enumerate(arms):
        style = {"color": f"C{colour}"}
        for split, line in zip(splits, ("-", "--", ":", "-.")):
            rates = [[100 * o.rate(split) for o in outcomes if (o.arm, o.share) == (arm, s)] for s in shares]
            middle = [float(np.mean(r)) for r in rates]
            spread = [float(np.std(r)) for r in rates]
            percent = [100 * share for share in shares]
            left.errorbar(
                percent, middle, spread, fmt=f"o{line}", label=f"{arm}, {split}", capsize=3, **style
            )
        for axis, share in zip(others, shares):
            for run in (o for o in outcomes if (o.arm, o.share) == (arm, share) and o.curve):
                axis.plot(*zip(*run.curve), label=arm if run.seed == 0 else None, **style)
            axis.set(title=f"{share:.0%} of the labels, {splits[0]}", xlabel="step")
            axis.legend(fontsize=7)
    left.set(xscale="log", xlabel="labels (%)", ylabel=f"{unit} error rate (%)", title="after training")
    left.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True
