"""The step as one file of torch, which needs torch to run and nothing of this package.

    told = {"step.json": ""}
    program = torch.export.load("live.pt2", extra_files=told)
    (chunk, voice, semitones, *state), _ = program.example_inputs  # the initial state, and a voice
    wave, *state = program.module()(chunk, voice, semitones, *state)

``told`` then holds what ``description`` says of the file, as JSON.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from engine.files import atomic
from w2w.exported.checking import difference, require_equal
from w2w.exported.description import describe
from w2w.exported.step_graph import StepGraph
from w2w.networks.network import ConverterNetwork

HOW_TO = (
    "The program's example_inputs are a chunk of silence, a voice, semitones (float64) and the state before"
    " the first chunk; it returns the samples, late by look_ahead, and the next state. End with silence until"
    " look_ahead samples more came out."
)


def write_program(
    network: ConverterNetwork,
    out: Path,
    n_hops: int,
    *,
    voice: Float[Tensor, "1 dim"] | None = None,
    voice_of: str = "",
) -> float:
    """Write the step of ``n_hops`` hops as a file; return by how much it differed from the network."""
    graph = StepGraph(network, n_hops)
    program = traced(graph, voice)
    run = program.module()

    def step(
        chunk: Tensor, voice: Tensor, semitones: Tensor, state: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        wave, *after = run(chunk, voice, semitones, *state.values())
        return wave, dict(zip(state, after))

    found = difference(network, step, graph.begun, n_hops)
    require_equal(found, "the torch program")
    told = describe(network, graph.begun, n_hops, found, voice_of) | {"how_to": HOW_TO}
    with atomic(out) as temporary:
        torch.export.save(program, temporary, extra_files={"step.json": json.dumps(told, indent=2)})
    return found


def traced(graph: StepGraph, voice: Float[Tensor, "1 dim"] | None = None) -> torch.export.ExportedProgram:
    """The graph as torch's exporter sees it; its example inputs are the first step's."""
    chunk = torch.zeros(1, 1, graph.chunk_samples)
    voice = torch.zeros(1, graph.voice_dim) if voice is None else voice.cpu()
    examples = (chunk, voice, torch.zeros(1, dtype=torch.float64), *graph.begun.values())
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of deprecations inside torch
        return torch.export.export(graph, examples, strict=False)
