"""Convert recordings to another voice: ``python -m w2w.convert SOURCE... --reference REF... --out DIR``

    python -m w2w.convert me.wav --voice ada --out as_ada.wav
    python -m w2w.convert me.wav --reference her.wav --out as_her.wav
    python -m w2w.convert talks/ --reference her.wav her_too.wav --out converted/
    python -m w2w.convert me.wav --blend her.wav:0.7 his_folder:0.3 --pitch -2 --out converted/
    python -m w2w.convert me.wav --speaker p225 --data manifest.csv --rate source --out converted/
    python -m w2w.convert me.wav --text "an old man, low and rough" --out as_told.wav
    python -m w2w.convert me.wav --picture face.png --variety 0.7 --seed 3 --out as_seen.wav
    python -m w2w.convert me.wav --reference her.wav --checkpoint runs/cluit_mel --vocoder released --out o

Sources and references are audio files, or folders with audio files at any depth. Each source becomes DIR/<its
path in its folder>.wav, of the same length; memory does not grow with the length. Existing files in DIR are
kept, unless --overwrite is given. All files are read and checked before anything is written, and an output
appears under its name only when it is complete. Files that cannot be converted are left out and listed: the
exit code is 0 if nothing was left out, 1 if something was, 2 if nothing was converted. Outputs bear an
inaudible watermark that `python -m w2w.watermark` detects; --no-watermark leaves it out.
"""

import math
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data.audio import Writer, blocks, excerpt, info
from data.audio.checking import INTEGER_PEAK, LOUDEST_PEAK
from data.audio.decoding import PLAUSIBLE_RATES
from data.audio.destinations import plan, protect
from data.audio.resampling import resampled_length, resampled_pieces
from engine.arguments import Arguments
from engine.outcome import end, leaving_out, note, note_replaced
from engine.user_error import UserError, exits_cleanly, printable
from w2w.converter import BLOCK_S, Converter, Voice
from w2w.networks.wave_network import MOST_SEMITONES
from w2w.recording import HEARD_S
from w2w.voices import Voices, check_fit_steps
from w2w.watermark import Marker

SHORTEST_S = 0.01
"""Shortest source in seconds: one hop."""
READ_SAMPLES = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Job:
    source: Path
    out: Path
    sample_rate: int
    """Sampling rate of the source in Hz."""
    samples: int
    """Length of the source at its own rate."""
    gain: float = 1.0
    """Gain that brings a source of floats beyond full scale back to it."""

    @property
    def seconds(self) -> float:
        return self.samples / self.sample_rate


def job_of(source: Path, out: Path) -> Job:
    """Decode a whole source and count its samples, so that faults are found before conversion."""
    rate = info(source).sample_rate
    samples, peak, gain = 0, 0.0, 1.0
    for block in blocks(source, None, READ_SAMPLES):
        samples, peak = samples + block.shape[-1], max(peak, float(block.abs().max()))
    if samples < SHORTEST_S * rate:
        raise UserError(
            f"{source} is too short: it lasts {1000 * samples / rate:.2f} ms, and a source needs "
            f"at least {1000 * SHORTEST_S:.0f} ms"
        )
    if peak > LOUDEST_PEAK:
        gain = 1 / peak
        kind = (
            "as integers stored as floats do" if peak > INTEGER_PEAK else f"by {20 * math.log10(peak):.1f} dB"
        )
        note(f"{source} exceeds full scale {kind}: it is attenuated by as much")
    return Job(source=source, out=out, sample_rate=rate, samples=samples, gain=gain)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    args, left_out = parse(argv), []
    pairs = plan(args.source, args.out, left_out, overwrite=args.overwrite)
    converter = Converter.from_pretrained(args.checkpoint, words=args.words, vocoder=args.vocoder)
    voices = Voices(converter, args.data, fit_steps=args.fit_steps)
    voice = chosen(args, voices)
    seen = [Path(args.picture)] if args.picture else []
    protect([out for _, out in pairs], [*(source for source, _ in pairs), *voices.files, *seen])
    jobs = []
    for source, out in tqdm(pairs, desc="checking", unit="file", delay=2.0, leave=False, disable=None):
        with leaving_out(left_out):
            jobs.append(job_of(source, out))
    if jobs:
        note_replaced(args.out)

    began, n_done, seconds = time.monotonic(), 0, 0.0
    with tqdm(total=sum(job.seconds for job in jobs), unit="s", unit_scale=True, disable=None) as bar:
        for number, job in enumerate(jobs, start=1):
            bar.set_description(f"[{number}/{len(jobs)}] {printable(job.source.name)}")
            options = {"rate": args.rate, "semitones": args.pitch, "marked": args.watermark}
            with leaving_out(left_out):
                convert(converter, voice, job, **options, done=bar.update)
                bar.write(str(job.out), file=sys.stdout)
                n_done, seconds = n_done + 1, seconds + job.seconds
    if n_done:
        took = max(time.monotonic() - began, 1e-9)
        speed = f"{seconds / took:.1f} times real time"
        print(f"{seconds:.1f} s of audio in {took:.1f} s, {speed}", file=sys.stderr)
    end(n_done, [*left_out, *(f"reference {fault}" for fault in voices.left_out)])


