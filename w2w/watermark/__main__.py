"""Detect the watermark of this converter in recordings: ``python -m w2w.watermark FILE...``

    python -m w2w.watermark as_her.wav
    python -m w2w.watermark downloads/ --json
    python -m w2w.watermark as_her.wav --key "my own words"

Reports for each file (or audio file in a folder): whether it is marked, the false-alarm probability (that a
file without the watermark scores as high), the number of seconds that are detected individually, and the
change of speed or pitch, if any. "Not marked" means that no watermark was found, not that a person spoke.
Files that cannot be read are listed at the end. The exit status is 0 if every file is marked, 1 if one is
not, 2 if one cannot be read.
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
            as_json = json.dumps({"file": str(path), **vars(finding)}, ensure_ascii=False)
            print(as_json if args.json else as_words(path, finding), flush=True)
            marked.append(finding.marked)
    if not marked:
        end(0, left_out)
    if left_out:
        print(summary(len(marked), left_out, "checked"), file=sys.stderr)
    sys.exit(2 if left_out else not all(marked))


def parse(argv: Sequence[str] | None) -> Namespace:
    arguments = Arguments.described_by("w2w.watermark", __doc__)
    option = arguments.add_argument
    option("file", metavar="FILE", nargs="+", help="audio file, or folder (searched with its subfolders)")
    option(
        "--key",
        default=DEFAULT_KEY,
        metavar="WORDS",
        help="key of the watermark (default: the one that all converters use)",
    )
    option("--json", action="store_true", help="print one JSON object per file")
    option(
        "--false-alarm",
        type=float,
        default=FALSE_ALARM,
        metavar="P",
        help=f"false-alarm probability up to which a file counts as marked (default: {FALSE_ALARM:g})",
    )
    args = arguments.parse_args(argv)
    if not 0 < args.false_alarm < 1:
        raise UserError(f"--false-alarm {args.false_alarm:g} must lie between 0 and 1")
    return args


def recordings(names: Sequence[str], left_out: list[str]) -> Iterator[Path]:
    """Yield the named files and the audio files in the named folders."""
    for name in map(Path, names):
        with leaving_out(left_out):
            if not name.exists():
                raise UserError(f"there is no file {name}")
            yield from audio_files(name) if name.is_dir() else [name]


def as_words(path: Path, finding: Finding) -> str:
    """The finding as one line of text."""
    extent = f"in {finding.seconds} of {finding.duration:.1f} s, " if finding.marked else ""
    speed = f" at {finding.speed:.3f} times its speed or pitch," if finding.speed != 1 else ""
    verdict = "marked" if finding.marked else "not marked"
    return f"{path}: {verdict},{speed} {extent}false alarm {finding.false_alarm:.2g}"


if __name__ == "__main__":
    main()
