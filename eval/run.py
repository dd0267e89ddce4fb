"""Score voice conversion systems against toplines and trivial baselines.

Existing outputs:                        python eval/run.py --pairs pairs.csv --out report
A converter on a corpus's test split:    python eval/run.py --converter runs/voice/export --data speech
Mel converters in the same table:        ... --two-stage runs/cluit_mel runs/cluit_mel+griffin_lim

Without a converter and without outputs, only the toplines and baselines are scored.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import cli
from engine.files import check_writable
from engine.outcome import check_results, end, note
from engine.user_error import UserError, exits_cleanly
from eval.baselines import BASELINES, TOPLINES, toplines_and_baselines
from eval.features import Cache
from eval.outputs import Voices, load_converter, load_two_stage, make_outputs
from eval.pairs import MAX_PAIRS, Pair, fixed_pairs, read_pairs, scorable, silent_outputs, write_pairs
from eval.recognisers import recogniser
from eval.report import table, write_report, write_results
from eval.scoring import FAST, METRICS, Judges, Metric, readable_by, score_pairs


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Score voice conversion systems against toplines and trivial baselines."""

    pairs: Path | None = None
    """CSV with the columns source, target, output, text and system; paths are relative to its folder."""
    data: Path | None = None
    """Corpus from which a fixed list of pairs is drawn; alternative to ``pairs``."""
    split: str = "test"
    """Split of the corpus to draw pairs from."""
    n_pairs: int = MAX_PAIRS
    """Number of pairs, taken from the start of the fixed list."""
    converter: str | None = None
    """Folder of a trained converter that generates outputs, or ``released`` for the one of this package."""
    fit_steps: int | None = None
    """Optimisation steps to fit each voice to its references; by default as in conversion (100); 0: none."""
    name: str = "converter"
    """System name of the converter in the report."""
    two_stage: tuple[str, ...] = ()
    """Mel converters to evaluate as well: FOLDER, or FOLDER+VOCODER to replace the folder's own vocoder
    (released, griffin_lim or a vocoder's folder). Systems are named after their folders."""
    out: Path = Path("report")
    """Output folder for rows.csv, summary.json, report.html and the generated audio."""
    overwrite: bool = False
    """Replace an existing report in the output folder."""
    metrics: tuple[Metric, ...] = METRICS
    """Metrics to compute."""
    fast: bool = False
    """Compute only similarity and pitch: a check within a minute or two that a converter works."""
    baselines: bool = True
    """Also score toplines and trivial baselines."""
    recogniser: tuple[str, ...] = ("moonshine", "pocketsphinx")
    """One or more speech recognisers: moonshine, pocketsphinx, the folder of a transformers model or of a
    recogniser trained here, or hub:owner/name. The first one's CER is the column cer; trust a gain in
    intelligibility only where all recognisers agree."""
    cache: Path | None = None
    """Feature cache shared between runs; by default in the user's cache folder."""
    jobs: int = 0
    """Worker processes; 0: one per core, up to 8."""
    examples: int = 6
    """Number of pairs with audio in the report."""
    title: str = "Voice conversion: evaluation"
    """Title of the report."""
    sound_first: bool = False
    """Place the audio examples above the tables."""

    @property
    def makes_outputs(self) -> bool:
        return bool(self.converter or self.two_stage)


