"""Say which recordings bear the mark of this converter: ``python -m w2w.watermark FILE...``

    python -m w2w.watermark as_her.wav
    python -m w2w.watermark downloads/ --json
    python -m w2w.watermark as_her.wav --key "my own words"

For each file (or audio file in a folder): whether it is marked, the probability that one without the mark
would look as much like it, how many of its seconds bear the mark by themselves, and its speed or pitch if
that was changed.
"Not marked" means that no mark was found, not that a person spoke. Files that cannot be read are named at the
end. The command ends with 0 if every file is marked, with 1 if one is not, with 2 if one cannot be read.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.audio import audio_files, blocks
from engine.arguments import Arguments
from engine.outcome import end, leaving_out, summary
from engine.user_error import UserError, exits_cleanly
from w2w.watermark.detection import FALSE_ALARM, Finding, detect
from w2w.watermark.echo import DEFAULT_KEY, SAMPLE_RATE


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    left_out: list[str] = []
    marked: list[bool] = []
    for path in list(recordings(args.file, left_out)):
        with leaving_out(left_out):
            finding = detect(blocks(path, SAMPLE_RATE, SAMPLE_RATE), args.key, false_alarm=args.false_alarm)
            print(as_json(path, finding) if args.json else as_words(path, finding), flush=True)
            marked.append(finding.marked)
    if not marked:
        end(0, left_out)
    if left_out:
        print(summary(len(marked), left_out, "heard"), file=sys.stderr)
    sys.exit(2 if left_out else not all(marked))


def parse(argv: Sequence[str] | None) -> Namespace:
    arguments = Arguments.described_by("w2w.watermark", __doc__)
    option = arguments.add_argument
    option("file", metavar="FILE", nargs="+", help="audio file, or folder with audio files anywhere in it")
    option(
        "--key",
        default=DEFAULT_KEY,
        metavar="WORDS",
        help="of the mark (default: the one all converters use)",
    )
    option("--json", action="store_true", help="print one JSON object a line")
    option(
        "--false-alarm",
        type=float,
        default=FALSE_ALARM,
        metavar="P",
        help=f"probability below which a file is called marked (default: {FALSE_ALARM:g})",
    )
    args = arguments.parse_args(argv)
    if not 0 < args.false_alarm < 1:
        raise UserError(f"--false-alarm {args.false_alarm:g} must lie between 0 and 1")
    return args


def recordings(names: Sequence[str], left_out: list[str]) -> Iterator[Path]:
    """The files that are named, and the audio files in the folders that are named."""
    for name in map(Path, names):
        with leaving_out(left_out):
            if not name.exists():
                raise UserError(f"there is no file {name}")
            yield from audio_files(name) if name.is_dir() else [name]


def as_words(path: Path, finding: Finding) -> str:
    """One line that a person reads."""
    extent = f"in {finding.seconds} of {finding.duration:.1f} s, " if finding.marked else ""
    speed = f" at {finding.speed:.3f} times its speed or pitch," if finding.speed != 1 else ""
    verdict = "marked" if finding.marked else "not marked"
    return f"{path}: {verdict},{speed} {extent}false alarm {finding.false_alarm:.2g}"


def as_json(path: Path, finding: Finding) -> str:
    """One line that a program reads."""
    return json.dumps({"file": str(path), **vars(finding)}, ensure_ascii=False)


if __name__ == "__main__":
    main()
