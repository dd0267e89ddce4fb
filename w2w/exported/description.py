"""What an exported file says of itself, so that its user needs nothing else to run it."""

import hashlib
import json
from collections.abc import Mapping

import torch
from torch import Tensor

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


def network_key(network: ConverterNetwork) -> str:
    """A digest of config and weights: equal keys convert alike."""
    digest = hashlib.sha256(repr(network.config).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(memoryview(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()[:16]
