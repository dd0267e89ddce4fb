"""Score vocoders by copy-synthesis: ``python -m eval.copy_synthesis --data DIR --vocoder DIR --out DIR``

Each recording of a split is resynthesised from its mel by every vocoder and by Griffin-Lim, and from F0,
envelope and aperiodicity by WORLD. The copies are compared with the original at 16 kHz. Writes table.md,
rows.csv, summary.json and the audio to the output folder.
Intervals are 95 % bootstraps over speakers, as recordings of one speaker are not independent.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

import vocoders
from data.audio import load, resample, save, unreadable
from data.frontends import NAMED, SPEECH_16K, LogMel, MelConfig, named_mel
from data.manifest import Row as Recording
from data.rows import split_rows
from engine.arguments import Arguments
from engine.files import write_json
from engine.outcome import check_results, end
from engine.table import markdown
from engine.user_error import UserError, exits_cleanly
from eval import error_rates, pitch
from eval.baselines import analyse
from eval.features import Cache, Features, Judge, compute_features
from eval.outputs import readable
from eval.quality import DNSMOS
from eval.recognisers import recogniser
from eval.report import write_rows
from eval.scoring import Row, Summary, summarise
from vocoders.griffin_lim import GriffinLim, GriffinLimConfig
from vocoders.scores.copies import has_pesq, scores

JUDGED_AT = 16_000
"""Sample rate in Hz of all scores, whatever the vocoder's rate, so that bandwidth does not affect them."""
DEFAULT_MEL = "speech16k"
ORIGINAL = "original"
COLUMNS = {
    "log_mel_l1": ("log-mel L1 ↓", 3),
    "stft_distance": ("MR-STFT ↓", 3),
    "pesq": ("PESQ ↑", 2),
    "periodicity_error": ("periodicity RMSE ↓", 3),
    "vuv_f1": ("V/UV F1 ↑", 3),
    "pitch_error": ("pitch, cents ↓", 0),
    "dnsmos": ("DNSMOS ↑", 2),
    "cer": ("CER ↓", 3),
    "real_time_factor": ("real-time factor ↓", 3),
}
"""Title and number of decimals of each score in the table."""
Wave = Float[Tensor, "1 1 samples"]


@dataclass(frozen=True)
class System:
    name: str
    mel: MelConfig
    """The vocoder's mel definition; without mels, one that has its sample rate."""
    speak: Callable[[Any], Wave]
    read: Callable[[Wave], Any]
    """Analyses a wave into the input of ``speak``."""


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    arguments = Arguments.described_by("eval.copy_synthesis", __doc__)
    option = arguments.add_argument
    option("--data", required=True, metavar="FOLDER", help="corpus, or its manifest")
    option("--split", default="test", help="split of the corpus (default: test)")
    option(
        "--vocoder", nargs="+", action="extend", default=[], metavar="NAME", help="exported folder or name"
    )
    option("--out", type=Path, default=Path("copies"), help="output folder")
    option("--n-utterances", type=int, default=0, help="number, spread over speakers (0: all)")
    option("--mel", default=DEFAULT_MEL, help=f"mel without --vocoder: {', '.join(NAMED)}")
    option("--by", default="", metavar="COLUMN", help="manifest column: adds a row for each value")
    option("--cache", type=Path, help="feature cache shared between runs")
    option("--overwrite", action="store_true", help="replace existing results in --out")
    args = arguments.parse_args(argv)
    check_results(args.out / "rows.csv", args.overwrite)
    systems = systems_of(args.vocoder, args.mel)
    left_out: list[str] = []
    recordings = spread(split_rows(args.data, args.split), args.n_utterances)
    bad = unreadable([recording.path for recording in recordings], left_out)
    recordings = [recording for recording in recordings if recording.path not in bad]
    if not recordings:
        raise UserError(left_out[0])
    rows = [row for system in systems for row in copy_all(system, recordings, args.out)]
    rows += [described(ORIGINAL, recording) | {"output": str(recording.path)} for recording in recordings]
    notes = [] if has_pesq() else ["PESQ is left out: pip install pesq"]
    notes += rate_quality(rows, args.cache)
    notes += rate_words(rows, recordings, args.cache)
    summary = summarise([*rows, *by_column(rows, recordings, args.by)], list(COLUMNS), drawn="speaker")
    write_rows(args.out / "rows.csv", rows)
    content = about(args, systems, recordings) | {"systems": summary}
    write_json(args.out / "summary.json", content)
    text = "\n".join([table(summary), *(f"\n{note}" for note in notes)])
    (args.out / "table.md").write_text(text + "\n", encoding="utf-8")
    print(f"{text}\n\n{args.out}: table.md, rows.csv, summary.json, outputs")
    end(len(recordings), left_out, "recordings copied")


