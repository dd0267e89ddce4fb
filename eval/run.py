"""Score voice conversion beside toplines and trivial baselines.

Outputs that exist already:              python eval/run.py --pairs pairs.csv --out report
A converter on a corpus' test split:     python eval/run.py --converter runs/voice/export --data speech
Converters of mels in the same table:    ... --two-stage runs/cluit_mel runs/cluit_mel+griffin_lim

Without a converter and without outputs, only the toplines and baselines are scored.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config import cli
from engine.user_error import UserError, exits_cleanly
from eval.baselines import BASELINES, TOPLINES, toplines_and_baselines
from eval.cache import Cache
from eval.hearing import hear
from eval.intelligibility import Recogniser
from eval.outputs import Voices, load_converter, load_two_stage, make_outputs
from eval.pairs import MAX_PAIRS, Pair, fixed_pairs, read_pairs, write_pairs
from eval.report import table, write_report, write_rows, write_summary
from eval.scoring import FAST, METRICS, Judges, Metric, check_files, score_pairs
from eval.similarity import SpeakerVerifier


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Score voice conversion beside toplines and trivial baselines."""

    pairs: Path | None = None
    """CSV with the columns source, target, output, text, system; paths relative to it."""
    data: Path | None = None
    """Corpus from whose split the fixed list of pairs is drawn; instead of pairs."""
    split: str = "test"
    """Of the corpus."""
    max_pairs: int = MAX_PAIRS
    """Of the fixed list; fewer for a quick look."""
    converter: str | None = None
    """Folder of a trained converter to make the outputs first, or ``released``: the one of this package."""
    name: str = "converter"
    """What the converter is called in the report."""
    two_stage: tuple[str, ...] = ()
    """Converters of mels to make outputs with too: FOLDER, or FOLDER+VOCODER for another vocoder than the
    folder's own (released, griffin_lim, a vocoder's folder). They are called after their folders."""
    out: Path = Path("report")
    """Folder for rows.csv, summary.json, report.html and audio made here."""
    metrics: tuple[Metric, ...] = METRICS
    """What is scored."""
    fast: bool = False
    """Only similarity and pitch: tells within a minute or two whether a converter converts."""
    baselines: bool = True
    """Score toplines and trivial baselines too."""
    recogniser: str | None = None
    """Folder of a recogniser instead of pocketsphinx: transformers CTC or Whisper, or this project's."""
    speaker_model: str | None = None
    """Folder of a speaker verification model of transformers to use instead of Resemblyzer."""
    cache: Path | None = None
    """Folder of features kept between runs; by default in the user's cache."""
    jobs: int = 0
    """Processes; 0: one per core, up to 8."""
    examples: int = 6
    """Pairs whose audio goes into the report."""

    @property
    def makes_outputs(self) -> bool:
        """Whether any converter is at hand."""
        return bool(self.converter or self.two_stage)


@exits_cleanly
def main() -> None:
    """Make outputs, baselines and toplines, score them all, and write the report."""
    config = cli({"default": EvalConfig()})
    metrics = FAST if config.fast else config.metrics
    judges, cache = judges_of(config), Cache(config.cache)
    for judge in judges.of(metrics):
        judge.check()
    pairs = chosen_pairs(config)
    check_files(pairs, cache)

    voices = Voices(load_converter(config.converter)) if config.converter else None
    makers = {config.name: voices} if voices else {}
    taken = {config.name, *TOPLINES, *BASELINES}
    makers |= {name: Voices(made) for name, made in load_two_stage(config.two_stage, taken).items()}
    systems = pairs
    if makers or config.data:
        out = config.out / "outputs"
        systems = [made for name, maker in makers.items() for made in make_outputs(pairs, maker, out, name)]
    others = add_baselines(pairs, config, judges, cache, voices) if config.baselines or not systems else []

    scored = [*systems, *others]
    rows, summary = score_pairs(scored, metrics, judges=judges, cache=cache, jobs=config.jobs)

    about = description(pairs, metrics, judges, config)
    write_pairs(config.out / "pairs.csv", scored)
    write_rows(config.out / "rows.csv", rows)
    write_summary(config.out / "summary.json", summary, about)
    write_report(config.out / "report.html", scored, rows, summary, about, config.examples)
    print(table(summary))
    print(f"\n{config.out}: report.html, summary.json, rows.csv, pairs.csv")


def chosen_pairs(config: EvalConfig) -> list[Pair]:
    """The pairs of a CSV or the fixed list of a corpus."""
    if (config.pairs is None) == (config.data is None):
        raise UserError("give either --pairs FILE.csv or --data FOLDER")
    if config.max_pairs < 1:
        raise UserError(f"--max-pairs {config.max_pairs} must be at least 1")
    if config.data is not None:
        return fixed_pairs(config.data, config.split, max_pairs=config.max_pairs)
    assert config.pairs is not None
    pairs = read_pairs(config.pairs)
    for pair in pairs:
        if pair.system in TOPLINES or pair.system in BASELINES:
            raise UserError(f"{pair.where}: the system name {pair.system!r} is taken; call it something else")
        if pair.output is None and not config.makes_outputs:
            raise UserError(f"{pair.where} has no output; fill it in, or make outputs by --converter FOLDER")
    if config.makes_outputs:  # one output per source and target, whatever systems the file lists
        pairs = list({(pair.source, pair.target): pair for pair in pairs}.values())
    return pairs


def judges_of(config: EvalConfig) -> Judges:
    """Who judges, by the options."""
    chosen: dict[str, Any] = {}
    if config.recogniser:
        chosen["text"] = Recogniser(config.recogniser)
    if config.speaker_model:
        chosen["voice"] = SpeakerVerifier(config.speaker_model)
    return Judges(**chosen)


def add_baselines(
    pairs: list[Pair], config: EvalConfig, judges: Judges, cache: Cache, voices: Voices | None
) -> list[Pair]:
    """Toplines and baselines of the same sources and targets."""
    originals = {path for pair in pairs for path in (pair.source, pair.target)}
    wanted = [(path, [judges.melody]) for path in sorted(originals)]
    heard = hear(wanted, cache, jobs=config.jobs, title="pitch of originals")
    resynthesise = voices.resynthesise if voices else None
    return toplines_and_baselines(pairs, config.out / "outputs", cache, heard, resynthesise)


def description(
    pairs: list[Pair], metrics: tuple[Metric, ...], judges: Judges, config: EvalConfig
) -> dict[str, Any]:
    """What the figures are of."""
    return {
        "pairs": len({(pair.source, pair.target) for pair in pairs}),
        "sources": len({pair.source for pair in pairs}),
        "targets": len({pair.target for pair in pairs}),
        "judges": dict(
            zip([m for m in METRICS if m in metrics], (judge.kind for judge in judges.of(metrics)))
        ),
        "resynthesis": "the converter, with the source's own voice" if config.converter else "WORLD",
    }


if __name__ == "__main__":
    main()
