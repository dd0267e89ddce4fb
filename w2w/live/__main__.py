"""Convert your voice live, from microphone to loudspeaker: ``python -m w2w.live --reference VOICE...``

    python -m w2w.live --voice ada leo
    python -m w2w.live --reference her.wav
    python -m w2w.live --reference her.wav his_folder --pitch -2 --record take.wav
    python -m w2w.live --list-devices
    python -m w2w.live --reference her.wav --input-device 3 --output-device USB --rate 48000 --chunk-ms 10
    python -m w2w.live --reference her.wav --input-file me.wav --output-file as_her.wav --pace live

Wear headphones: if the microphone picks up the converted voice, it is converted again. Keys: space toggles
bypass (your own voice), 1 to 9 select a voice, + and - shift the pitch, r starts and stops a recording,
q or Ctrl-C quits. The status line shows input and output levels, the delay from microphone to loudspeaker,
the load (computing time as a fraction of audio time), and the number of underruns and overruns.
"""

import signal
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from data.audio import Writer, blocks
from engine.arguments import Arguments
from engine.outcome import note, note_replaced, stop_signals
from engine.user_error import UserError, exits_cleanly
from w2w.converter import Converter
from w2w.live.console import KEYS, Console, Keyboard, keyboard
from w2w.live.duplex import Duplex, at_rates, device_end, listed, named, sound_library
from w2w.live.recorder import Recorder
from w2w.live.session import Session, undisturbed
from w2w.networks.wave_network import MOST_SEMITONES
from w2w.stream import HIGHEST_RATE, LOWEST_RATE
from w2w.voices import Voices, check_fit_steps
from w2w.watermark import Marker

MOST_VOICES = 9
CHUNK_MS = (1.0, 1000.0)
BUFFER_MS = (0.0, 500.0)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    if args.list_devices:
        print(listed(sound_library()))
        return
    torch.set_num_threads(1)
    sound = ends = None
    if args.input_file is None:  # checked first: errors should appear before the network is loaded
        sound = sound_library()
        source = device_end(sound, named(args.input_device), "input")
        ends = at_rates(sound, source, device_end(sound, named(args.output_device), "output"), args.rate)
        args.rate = ends[0].rate
    else:
        blocks(args.input_file, None, 1)
    converter = Converter.from_pretrained(args.checkpoint)
    rate = args.rate or converter.sample_rate
    voices = Voices(converter, fit_steps=args.fit_steps)
    embeddings = [voices.average([name]) for name in args.reference]
    embeddings += [converter.voice(name, fit_steps=args.fit_steps) for name in args.voice]
    note(*voices.left_out)
    check_outputs(args, [*voices.files, *([args.input_file] if args.input_file else [])])
    note_replaced(args.output_file, args.record)

    recorder = Recorder(rate, args.record)
    session = Session(
        converter,
        embeddings,
        chunk_ms=args.chunk_ms,
        rate=rate,
        semitones=args.pitch,
        bypass=args.bypass,
        engine=args.engine,
        marker=None if args.no_watermark else Marker(rate),
        recorder=recorder,
    )
    console = Console(session, recorder, [*args.reference, *args.voice])
    console.message(
        f"{rate} Hz, chunks of {1000 * session.chunk_samples / rate:g} ms: algorithmic latency"
        f" {session.latency_ms:.4g} ms, without computing time and devices"
    )
    session.warm_up()
    with ExitStack() as ending:
        stops = ending.enter_context(stop_signals())
        ending.enter_context(stop_on_hangup(stops))
        ending.callback(console.end)
        ending.callback(recorder.stop)
        keys = ending.enter_context(keyboard())
        if keys.descriptor is not None:
            console.message(KEYS)
        if args.record is not None:
            recorder.start()
        ending.enter_context(undisturbed())
        if sound is not None and ends is not None:
            console.message(f"from {ends[0].name} to {ends[1].name}; q or Ctrl-C quits")
            run_devices(Duplex(session, sound, ends, args.buffer_ms), console, keys, stops)
        else:
            run_file(session, args, console, keys, stops)


def parse(argv: Sequence[str] | None) -> Namespace:
    arguments = Arguments.described_by("w2w.live", __doc__)
    option = arguments.add_argument
    several: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    references = "target voices, up to nine (keys 1 to 9): a file, or a folder, which is averaged"
    option("--reference", **several, metavar="VOICE", help=references)
    steps = "optimisation steps that fit a voice to its recordings (default 100, about 10 s; 0: none)"
    option("--fit-steps", type=int, metavar="N", help=steps)
    names = "named voices (listed by `timbre voices`), on the keys after those of --reference"
    option("--voice", **several, metavar="NAME", help=names)
    option("--list-devices", action="store_true", help="list the audio devices and exit")
    option("--input-device", metavar="D", help="microphone: its number or part of its name")
    option("--output-device", metavar="D", help="loudspeaker: its number or part of its name")
    option("--chunk-ms", type=float, default=20.0, metavar="MS", help="chunk length (default 20)")
    depth = "depth of the jitter buffer before the loudspeaker (default 10)"
    option("--buffer-ms", "--cushion-ms", type=float, default=10.0, metavar="MS", help=depth)
    option("--rate", type=int, metavar="HZ", help="sample rate (default: the device's, or the converter's)")
    option("--pitch", type=float, default=0.0, metavar="SEMITONES", help="pitch shift")
    option("--bypass", action="store_true", help="start in bypass, with your own voice")
    option("--record", type=Path, metavar="FILE", help="record the output from the start")
    option("--no-watermark", action="store_true", help="do not add the watermark to converted audio")
    option("--engine", choices=("onnx", "eager"), help="inference by ONNX Runtime (default) or torch")
    checkpoint = "exported converter, or hub:owner/name (default: released_live)"
    option("--checkpoint", default="released_live", metavar="FOLDER", help=checkpoint)
    option("--input-file", type=Path, metavar="FILE", help="source recording instead of the microphone")
    option("--output-file", type=Path, metavar="FILE", help="output file instead of the loudspeaker")
    option("--pace", choices=("live", "fast"), help="file input in real time, or at full speed (default)")
    args = arguments.parse_args(argv)
    if not args.list_devices:
        check(args)
    return args


