"""The step as one file: ONNX, which onnxruntime alone can run, or a program, which torch alone can run.

In ONNX the initial state and the voice are the inputs' defaults, and what ``describe`` says is the
metadata. A program is run so:

    about = {"step.json": ""}
    program = torch.export.load("live.pt2", extra_files=about)
    (chunk, voice, semitones, *state), _ = program.example_inputs  # the initial state, and a voice
    wave, *state = program.module()(chunk, voice, semitones, *state)
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from w2w.exported.checking import difference, require_equal
from w2w.exported.engine import network_key
from w2w.exported.onnx_step import checked, onnx_model
from w2w.exported.step import Step, traced
from w2w.networks.network import ConverterNetwork

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
    " speaker verification. What comes out is not watermarked."
)
HOW_TO_PROGRAM = (
    "The program's example_inputs are a chunk of silence, a voice, semitones (float64) and the state before"
    " the first chunk; it returns the samples, late by look_ahead, and the next state. End with silence until"
    " look_ahead samples more came out."
)


def describe(
    network: ConverterNetwork, begun: Mapping[str, Tensor], n_hops: int, found: float, voice_of: str
) -> dict[str, str]:
    """Name and value of each thing to know, as text; what is nested is JSON."""
    rate, chunk_samples = network.sample_rate, n_hops * network.hop
    state = {
        name: {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
        for name, tensor in begun.items()
    }
    return {
        "format": FORMAT,
        "version": str(VERSION),
        "sample_rate": str(rate),
        "hop": str(network.hop),
        "chunk_samples": str(chunk_samples),
        "look_ahead": str(network.look_ahead),
        "latency_ms": f"{1000.0 * (chunk_samples + network.look_ahead) / rate:g}",
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


def write_onnx(
    network: ConverterNetwork,
    out: Path,
    n_hops: int,
    *,
    voice: Float[Tensor, "1 dim"] | None = None,
    voice_of: str = "",
) -> float:
    """Write the step of ``n_hops`` hops as ONNX; return by how much it differed from the network."""
    from onnx import numpy_helper

    step = Step(network, n_hops)
    model = onnx_model(step, voice)
    found = checked(step, model.SerializeToString())
    defaults = {"semitones": torch.zeros(1, dtype=torch.float64)} | (
        {"voice": voice} if voice is not None else {}
    )
    defaults |= {f"state_{name}": tensor for name, tensor in step.begun.items()}
    for name, tensor in defaults.items():
        model.graph.initializer.append(numpy_helper.from_array(tensor.cpu().numpy(), name))
    for name, text in describe(network, step.begun, n_hops, found, voice_of).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text
    model.doc_string, model.producer_name = HOW_TO, "timbre"
    draft = _draft(out)
    draft.write_bytes(model.SerializeToString())
    os.replace(draft, out)
    return found


def write_program(
    network: ConverterNetwork,
    out: Path,
    n_hops: int,
    *,
    voice: Float[Tensor, "1 dim"] | None = None,
    voice_of: str = "",
) -> float:
    """Write the step of ``n_hops`` hops as a program of torch; return its difference from the network."""
    step = Step(network, n_hops)
    program = traced(step, voice)
    run = program.module()

    def stepped(
        chunk: Tensor, voice: Tensor, semitones: Tensor, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        wave, *after = run(chunk, voice, semitones, *state.values())
        return wave, dict(zip(state, after))

    found = difference(network, stepped, step.begun, n_hops)
    require_equal(found, "the torch program")
    about = describe(network, step.begun, n_hops, found, voice_of) | {"how_to": HOW_TO_PROGRAM}
    draft = _draft(out)
    torch.export.save(program, draft, extra_files={"step.json": json.dumps(about, indent=2)})
    os.replace(draft, out)
    return found


def _draft(out: Path) -> Path:
    """Where a file is written before it bears its name."""
    out.parent.mkdir(parents=True, exist_ok=True)
    return out.with_name(f".draft.{out.name}")