def by_column(rows: Sequence[Row], recordings: Sequence[Recording], column: str) -> list[Row]:
    """Repeat the rows as systems "SYSTEM, VALUE", by the values of a column such as language or corpus."""
    if not column:
        return []
    values = {
        (r.speaker or "?", r.path.stem): r.extra.get(column) or getattr(r, column, None) for r in recordings
    }
    if not any(values.values()):
        raise UserError(f"--by {column}: no recording has such a column (try speaker, gender, corpus)")
    named = [(row, values[str(row["speaker"]), str(row["utterance"])] or "?") for row in rows]
    return [row | {"system": f"{row['system']}, {value}"} for row, value in named]


def systems_of(given: Sequence[str], mel: str) -> list[System]:
    """The vocoders, Griffin-Lim for each of their mel definitions, and WORLD if installed."""
    systems, names = [], label(given)
    for name, weights in zip(names, given):
        vocoder = vocoders.load_vocoder(weights)
        systems.append(System(name, vocoder.config.mel, vocoder, LogMel(vocoder.config.mel)))
    definitions = list(dict.fromkeys(system.mel for system in systems)) or [named_mel(mel)]
    for definition in definitions:
        readers = [system.name for system in systems if system.mel == definition]
        name = "Griffin-Lim" if len(definitions) == 1 else f"Griffin-Lim on the mel of {', '.join(readers)}"
        speak = GriffinLim(GriffinLimConfig(), definition)
        systems.append(System(name, definition, speak, LogMel(definition)))
    with suppress(UserError):
        pitch.world()
        systems.append(System("WORLD", SPEECH_16K, speak_world, read_world))
    return systems


def read_world(wave: Wave) -> tuple[np.ndarray, ...]:
    """Analyse a wave at 16 kHz into F0, envelope and aperiodicity."""
    samples = wave[0, 0].double().numpy()
    f0 = pitch.harvest(samples)
    return f0.astype(np.float64), *analyse(samples, f0)


def speak_world(parts: tuple[np.ndarray, ...]) -> Wave:
    """Synthesise a wave from the parameters of ``read_world``."""
    samples = pitch.world().synthesize(*parts, JUDGED_AT, pitch.HOP_MS)
    return torch.from_numpy(samples).float()[None, None]


def label(given: Sequence[str]) -> list[str]:
    """Names of vocoders: folders, or the runs of ``export`` folders; the given path where names repeat."""
    names = [readable(where) for where in given]
    repeated = {name for name in names if names.count(name) > 1}
    return [whole if name in repeated or not name else name for name, whole in zip(names, given)]


def spread(recordings: Sequence[Recording], n: int) -> list[Recording]:
    """Choose ``n`` recordings by cycling through the speakers; 0: all."""
    if n < 0:
        raise UserError(f"--n-utterances {n} must be at least 1, or 0 for all")
    if not n:
        return list(recordings)
    turn: dict[str | None, Iterator[int]] = defaultdict(count)
    return sorted(recordings, key=lambda recording: next(turn[recording.speaker]))[:n]


def described(system: str, recording: Recording) -> Row:
    return {"system": system, "utterance": recording.path.stem, "speaker": recording.speaker or "?"}


