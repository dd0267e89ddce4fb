r"""Probe content codes for phones, a recogniser's features and the speaker, and print a table.

    python -m eval.content_codes --data speech --teacher models/moonshine-tiny \
        --code student:runs/student --code released --code speech:released

All probes are linear layers on frozen codes. *agreement*: mean cosine between the teacher's features and a
linear map of the code, over audible frames. *phone error*: phone error rate of a layer trained with CTC. Both
are trained on speakers of the train split and tested on other speakers in the split ``--split``. *speaker*:
accuracy of speaker identification, from the code's mean and standard deviation over an utterance or from a
single frame, on held-out utterances of the same speakers. The table also has log-mels and the teacher itself;
intervals are 95 %.
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
from eval.content_codes.probes import Utterances, agreement, phone_error, speaker_leakage, utterances
from pretrain.probe.results import Interval
from pretrain.speech.labelled import labelled_rows
from pretrain.teachers import load_teacher
from pretrain.units import Phonemes, Units


class Speech(NamedTuple):
    train: dict[Path, list[int]]
    """Training recordings of the phone probe and the agreement, with their phones."""
    test: dict[Path, list[int]]
    """Test recordings, of other speakers."""
    speakers: list[str]
    """Speakers of the test recordings."""
    voices: Utterances
    """Utterances for the speaker probe."""

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


def speech(data: Path | str, *, split: str = "validation", most: int = 600, per_speaker: int = 0) -> Speech:
    """Choose up to ``most`` utterances to train phones and ``per_speaker`` (0: all) to train speakers.

    Phones are tested on ``split``, the speakers of which are excluded from training.
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
            f"{data}: the phone probe needs English texts in split {split}, and in split train from speakers "
            f"that are not in split {split}"
        )
    paths = list(train)
    places = np.unique(np.linspace(0, len(paths) - 1, min(most, len(paths))).round().astype(int))
    speakers = [str(row.speaker or row.path) for row in test_rows if row.path in test]
    chosen = {paths[i]: train[paths[i]] for i in places}
    return Speech(chosen, test, speakers, utterances(data, per_speaker=per_speaker))


def scores_of(
    code: Code, corpus: Speech, teacher: Code | None, truth: dict[Path, CodeFrames]
) -> list[Interval | None]:
    """Return a code's cells in the table; without a teacher, there is no agreement."""
    bar = tqdm(corpus.paths, desc=f"encoding by {code.name}", unit="utterance", delay=1.0)
    encoded = {path: encode(code, path) for path in bar}
    voices = ([encoded[row.path] for row in rows] for rows in (corpus.voices.train, corpus.voices.held_out))
    agreed = None
    if teacher is not None:
        train, test = ([(encoded[p], truth[p]) for p in paths] for paths in (corpus.train, corpus.test))
        agreed = agreement(code, teacher, train, test, corpus.speakers)
    train, test = (
        [(encoded[path], label) for path, label in part.items()] for part in (corpus.train, corpus.test)
    )
    phones = phone_error(train, test, corpus.speakers)
    return [agreed, phones, *speaker_leakage(corpus.voices, *voices)]


def table(scores_by_code: dict[str, list[Interval | None]], corpus: Speech) -> str:
    voices = corpus.voices
    words = (
        f"Phones: trained on {len(corpus.train)} utterances, tested on {len(corpus.test)} of"
        f" {len(set(corpus.speakers))} other speakers. Speakers: {len(voices.speakers)}, tested on"
        f" {len(voices.held_out)} utterances."
    )
    heads = ["code", "agreement", "phone error", "speaker, from an utterance", "speaker, from a frame"]
    lines = [[name, *map(_cell, scores)] for name, scores in scores_by_code.items()]
    lines.append(["chance", "", "", f"{voices.chance:.3f}", f"{voices.chance:.3f}"])
    return f"{words}\n\n{markdown(heads, lines)}"


def _cell(value: Interval | None) -> str:
    return "" if value is None else f"{value[0]:.3f} [{value[1]:.3f}, {value[2]:.3f}]"


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    parser = Arguments.described_by("eval.content_codes", __doc__)
    add = parser.add_argument
    add("--code", action="append", default=[], metavar="NAME", help=f"{NAMES}; may be given several times")
    add("--teacher", default="", metavar="FOLDER", help="frozen speech encoder for the agreement")
    add("--data", type=Path, required=True, help="manifest with speakers, splits and texts")
    add("--split", default="validation", help="test split for phones and agreement (validation)")
    add("--most", type=int, default=600, help="maximum training utterances for phones (600)")
    add("--per-speaker", type=int, default=0, help="maximum training utterances per speaker; 0: all")
    args = parser.parse_args(argv)
    if args.per_speaker < 0 or args.per_speaker == 1:
        raise UserError(f"--per-speaker {args.per_speaker} must be 0 (all), or 2 or more")
    if args.most < 2:
        raise UserError(f"--most {args.most} must be at least 2")
    codes = [log_mel(), *(open_code(name) for name in dict.fromkeys(args.code) if name != "log-mel")]
    teacher = teacher_code("teacher", load_teacher(args.teacher)) if args.teacher else None
    corpus = speech(args.data, split=args.split, most=args.most, per_speaker=args.per_speaker)
    left_out: list[str] = []
    corpus = corpus.without(unreadable(corpus.paths, left_out))
    if not (corpus.train and corpus.test and corpus.voices.train and corpus.voices.held_out):
        raise UserError(f"too few recordings can be read: {left_out[0]}")
    truth = {} if teacher is None else {path: encode(teacher, path) for path in corpus.paths}
    codes = codes if teacher is None else [*codes, teacher]
    print(table({code.name: scores_of(code, corpus, teacher, truth) for code in codes}, corpus))
    end(len(corpus.paths), left_out, "recordings used")


if __name__ == "__main__":
    main()
