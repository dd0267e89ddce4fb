"""A corpus of time-aligned voices: one sentence in several voices, sample for sample as long.

python -m data.parallel corpus --model kokoro-v1.0.int8.onnx --voices voices-v1.0.bin --groups 250

leaves corpus/000/<group>_<speaker>.opus, corpus/speakers.json (of which voices each speaker is mixed) and
corpus/manifest.csv (path, speaker, text, split, duration, parallel, prosody), where members of a group have
the same number under ``parallel``. Validation has sentences and voices of its own. The manifest is right at
any moment; interrupted, the same command goes on where it was, and more groups extend the corpus. Model and
voices are Kokoro's (Apache 2.0): two files from https://github.com/thewh1teagle/kokoro-onnx/releases.
"""

from pathlib import Path

from data.synthetic.kokoro import WHERE, Kokoro
from data.synthetic.parallel_corpus import FORMATS, ParallelConfig, make_parallel_corpus
from data.synthetic.sentences import built_in_lines, read_lines
from engine.arguments import Arguments
from engine.user_error import UserError, exits_cleanly


@exits_cleanly
def main(argv: list[str] | None = None) -> None:
    default = ParallelConfig()
    arguments = Arguments.described_by("data.parallel", __doc__)
    arguments.add_argument("out", type=Path, help="folder to make or complete")
    arguments.add_argument("--model", type=Path, help="Kokoro's model, .onnx")
    arguments.add_argument("--voices", type=Path, help="its file of voices, .bin")
    arguments.add_argument("--groups", type=int, default=250, help="sentences to speak (default 250)")
    arguments.add_argument(
        "--members", type=int, default=default.members, help="voices that say each (default 4)"
    )
    arguments.add_argument("--texts", type=Path, help="a file with a sentence a line (default: built in)")
    arguments.add_argument(
        "--prosody",
        default=",".join(default.prosody),
        help="how the names begin of voices that lend rhythm and melody, and in whose language the texts are"
        " (default %(default)s: English)",
    )
    arguments.add_argument(
        "--timbres", default="", help="how the names begin of voices that lend timbre (default: as --prosody)"
    )
    arguments.add_argument(
        "--mixtures", type=int, default=default.mixtures, help="speakers mixed of voices (default 400)"
    )
    arguments.add_argument("--format", choices=FORMATS, default=default.format, help="of the files")
    arguments.add_argument(
        "--sample-rate", type=int, default=default.sample_rate, help="Hz (default 24000, Kokoro's own)"
    )
    arguments.add_argument("--seed", type=int, default=0, help="decides who says what (default 0)")
    arguments.add_argument("--threads", type=int, default=0, help="of the synthesiser (default: all cores)")
    given = arguments.parse_args(argv)
    if given.model is None or given.voices is None:
        raise UserError(f"name Kokoro's model by --model and its voices by --voices; {WHERE}")
    config = ParallelConfig(
        members=given.members,
        prosody=_prefixes(given.prosody),
        timbres=_prefixes(given.timbres),
        mixtures=given.mixtures,
        format=given.format,
        sample_rate=given.sample_rate,
        seed=given.seed,
    )
    lines = read_lines(given.texts) if given.texts else built_in_lines()
    synthesizer = Kokoro(given.model, given.voices, given.threads)
    manifest, left_out = make_parallel_corpus(given.out, given.groups, lines, synthesizer, config)
    print(f"{manifest}: {given.groups - len(left_out)} groups of {config.members}, {len(left_out)} left out")


def _prefixes(words: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in words.split(",") if word.strip())


if __name__ == "__main__":
    main()