@torch.inference_mode()
def copy_all(system: System, recordings: Sequence[Recording], out: Path) -> list[Row]:
    """Copy recordings, save the copies and score them; the real-time factor excludes the analysis."""
    rate, rows = system.mel.sample_rate, []
    for number, recording in enumerate(tqdm(recordings, desc=system.name, unit="file")):
        wave = load(recording.path, rate)
        analysed = system.read(wave)
        if not number:
            system.speak(analysed)  # warm-up: the first run includes one-time set-up
        began = time.perf_counter()
        copied = system.speak(analysed)
        took = time.perf_counter() - began
        if not copied.isfinite().all():
            raise UserError(f"{system.name} turned the mel of {recording.path} into NaN: it cannot be scored")
        path = out / "outputs" / system.name.replace("/", "_") / f"{number:03d}_{recording.path.stem}.wav"
        save(path, copied, rate)
        figures = scores(load(recording.path, JUDGED_AT), resample(copied, rate, JUDGED_AT), JUDGED_AT)
        figures["real_time_factor"] = took * rate / copied.shape[-1]
        rounded = {name: round(value, 6) for name, value in figures.items()}
        rows.append(described(system.name, recording) | rounded | {"output": str(path)})
    return rows


def rate_quality(rows: list[Row], cache: Path | None) -> list[str]:
    """Add DNSMOS to every row; return a note if it is not installed."""
    judge = DNSMOS()
    try:
        judge.check()
    except UserError as absent:
        return [f"DNSMOS is left out: {absent}"]
    for row, features in zip(rows, judged(rows, judge, cache, "DNSMOS")):
        row["dnsmos"] = float(features["overall"])
    return []


def rate_words(rows: list[Row], recordings: Sequence[Recording], cache: Path | None) -> list[str]:
    """Add the CER where the text is known; return a note if the recogniser is not installed."""
    known = [r for r in recordings if r.text and error_rates.in_latin_letters(r.text)]
    texts = {(r.speaker or "?", r.path.stem): r.text or "" for r in known}
    transcribed = [row for row in rows if (str(row["speaker"]), str(row["utterance"])) in texts]
    judge = recogniser("moonshine")
    try:
        judge.check()
        error_rates.check()
    except UserError as absent:
        return [f"CER is left out: {absent}"]
    for row, features in zip(transcribed, judged(transcribed, judge, cache, "words")):
        text = texts[str(row["speaker"]), str(row["utterance"])]
        row["cer"] = error_rates.error_rates(text, features)["cer"]
    return []


def judged(rows: Sequence[Row], judge: Judge, cache: Path | None, title: str) -> list[Features]:
    """Return a judge's features of each row's output."""
    paths = [Path(str(row["output"])) for row in rows]
    features = compute_features([(path, [judge]) for path in paths], Cache(cache), title=title)
    return [features[path][judge.kind] for path in paths]


def about(args: Any, systems: Sequence[System], recordings: Sequence[Recording]) -> dict[str, Any]:
    return {
        "data": str(args.data),
        "split": args.split,
        "utterances": len(recordings),
        "speakers": len({recording.speaker for recording in recordings}),
        "judged_at_hz": JUDGED_AT,
        "pitch": "autocorrelation",
        "threads": torch.get_num_threads(),
        "vocoders": dict(zip(label(args.vocoder), args.vocoder)),
        "mel": {system.name: vars(system.mel) for system in systems},
    }


def table(summary: Summary) -> str:
    """Format means and intervals as a Markdown table."""

    def cell(score: dict[str, float] | None, digits: int) -> str:
        if score is None:
            return "–"
        mean, low, high = (f"{score[name]:.{digits}f}" for name in ("mean", "low", "high"))
        return f"{mean} [{low}, {high}]"

    columns = [name for name in COLUMNS if any(name in scores for scores in summary.values())]
    rows = [
        [name, *(cell(scores.get(c), COLUMNS[c][1]) for c in columns)] for name, scores in summary.items()
    ]
    return markdown(["", *(COLUMNS[name][0] for name in columns)], rows)


if __name__ == "__main__":
    main()