@exits_cleanly
def main() -> None:
    """Generate outputs, baselines and toplines, score them all and write the report."""
    config = cli({"default": EvalConfig()})
    check_writable(config.out / "pairs.csv")
    metrics = FAST if config.fast else config.metrics
    judges, cache = judges_of(config), Cache(config.cache)
    judges.check(metrics)
    check_results(config.out / "rows.csv", config.overwrite)
    pairs, left_out = scorable(chosen_pairs(config), cache)
    if not pairs:
        raise UserError(f"nothing can be scored: {left_out[0]}")

    voices = Voices(load_converter(config.converter), config.fit_steps) if config.converter else None
    systems = pairs
    if config.makes_outputs or config.data:
        outputs, failed = converted(pairs, config, voices)
        systems, unfit = scorable(outputs, cache)
        left_out += failed + unfit
        if left_out and not systems:
            raise UserError(f"nothing can be scored: {left_out[0]}")
    others = []
    if config.baselines or not systems:
        resynthesise = voices.resynthesise if voices else None
        others = toplines_and_baselines(
            pairs, config.out / "outputs", cache, jobs=config.jobs, resynthesise=resynthesise
        )

    scored = [*systems, *others]
    rows, summary = score_pairs(scored, metrics, judges=judges, cache=cache, jobs=config.jobs)

    about = description(pairs, metrics, judges, config) | {"left_out": left_out}
    write_pairs(config.out / "pairs.csv", scored)
    write_results(config.out, rows, summary, about)
    page = config.out / "report.html"
    write_report(page, scored, rows, summary, about, config.examples, config.sound_first)
    print(table(summary))
    print(f"\n{config.out}: report.html, summary.json, rows.csv, pairs.csv")
    note(*silent_outputs(systems, cache), *unreadable(pairs, metrics, judges))
    end(len(scored), left_out, "outputs scored")


def chosen_pairs(config: EvalConfig) -> list[Pair]:
    if (config.pairs is None) == (config.data is None):
        raise UserError("give either --pairs FILE.csv or --data FOLDER")
    if config.n_pairs < 1:
        raise UserError(f"--n-pairs {config.n_pairs} must be at least 1")
    if config.data is not None:
        return fixed_pairs(config.data, config.split, max_pairs=config.n_pairs)
    assert config.pairs is not None
    pairs = read_pairs(config.pairs)
    for pair in pairs:
        if pair.system in TOPLINES or pair.system in BASELINES:
            raise UserError(f"{pair.where}: the system name {pair.system!r} is reserved; choose another")
        if pair.output is None and not config.makes_outputs:
            raise UserError(f"{pair.where} has no output; fill it in, or generate it with --converter FOLDER")
    if config.makes_outputs:  # one output per (source, target), regardless of the listed systems
        pairs = list({(pair.source, pair.target): pair for pair in pairs}.values())
    return pairs


def converted(pairs: list[Pair], config: EvalConfig, voices: Voices | None) -> tuple[list[Pair], list[str]]:
    """Return the outputs of every requested converter, and an error message per failed pair."""
    makers = {config.name: voices} if voices else {}
    taken = {config.name, *TOPLINES, *BASELINES}
    makers |= {name: Voices(converter) for name, converter in load_two_stage(config.two_stage, taken).items()}
    outputs, failed = [], []
    for name, maker in makers.items():
        outputs += make_outputs(pairs, maker, config.out / "outputs", name, failed)
    return outputs, failed


def judges_of(config: EvalConfig) -> Judges:
    if not config.recogniser:
        raise UserError(
            "--recogniser needs a name; to skip intelligibility, give --metrics similarity pitch quality"
        )
    return Judges(recognisers=tuple(recogniser(name) for name in config.recogniser))


def unreadable(pairs: list[Pair], metrics: tuple[Metric, ...], judges: Judges) -> list[str]:
    """Return a note if some texts are not in Latin letters, which English-only recognisers cannot score."""
    english = [judge for judge in judges.recognisers if judge.english_only]
    n = sum(any(not readable_by(judge, pair.text) for judge in english) for pair in pairs)
    if not n or "intelligibility" not in metrics:
        return []
    names = " and ".join(judge.name for judge in english)
    return [
        f"texts not in Latin letters: {n}; {names} support only English and give no error rates "
        "for them; give a recogniser of their language with --recogniser FOLDER"
    ]


def description(
    pairs: list[Pair], metrics: tuple[Metric, ...], judges: Judges, config: EvalConfig
) -> dict[str, Any]:
    return {
        "title": config.title,
        "pairs": len({(pair.source, pair.target) for pair in pairs}),
        "sources": len({pair.source for pair in pairs}),
        "targets": len({pair.target for pair in pairs}),
        "judges": {
            metric: " and ".join(judge.kind for judge in of_metric)
            for metric, of_metric in judges.by_metric(metrics).items()
        },
        "resynthesis": "the converter, with the source's own voice" if config.converter else "WORLD",
    }


if __name__ == "__main__":
    main()
