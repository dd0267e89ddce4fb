"""Export of the step as one file: ONNX, which needs only onnxruntime, or a program, which needs only torch.

In ONNX, the initial state and the voice are the inputs' defaults, and ``describe`` gives the metadata. A
program is run like this:

    about = {"step.json": ""}
    program = torch.export.load("live.pt2", extra_files=about)
    (chunk, voice, semitones, *state), _ = program.example_inputs  # the initial state, and a voice
    wave, *state = program.module()(chunk, voice, semitones, *state)
"""

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from engine.arguments import Arguments
from engine.files import atomic
from engine.outcome import note, note_replaced
from engine.user_error import UserError
from w2w.converter import Converter
from w2w.exported.engine import MOST_HOPS, network_key
from w2w.exported.session import check_exportable
from w2w.exported.step import Step, checked, difference, onnx_model, require_equal, traced
from w2w.networks.network import ConverterNetwork
from w2w.voices import Voices

Voice = Float[Tensor, "1 dim"]
FORMATS = ("weights", "onnx", "torch")
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
CHUNK_MS = 20.0
OF_WEIGHTS = {
    "average": None, "share": 0.5, "spread": 1.0, "data": "", "half": False, "vocoder": None,
    "statistics": None,
}  # fmt: skip
"""Options of the export of weights, with their defaults, that do not apply to a step."""


def add_step_options(parser: Arguments) -> None:
    group = parser.add_argument_group("a live step (--format onnx or torch)")
    group.add_argument("--chunk-ms", type=float, help=f"milliseconds of a step (default {CHUNK_MS:g})")
    group.add_argument("--voice", nargs="+", metavar="CLIP", help="speech of the file's default voice")


def refuse_step_options(args: Namespace) -> None:
    """Raise if an option of steps is given for an export of weights."""
    for name in ("chunk_ms", "voice"):
        if getattr(args, name) is not None:
            option = name.replace("_", "-")
            raise UserError(f"--{option} is for a live step: give --format onnx or torch, or leave it out")


def write_step(args: Namespace, load: Callable[[Path | None], ConverterNetwork]) -> None:
    """Export the step of the network that ``load`` returns, by the command line's options."""
    for name, default in OF_WEIGHTS.items():
        if getattr(args, name) != default:
            raise UserError(
                f"--{name} is for --format weights: export those first, then write the step of that folder"
            )
    network = load(args.run)
    check_exportable(network)
    n_hops = _hops(CHUNK_MS if args.chunk_ms is None else args.chunk_ms, network)
    out = _file(args.out, args.format)
    voice, voice_of = None, ", ".join(Path(clip).name for clip in args.voice or [])
    if args.voice:
        voices = Voices(Converter(network))
        voice = voices.average(args.voice)
        note(*voices.left_out)
    note_replaced(out)
    write = write_onnx if args.format == "onnx" else write_program
    step = Step(network, n_hops)
    error = write(step, out, voice, voice_of)
    print(
        f"wrote {out}: {out.stat().st_size / 2**20:.1f} MiB, steps of {step.chunk_samples} samples at"
        f" {network.sample_rate} Hz, latency {latency_ms(step):g} ms, within {error:.0e} of the network"
    )


def latency_ms(step: Step) -> float:
    return 1000.0 * (step.chunk_samples + step.network.look_ahead) / step.network.sample_rate


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


FORMAT = "timbre converter step"
VERSION = 1
HOW_TO = (
    "Feed `chunk` (chunk_samples of source at sample_rate), `voice` and `semitones` (float64), and every"
    " state_NAME; before the first chunk, leave the states out. Output `wave` is the conversion, late by"
    " look_ahead samples; feed every next_NAME back as state_NAME. End with silence until look_ahead samples"
    " more came out."
)
LICENCE = "MIT, as the weights' own card says; the card also names the training speech and what fails"
CONSENT = (
    "A voice belongs to a person: convert to it with consent, tell listeners, and never to deceive or to pass"
    " speaker verification. The output is not watermarked."
)
HOW_TO_PROGRAM = (
    "The program's example_inputs are a chunk of silence, a voice, semitones (float64) and the state before"
    " the first chunk; it returns the samples, late by look_ahead, and the next state. End with silence until"
    " look_ahead samples more came out."
)


def describe(step: Step, found: float, voice_of: str) -> dict[str, str]:
    """Metadata of an exported step as text by name; nested values are JSON."""
    network = step.network
    state = {
        name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        for name, tensor in step.begun.items()
    }
    return {
        "format": FORMAT,
        "version": str(VERSION),
        "sample_rate": str(network.sample_rate),
        "hop": str(network.hop),
        "chunk_samples": str(step.chunk_samples),
        "look_ahead": str(network.look_ahead),
        "latency_ms": f"{latency_ms(step):g}",
        "voice_dim": str(network.voice_dim),
        "voice_of": voice_of,
        "moves_pitch": json.dumps(network.moves_pitch),
        "state": json.dumps(state),
        "difference": f"{found:.1e}",
        "key": network_key(network),
        "how_to": HOW_TO,
        "licence": LICENCE,
        "consent": CONSENT,
    }


def write_onnx(step: Step, out: Path, voice: Voice | None, voice_of: str) -> float:
    """Write the step as ONNX; return by how much it differed from the network."""
    from onnx import numpy_helper

    model = onnx_model(step, voice)
    error = checked(step, model.SerializeToString())
    defaults = {"semitones": torch.zeros(1, dtype=torch.float64)}
    defaults |= {"voice": voice} if voice is not None else {}
    defaults |= {f"state_{name}": tensor for name, tensor in step.begun.items()}
    for name, tensor in defaults.items():
        model.graph.initializer.append(numpy_helper.from_array(tensor.cpu().numpy(), name))
    for name, text in describe(step, error, voice_of).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text
    model.doc_string, model.producer_name = HOW_TO, "timbre"
    with atomic(out) as temporary:
        temporary.write_bytes(model.SerializeToString())
    return error


def write_program(step: Step, out: Path, voice: Voice | None, voice_of: str) -> float:
    """Write the step as a program of torch; return by how much it differed from the network."""
    program = traced(step, voice)
    error = difference(step, program.module())
    require_equal(error, "the torch program")
    about = describe(step, error, voice_of) | {"how_to": HOW_TO_PROGRAM}
    with atomic(out) as temporary:
        torch.export.save(program, temporary, extra_files={"step.json": json.dumps(about, indent=2)})
    return error