def check(args: Namespace) -> None:
    n_voices = len(args.reference) + len(args.voice)
    if not n_voices:
        raise UserError("no target voice is given: use --voice NAME, or --reference with a file or a folder")
    if n_voices > MOST_VOICES:
        raise UserError(f"{n_voices} voices are given, but at most {MOST_VOICES} fit the keys: give fewer")
    for here, there in (("input", "output"), ("output", "input")):
        given, missing = getattr(args, f"{here}_file"), getattr(args, f"{there}_file")
        if given is not None and missing is None:
            raise UserError(
                f"--{here}-file {given} needs --{there}-file too: use files or audio devices for both"
            )
        if given is not None and getattr(args, f"{here}_device") is not None:
            raise UserError(f"--{here}-file and --{here}-device exclude one another")
    if args.pace and args.input_file is None:
        raise UserError("--pace applies only with --input-file: a microphone always runs in real time")
    check_fit_steps(args.fit_steps)
    if args.rate is not None and not LOWEST_RATE <= args.rate <= HIGHEST_RATE:
        raise UserError(f"--rate {args.rate} must be within {LOWEST_RATE} and {HIGHEST_RATE} Hz")
    for name, (least, most) in (("chunk_ms", CHUNK_MS), ("buffer_ms", BUFFER_MS)):
        if not least <= getattr(args, name) <= most:
            option = f"--{name.replace('_', '-')} {getattr(args, name):g}"
            raise UserError(f"{option} must be within {least:g} and {most:g} milliseconds")
    if not abs(args.pitch) <= MOST_SEMITONES:
        raise UserError(f"--pitch {args.pitch:g} must be within {MOST_SEMITONES:.0f} semitones of 0")


def check_outputs(args: Namespace, inputs: Sequence[Path]) -> None:
    """Refuse outputs that overwrite an input or each other, or whose name has no known audio format."""
    named_outs = {"--output-file": args.output_file, "--record": args.record}
    outs: dict[str, Path] = {option: out for option, out in named_outs.items() if out is not None}
    for option, out in outs.items():
        Writer(out, 48_000)  # refuses unknown file extensions
        for path in inputs:
            if out.exists() and out.samefile(path):
                raise UserError(f"{option} {out} would overwrite the input {path}: choose another name")
    both = [out.absolute() for out in outs.values()]
    if len(set(both)) < len(both):
        raise UserError(f"--record and --output-file both name {args.record}: choose two different names")


@contextmanager
def stop_on_hangup(stops: list[int]) -> Iterator[None]:
    """Treat SIGHUP (a closed terminal) like Ctrl-C, so that the recording is completed."""
    number = getattr(signal, "SIGHUP", None)
    in_main = threading.current_thread() is threading.main_thread()
    if number is None or not in_main or signal.getsignal(number) is signal.SIG_IGN:  # ignored by nohup
        yield
        return
    before = signal.signal(number, lambda number, frame: stops.append(number))
    try:
        yield
    finally:
        signal.signal(number, before)


def run_devices(duplex: Duplex, console: Console, keys: Keyboard, stops: Sequence[int]) -> None:
    """Convert from microphone to loudspeaker until a key or a signal stops it."""
    with duplex:
        while not stops and console.press(keys.pressed(0.1)):
            duplex.check()
            console.show(duplex.latency_ms, duplex.underruns, duplex.overruns)


def run_file(session: Session, args: Namespace, console: Console, keys: Keyboard, stops: list[int]) -> None:
    """Convert the input file chunk by chunk until its end, a key or a signal; the output is always complete.

    With ``--pace live``, chunks are pushed in real time, as from a microphone; a chunk that is finished only
    after the next one has arrived counts as late.
    """
    live, ended_early = args.pace == "live", False
    began, seconds, latency_ms, n_late = time.monotonic(), 0.0, None, 0
    with Writer(args.output_file, session.rate) as writer:
        for chunk in blocks(args.input_file, session.rate, session.chunk_samples):
            seconds += chunk.shape[-1] / session.rate
            if live:
                time.sleep(max(began + seconds - time.monotonic(), 0.0))
            writer.write(session.push(chunk))
            if live:
                late_s = time.monotonic() - began - seconds
                latency_ms = session.latency_ms + 1000 * max(late_s, 0.0)
                n_late += late_s > session.chunk_samples / session.rate
            ended_early = bool(stops) or not console.press(keys.pressed(0.0))
            console.show(latency_ms, n_late, 0)
            if ended_early:
                break
        writer.write(session.flush())
    console.message(
        f"{seconds:.2f} s of audio, load {session.load.total:.1%} (worst chunk {session.load.worst:.0%})"
        + (f", {n_late} chunks late" if live else "")
    )
    if ended_early:
        console.message(f"ended early: {args.output_file} holds the audio converted so far")
    print(args.output_file)
    if stops:
        sys.exit(130)


if __name__ == "__main__":
    main()
