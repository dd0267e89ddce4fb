"""Speak with another voice while you speak: ``python -m w2w.live --reference VOICE...``

    python -m w2w.live --voice ada leo
    python -m w2w.live --reference her.wav
    python -m w2w.live --reference her.wav his_folder --pitch -2 --record take.wav
    python -m w2w.live --list-devices
    python -m w2w.live --reference her.wav --input-device 3 --output-device USB --rate 48000 --chunk-ms 10
    python -m w2w.live --reference her.wav --input-file me.wav --output-file as_her.wav --pace live

Wear headphones: a microphone that hears the converted voice converts it again. While it runs, space lets your
own voice through, 1 to 9 choose among the voices, + and - move the pitch, r begins and ends a recording,
q or Ctrl-C ends. The line shows levels, the delay from microphone to loudspeaker, computing time as a share
of the sound's, and how often sound came too late (under) or was lost (over).
"""

import signal
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from data.audio import Writer, blocks
from engine.arguments import Arguments
from engine.outcome import note, note_replaced, stop_signals
from engine.user_error import UserError, exits_cleanly
from w2w.convert import MOST_SEMITONES
from w2w.converter import Converter
from w2w.live.console import KEYS, Console, Keyboard, keyboard
from w2w.live.duplex import Duplex, at_rates, device_end, listed, named, sound_library
from w2w.live.recorder import Recorder
from w2w.live.session import Session, undisturbed
from w2w.stream import HIGHEST_RATE, LOWEST_RATE
from w2w.voices import Voices, check_fit_steps
from w2w.watermark import Marker


class FileRun:
    """Pushes a file's chunks through a session and writes what comes out.

    In real time a chunk is pushed when a microphone would have brought it; one that is done only after the
    next one came counts as an underrun.
    """

    def __init__(self, session: Session, *, live: bool) -> None:
        self.session, self.live = session, live
        self.underruns = self.overruns = 0
        self.latency_ms: float | None = None
        """Until a chunk's last sample was converted, from its first one's coming; None when not live."""
        self.seconds = 0.0
        """Sound taken in."""

    def run(self, source: Path, out: Path, stopped: Callable[[], bool]) -> None:
        """Convert ``source`` to ``out`` unless stopped, then what came until there: whole either way."""
        session, size = self.session, self.session.chunk_samples
        began = time.monotonic()
        with Writer(out, session.rate) as writer:
            for chunk in blocks(source, session.rate, size):
                self.seconds += chunk.shape[-1] / session.rate
                self._wait(began + self.seconds)
                writer.write(session.push(chunk))
                self._judge(time.monotonic() - began - self.seconds)
                if stopped():
                    break
            writer.write(session.flush())

    def _wait(self, until: float) -> None:
        if self.live:
            time.sleep(max(until - time.monotonic(), 0.0))

    def _judge(self, late_s: float) -> None:
        if self.live:
            self.latency_ms = self.session.latency_ms + 1000 * max(late_s, 0.0)
            self.underruns += late_s > self.session.chunk_samples / self.session.rate