def parse(argv: Sequence[str] | None) -> Namespace:
    """Parse the command line, and check the options as far as possible without reading files."""
    arguments = Arguments.described_by("w2w.convert", __doc__)
    option = arguments.add_argument
    several: dict[str, Any] = {"nargs": "+", "action": "extend"}
    option("source", metavar="SOURCE", nargs="+", help="file or folder to convert")
    out = "folder to write; for a single source also a file (.wav, .flac, ...)"
    option("--out", type=Path, required=True, help=out)
    option("--overwrite", action="store_true", help="replace existing files in the folder")
    option("--voice", metavar="NAME", help="a voice that `timbre voices` lists")
    reference = "speech of the target voice: files or folders, averaged"
    option("--reference", **several, metavar="REF", help=reference)
    blend = "weighted mean of voices; VOICE: file, folder, speaker or name"
    option("--blend", **several, metavar="VOICE:WEIGHT", help=blend)
    option("--speaker", metavar="NAME", help="target voice: a speaker of --data")
    option("--data", metavar="MANIFEST", help="manifest, or folder with a folder per speaker")
    steps = "steps of fitting a voice to its recordings (default 100: about ten seconds; 0: none)"
    option("--fit-steps", type=int, metavar="N", help=steps)
    option("--text", metavar="WORDS", help='voice from a description: "an old man, low and rough"')
    option("--picture", metavar="FILE", help="voice that fits a picture")
    option("--variety", type=float, metavar="AMOUNT", help="randomness of that voice: 0 (default) to 2")
    option("--seed", type=int, metavar="NUMBER", help="random seed of that voice")
    option("--words", metavar="FOLDER", help="the converter's tie to words (default: next to its weights)")
    option("--pitch", type=float, default=0.0, metavar="SEMITONES", help="shift relative to the voice's mean")
    option("--rate", metavar="HZ", help="output rate: a number, or 'source' (default: the converter's)")
    checkpoint = "exported converter, or hub:owner/name (default: the released one)"
    option("--checkpoint", metavar="FOLDER", help=checkpoint)
    unmarked = "leave the inaudible watermark out of the files"
    option("--no-watermark", dest="watermark", action="store_false", help=unmarked)
    option("--vocoder", metavar="V", help="for a converter of mels: released, griffin_lim, a folder or a run")
    args = arguments.parse_args(argv)
    sources = ("voice", "reference", "blend", "speaker", "text", "picture")
    given = [name for name in sources if getattr(args, name) not in (None, [])]
    if len(given) != 1:
        found = " and ".join(f"--{name}" for name in given) + " were" if given else "nothing was"
        raise UserError(
            "give the target voice by one of --voice, --reference, --blend, --speaker, --text and --picture;"
            f" {found} given"
        )
    if args.data and given[0] not in ("speaker", "blend"):
        raise UserError(f"--data goes with --speaker or --blend; --{given[0]} needs none")
    for name in ("variety", "seed", "words"):
        if getattr(args, name) is not None and given[0] not in ("text", "picture"):
            raise UserError(f"--{name} goes with --text or --picture; --{given[0]} needs none")
    check_fit_steps(args.fit_steps)
    args.rate = output_rate(args.rate)
    if not abs(args.pitch) <= MOST_SEMITONES:
        raise UserError(f"--pitch {args.pitch} must be within {MOST_SEMITONES:.0f} semitones of 0")
    return args


def output_rate(word: str | None) -> int | None:
    """Output rate in Hz; 0: the source's, None: the converter's."""
    if word is None or word == "source":
        return None if word is None else 0
    if not word.isdecimal() or int(word) not in PLAUSIBLE_RATES:
        raise UserError(f"--rate {word} must be 'source' or a whole number of Hz, such as 16000")
    return int(word)


def chosen(args: Namespace, voices: Voices) -> Voice:
    if args.voice:
        return voices.converter.voice(args.voice, fit_steps=voices.fit_steps)
    if args.reference:
        return voices.average(args.reference)
    sampling = {"variety": args.variety or 0.0, "seed": args.seed}
    if args.text is not None:
        return voices.converter.embed_text(args.text, **sampling)
    if args.picture is not None:
        return voices.converter.embed_image(args.picture, **sampling)
    return voices.blend(args.blend) if args.blend else voices.speaker(args.speaker)


def convert(
    converter: Converter,
    voice: Voice,
    job: Job,
    *,
    rate: int | None = None,
    semitones: float = 0.0,
    marked: bool = True,
    done: Callable[[float], object] = lambda seconds: None,
) -> None:
    """Convert one recording from file to file; ``done`` is called with the seconds of each piece written.

    ``rate`` is the output's in Hz, 0: the source's, None: the converter's. ``marked`` adds the default key's
    watermark. Memory does not grow with the recording; after a failure, no partial file remains.
    """
    own = converter.sample_rate
    rate = own if rate is None else rate or job.sample_rate
    beginning = excerpt(job.source, 0, round(HEARD_S * own), own)
    source = (job.gain * block for block in blocks(job.source, own, round(BLOCK_S * own)))
    log_f0 = converter.source_log_f0(beginning)
    pieces = converter.pieces(source, voice, semitones=semitones, source_log_f0=log_f0)
    if marked:
        pieces = Marker(own).marked(pieces)
    with Writer(job.out, rate) as writer:
        for piece in resampled_pieces(
            pieces, own, rate, resampled_length(job.samples, job.sample_rate, rate)
        ):
            writer.write(piece)
            done(piece.shape[-1] / rate)


if __name__ == "__main__":
    main()
