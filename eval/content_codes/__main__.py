r"""What content codes tell: the words, the voice, and what a recogniser's encoder hears, in one table.

    python -m eval.content_codes --data speech --teacher models/moonshine-tiny \
        --code student:runs/student --code released --code speech:released

All probes are linear, on frozen codes. *agreement*: mean cosine between the teacher's features and a linear
map of the code, over audible frames. *phone error*: of a linear layer taught by CTC. Both learn on speakers
of the train split and are asked about utterances of others, in the split that ``--split`` names.
*speaker*: how often the speaker is named, from the code's mean and deviation over an utterance or from one
frame, on other utterances of the same speakers. Log-mels and the teacher itself stand beside; intervals are
95 %.
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.audio import unreadable
from engine.arguments import Arguments
from engine.outcome import end
from engine.table import markdown
from engine.user_error import UserError, exits_cleanly
from eval.content_codes.codes import NAMES, Code, CodeFrames, encode, log_mel, open_code, teacher_code
from eval.content_codes.probes import Leak, Utterances, agreement, phone_error, speaker_leakage, utterances
from pretrain.probe.results import Interval
from pretrain.speech.labelled import labelled_rows
from pretrain.teachers import load_teacher
from pretrain.units import Phonemes, Units


class Speech(NamedTuple):
    train: dict[Path, list[int]]
    """Recordings that the probe of phones learns from, and their phones."""
    test: dict[Path, list[int]]
    """Those that it is scored on, of other speakers."""
    speakers: list[str]
    """Of the test recordings."""
    voices: Utterances
    """For the probe of speakers."""

    @property
    def paths(self) -> list[Path]:
        voices = (row.path for row in (*self.voices.train, *self.voices.held_out))
        return list(dict.fromkeys((*self.train, *self.test, *voices)))

    def without(self, bad: Collection[Path]) -> "Speech":
        train, test = (
            {path: label for path, label in part.items() if path not in bad}
            for part in (self.train, self.test)
        )
        speakers = [name for name, path in zip(self.speakers, self.test) if path not in bad]
        learned, held_out = (
            [row for row in part if row.path not in bad] for part in (self.voices.train, self.voices.held_out)
        )
        return Speech(train, test, speakers, Utterances(learned, held_out, self.voices.speakers))


class Scores(NamedTuple):
    agreement: Interval | None
    phones: Interval
    leak: Leak


def speech(data: Path | str, *, split: str = "validation", most: int = 600, per_speaker: int = 0) -> Speech:
    """Choose the utterances: at most ``most`` to learn words from, ``per_speaker`` (0: all) to learn a voice.

    Words are asked about in ``split``; its speakers are left out of what is learned from.
    """
    train_rows, test_rows = (labelled_rows((str(data),), name) for name in ("train", split))
    test_speakers = {row.speaker for row in test_rows}
    train_rows = [row for row in train_rows if row.speaker not in test_speakers]
    units = Units(Phonemes())
    train, test = (
        {row.path: label for row, label in zip(rows, units.labels(rows)) if label}
        for rows in (train_rows, test_rows)
    )
    if not (train and test):
        raise UserError(
            f"{data}: words are learned in split train from speakers whom split {split} does not have, and "
            f"asked about in split {split}; both need English texts"
        )
    paths = list(train)
    places = np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths))).round().astype(int))
    speakers = [str(row.speaker or row.path) for row in test_rows if row.path in test]
    chosen = {paths[i]: train[paths[i]] for i in places}
    return Speech(chosen, test, speakers, utterances(data, per_speaker=per_speaker))


def scores_of(code: Code, of: Speech, teacher: Code | None, truth: dict[Path, CodeFrames]) -> Scores:
    bar = tqdm(of.paths, desc=f"encoding by {code.name}", unit="utterance", delay=1.0)
    encoded = {path: encode(code, path) for path in bar}
    train, test = ([encoded[path] for path in paths] for paths in (of.train, of.test))
    voices = ([encoded[row.path] for row in rows] for rows in (of.voices.train, of.voices.held_out))
    agreed = None
    if teacher is not None:
        train_truth, test_truth = ([truth[path] for path in paths] for paths in (of.train, of.test))
        agreed = agreement(code, train, test, teacher, train_truth, test_truth, of.speakers)
    labels = [list(paths.values()) for paths in (of.train, of.test)]
    phones = phone_error(train, labels[0], test, labels[1], of.speakers)
    return Scores(agreed, phones, speaker_leakage(of.voices, *voices))


def table(scores_by_code: dict[str, Scores], of: Speech) -> str:
    voices = of.voices
    words = (
        f"Words: learned from {len(of.train)} utterances, asked about in {len(of.test)} of"
        f" {len(set(of.speakers))} other speakers. Voices: {len(voices.speakers)}, asked about in"
        f" {len(voices.held_out)} utterances."
    )
    heads = ["code", "agreement", "phone error", "speaker, from an utterance", "speaker, from a frame"]
    lines = [
        [name, *map(_cell, (scores.agreement, scores.phones, scores.leak.pooled, scores.leak.single))]
        for name, scores in scores_by_code.items()
    ]
    lines.append(["chance", "", "", f"{voices.chance:.3f}", f"{voices.chance:.3f}"])
    return f"{words}\n\n{markdown(heads, lines)}"


def _cell(value: Interval | None) -> str:
    return "" if value is None else f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    parser = Arguments.described_by("eval.content_codes", __doc__)
    add = parser.add_argument
    add("--code", action="append", default=[], metavar="NAME", help=f"{NAMES}; may be given several times")
    add("--teacher", default="", metavar="FOLDER", help="a frozen speech encoder, for the agreement")
    add("--data", type=Path, required=True, help="manifest with speakers, splits and texts")
    add("--split", default="validation", help="where words are asked about (validation)")
    add("--most", type=int, default=600, help="utterances that the words are learned from, at most (600)")
    add("--per-speaker", type=int, default=0, help="those each voice is learned from, at most; 0: all")
    args = parser.parse_args(argv)
    if args.per_speaker < 0 or args.per_speaker == 1:
        raise UserError(f"--per-speaker {args.per_speaker} must be 0 (all), or 2 or more")
    if args.most < 2:
        raise UserError(f"--most {args.most} must be at least 2")
    codes = [log_mel(), *(open_code(name) for name in dict.fromkeys(args.code) if name != "log-mel")]
    teacher = teacher_code("teacher", load_teacher(args.teacher)) if args.teacher else None
    of = speech(args.data, split=args.split, most=args.most, per_speaker=args.per_speaker)
    left_out: list[str] = []
    of = of.without(unreadable(of.paths, left_out))
    if not (of.train and of.test and of.voices.train and of.voices.held_out):
        raise UserError(f"too few recordings can be read: {left_out[0]}")
    truth = {} if teacher is None else {path: encode(teacher, path) for path in of.paths}
    codes = codes if teacher is None else [*codes, teacher]
    print(table({code.name: scores_of(code, of, teacher, truth) for code in codes}, of))
    end(len(of.paths), left_out, "recordings heard")


if __name__ == "__main__":
    main()