MOST_VOICES = 9
CHUNK_MS = (1.0, 1000.0)
BUFFER_MS = (0.0, 500.0)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Convert live what a microphone or a file says."""
    args = parse(argv)
    if args.list_devices:
        print(listed(sound_library()))
        return
    torch.set_num_threads(1)
    sound = ends = None
    if args.input_file is None:  # whatever is wrong is found before a network is loaded
        sound = sound_library()
        source = device_end(sound, named(args.input_device), "input")
        ends = at_rates(sound, source, device_end(sound, named(args.output_device), "output"), args.rate)
        args.rate = ends[0].rate
    else:
        blocks(args.input_file, None, 1)
    converter = Converter.from_pretrained(args.checkpoint)
    rate = args.rate or converter.sample_rate
    voices = Voices(converter, fit_steps=args.fit_steps)
    each = [voices.average([name]) for name in args.reference]
    each += [converter.voice(name, fit_steps=args.fit_steps) for name in args.voice]
    note(*voices.left_out)
    keep(args, [*voices.files, *([args.input_file] if args.input_file else [])])
    note_replaced(args.output_file, args.record)

    recorder = Recorder(rate, args.record)
    session = Session(
        converter,
        each,
        chunk_ms=args.chunk_ms,
        rate=rate,
        semitones=args.pitch,
        bypass=args.bypass,
        engine=args.engine,
        marker=None if args.no_watermark else Marker(rate),
        recorder=recorder,
    )
    console = Console(session, recorder, [*args.reference, *args.voice])
    console.say(
        f"{rate} Hz, chunks of {1000 * session.chunk_samples / rate:g} ms: the conversion is"
        f" {session.latency_ms:.4g} ms late, computing and devices left out"
    )
    session.warm_up()
    with ExitStack() as ending:
        stops = ending.enter_context(stop_signals())
        ending.enter_context(hangup_noted(stops))
        ending.callback(console.end)
        ending.callback(recorder.stop)
        keys = ending.enter_context(keyboard())
        if keys.descriptor is not None:
            console.say(KEYS)
        if args.record is not None:
            recorder.start()
        ending.enter_context(undisturbed())
        if sound is not None and ends is not None:
            console.say(f"from {ends[0].name} to {ends[1].name}; q or Ctrl-C ends")
            by_card(Duplex(session, sound, ends, args.buffer_ms), console, keys, stops)
        else:
            by_file(FileRun(session, live=args.pace == "live"), args, console, keys, stops)


def parse(argv: Sequence[str] | None) -> Namespace:
    arguments = Arguments.described_by("w2w.live", __doc__)
    option = arguments.add_argument
    option(
        "--reference",
        nargs="+",
        action="extend",
        metavar="VOICE",
        default=[],
        help="up to nine voices for the keys 1 to 9: a file, or a folder whose files are averaged",
    )
    option(
        "--fit-steps",
        type=int,
        metavar="N",
        help="steps by which a voice is fitted to its recordings (default 100: some ten seconds; 0: none)",
    )
    option(
        "--voice",
        nargs="+",
        action="extend",
        metavar="NAME",
        default=[],
        help="voices of the gallery, or of your own (`timbre voices` lists them), for the keys after those",
    )
    option("--list-devices", action="store_true", help="show the sound cards and end")
    option("--input-device", metavar="D", help="microphone: a number or a part of its name")
    option("--output-device", metavar="D", help="loudspeaker: a number or a part of its name")
    option("--chunk-ms", type=float, default=20.0, metavar="MS", help="sound taken at once (default 20)")
    kept = "converted sound kept ready, the jitter buffer (default 10)"
    option("--buffer-ms", "--cushion-ms", type=float, default=10.0, metavar="MS", help=kept)
    option("--rate", type=int, metavar="HZ", help="of the card (default: its own) or the output file")
    option("--pitch", type=float, default=0.0, metavar="SEMITONES", help="move the pitch")
    option("--bypass", action="store_true", help="begin with your own voice")
    option("--record", type=Path, metavar="FILE", help="record what is heard, from the beginning")
    option("--no-watermark", action="store_true", help="do not mark the converted sound as made by machine")
    option("--engine", choices=("onnx", "eager"), help="what computes: onnxruntime (default), or torch")
    option(
        "--checkpoint",
        default="released_live",
        metavar="FOLDER",
        help="exported converter, or hub:owner/name (default: released_live)",
    )
    option("--input-file", type=Path, metavar="FILE", help="speech instead of a microphone")
    option("--output-file", type=Path, metavar="FILE", help="where it goes instead of a loudspeaker")
    option(
        "--pace", choices=("live", "fast"), help="of a file: in real time, or as fast as it goes (default)"
    )
    args = arguments.parse_args(argv)
    if not args.list_devices:
        check(args)
    return args


def check(args: Namespace) -> None:
    """Refuse options that do not go together, and values out of range."""
    n_voices = len(args.reference) + len(args.voice)
    if not n_voices:
        raise UserError("say whose voice by --voice NAME, or by --reference VOICE: a file or a folder")
    if n_voices > MOST_VOICES:
        raise UserError(f"{n_voices} voices are named, but there are keys for {MOST_VOICES}")
    for here, there in (("input", "output"), ("output", "input")):
        given, missing = getattr(args, f"{here}_file"), getattr(args, f"{there}_file")
        if given is not None and missing is None:
            raise UserError(
                f"--{here}-file {given} needs --{there}-file too: from file to file, or by sound card"
            )
        if given is not None and getattr(args, f"{here}_device") is not None:
            raise UserError(f"--{here}-file and --{here}-device exclude one another")
    if args.pace and args.input_file is None:
        raise UserError("--pace goes with --input-file; a sound card has its own pace")
    check_fit_steps(args.fit_steps)
    if args.rate is not None and not LOWEST_RATE <= args.rate <= HIGHEST_RATE:
        raise UserError(f"--rate {args.rate} must be within {LOWEST_RATE} and {HIGHEST_RATE} Hz")
    for name, (least, most) in (("chunk_ms", CHUNK_MS), ("buffer_ms", BUFFER_MS)):
        if not least <= getattr(args, name) <= most:
            option = f"--{name.replace('_', '-')} {getattr(args, name):g}"
            raise UserError(f"{option} must be within {least:g} and {most:g} milliseconds")
    if not abs(args.pitch) <= MOST_SEMITONES:
        raise UserError(f"--pitch {args.pitch:g} must be within {MOST_SEMITONES:.0f} semitones of 0")


def keep(args: Namespace, read: Sequence[Path]) -> None:
    """Refuse to write over what is read, to write two sounds to one file, and names without a format."""
    named_outs = {"--output-file": args.output_file, "--record": args.record}
    outs: dict[str, Path] = {option: out for option, out in named_outs.items() if out is not None}
    for option, out in outs.items():
        Writer(out, 48_000)  # refuses a name that says no format
        for path in read:
            if out.exists() and out.samefile(path):
                raise UserError(
                    f"{option} {out} would be written over {path}, which is read: choose another name"
                )
    both = [out.absolute() for out in outs.values()]
    if len(set(both)) < len(both):
        raise UserError(f"--record and --output-file both name {args.record}: give them two names")


@contextmanager
def hangup_noted(stops: list[int]) -> Iterator[None]:
    """Let a terminal that closes end the conversion as Ctrl-C does: a recording stays whole."""
    number = getattr(signal, "SIGHUP", None)
    in_main = threading.current_thread() is threading.main_thread()
    if number is None or not in_main or signal.getsignal(number) is signal.SIG_IGN:  # by nohup
        yield
        return
    before = signal.signal(number, lambda number, frame: stops.append(number))
    try:
        yield
    finally:
        signal.signal(number, before)


def by_card(duplex: Duplex, console: Console, keys: Keyboard, stops: Sequence[int]) -> None:
    """Convert from microphone to loudspeaker until someone wants it to end."""
    with duplex:
        while not stops and console.press(keys.pressed(0.1)):
            duplex.check()
            console.show(duplex.latency_ms, duplex.underruns, duplex.overruns)


def by_file(run: FileRun, args: Namespace, console: Console, keys: Keyboard, stops: Sequence[int]) -> None:
    ended_early = False

    def stopped() -> bool:
        nonlocal ended_early
        ended_early = bool(stops) or not console.press(keys.pressed(0.0))
        console.show(run.latency_ms, run.underruns, run.overruns)
        return ended_early

    run.run(args.input_file, args.output_file, stopped)
    load = run.session.load
    console.say(
        f"{run.seconds:.2f} s of sound, load {load.total:.1%} (worst chunk {load.worst:.0%})"
        + (f", {run.underruns} chunks late" if run.live else "")
    )
    if ended_early:
        console.say(f"ended early: {args.output_file} holds the sound until there")
    print(args.output_file)
    if stops:
        sys.exit(130)


if __name__ == "__main__":
    main()
