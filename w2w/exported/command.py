"""The part of ``python -m w2w.export`` that writes one live step as one file."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from engine.arguments import Arguments
from engine.outcome import note, note_replaced
from engine.user_error import UserError
from w2w.converter import Converter
from w2w.exported.engine import MOST_HOPS
from w2w.exported.step import check_exportable
from w2w.networks.network import ConverterNetwork
from w2w.voices import Voices

FORMATS = ("weights", "onnx", "torch")
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
CHUNK_MS = 20.0
OF_WEIGHTS = {
    "average": None, "share": 0.5, "spread": 1.0, "data": "", "vocoder": None, "statistics": None
}  # fmt: skip
"""Options, and their defaults, that make weights and say nothing of a step."""


def add_step_options(parser: Arguments) -> None:
    """Add the options that only a step knows."""
    group = parser.add_argument_group("a live step (--format onnx or torch)")
    group.add_argument("--chunk-ms", type=float, help=f"milliseconds of a step (default {CHUNK_MS:g})")
    group.add_argument(
        "--voice", nargs="+", metavar="CLIP", help="speech whose voice the file has where none is fed"
    )


def refuse_step_options(args: Namespace) -> None:
    """Say that weights have no chunks and no voice."""
    for name in ("chunk_ms", "voice"):
        if getattr(args, name) is not None:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is for a live step: give --format onnx or torch, or leave it out")


def write_step(args: Namespace, load: Callable[[Path | None], ConverterNetwork]) -> None:
    """Write the file that the command line names, of the network that ``load`` finds, and say what."""
    for name, default in OF_WEIGHTS.items():
        if getattr(args, name) != default:
            raise UserError(
                f"--{name} is for --format weights: export those first, then write the step of that folder"
            )
    network = load(args.run)
    check_exportable(network)
    n_hops = _hops(CHUNK_MS if args.chunk_ms is None else args.chunk_ms, network)
    out = _file(args.out, args.format)
    voice = None
    if args.voice:
        voices = Voices(Converter(network))
        voice = voices.average(args.voice)
        note(*voices.left_out)
    voice_of = ", ".join(Path(clip).name for clip in args.voice or [])
    if args.format == "onnx":
        from w2w.exported.files import write_onnx as write
    else:
        from w2w.exported.files import write_program as write
    note_replaced(out)
    found = write(network, out, n_hops, voice=voice, voice_of=voice_of)
    latency = 1000.0 * (n_hops * network.hop + network.look_ahead) / network.sample_rate
    print(
        f"wrote {out}: {out.stat().st_size / 2**20:.1f} MiB, steps of {n_hops * network.hop} samples at"
        f" {network.sample_rate} Hz, latency {latency:g} ms, within {found:.0e} of the network"
    )


def _hops(chunk_ms: float, network: ConverterNetwork) -> int:
    frame_ms = 1000.0 * network.hop / network.sample_rate
    hops = round(chunk_ms / frame_ms)
    if not 1 <= hops <= MOST_HOPS or abs(hops * frame_ms - chunk_ms) > 1e-6:
        raise UserError(
            f"--chunk-ms {chunk_ms:g} must be a multiple of this converter's frame of {frame_ms:g} ms, from"
            f" {frame_ms:g} to {MOST_HOPS * frame_ms:g}"
        )
    return hops


def _file(out: Path | None, kind: str) -> Path:
    suffix = SUFFIXES[kind]
    if out is None:
        raise UserError(f"--out must name the file to write, such as live{suffix}")
    if out.suffix != suffix or out.is_dir():
        raise UserError(
            f"--out {out} must be a file that ends in {suffix}, which is what --format {kind} writes"
        )
    return out
