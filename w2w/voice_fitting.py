"""A voice fitted to its recordings: what the style encoder heard, moved to where they are rebuilt best.

The encoder makes a voice in one pass; for somebody unlike those it learned from, that is a guess. The decoder
can say more: with the networks as they are, gradient descent on the voice's timbre alone brings the
recordings' own resynthesis nearer to them. Nothing of the words is learned, for the code says those.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from engine.files import atomic, cache_folder
from engine.outcome import note
from pretrain.causal.encoder import Content
from pretrain.pitch.tracker import Pitch
from w2w.cluit.losses import SpectralDistance
from w2w.cluit.rows import gain_to
from w2w.networks.network import ConverterNetwork, Encoded

Wave = Float[Tensor, "1 1 _"]
Voice = Float[Tensor, "1 dim"]
Recording = tuple[Encoded, Float[Tensor, "_ 1 _"]]
STEPS = 100
"""Unless the environment variable TIMBRE_FIT_STEPS says otherwise."""
RATE = 0.2
"""Of Adam at the first step, in a timbre's own units; it falls to nothing in a straight line."""
STRETCHES = 2
"""Rebuilt in a step."""
FRAMES = 128
"""Of a stretch: 1.28 s."""
DRAWS = 2
"""Places of which the louder one is taken."""
LEVEL_DBFS = -23.0
"""Level of the speech that the loss compares, as in training."""
LONGEST_S, MOST_CLIPS = 30.0, 8
"""Seconds of a recording, and recordings, that are listened to."""


def fit(network: ConverterNetwork, voice: Voice, clips: Sequence[Wave], *, steps: int | None = None) -> Voice:
    """As ``fitted``, told by a progress bar; a voice that was fitted before is in the user's cache."""
    from w2w.exported.engine import network_key

    steps = int(os.environ.get("TIMBRE_FIT_STEPS", STEPS)) if steps is None else steps
    if steps < 1:
        return voice
    clips = [clip[..., : round(LONGEST_S * network.sample_rate)] for clip in clips[:MOST_CLIPS]]
    digest = hashlib.sha256(f"{network_key(network)} {steps} {RATE} {STRETCHES} {FRAMES}".encode())
    for tensor in (voice, *clips):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    file = cache_folder() / "voices" / f"{digest.hexdigest()[:32]}.npy"
    with suppress(OSError, ValueError):  # not there, or damaged
        kept = np.load(file)
        if kept.shape == tuple(voice.shape):
            return torch.from_numpy(kept).to(voice)
    _tell()
    with tqdm(
        total=steps, desc="fitting the voice", unit="step", delay=1.0, leave=False, disable=None
    ) as bar:
        fitted_voice = fitted(network, voice, clips, steps=steps, done=lambda step: bar.update())
    with suppress(OSError), atomic(file) as temporary:  # no place for a cache: it is fitted again next time
        np.save(temporary, fitted_voice.cpu().numpy())
    return fitted_voice


@cache
def _tell() -> None:
    note("a voice is fitted to its recordings once, in some ten seconds; --fit-steps 0 leaves that out")


def fitted(
    network: ConverterNetwork,
    voice: Voice,
    clips: Sequence[Wave],
    *,
    steps: int = STEPS,
    seed: int = 0,
    done: Callable[[int], object] = lambda step: None,
) -> Voice:
    """Fit the timbre of a voice to clips of its speaker, at the network's rate; its mean log-F0 stays.

    The same clips and seed give the same voice. ``done`` hears of every step.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False), torch.enable_grad():
        distance = SpectralDistance(network.sample_rate).to(voice.device)
        recordings = [encode(network, clip.to(voice.device)) for clip in clips]
        timbre, mean_log_f0 = voice[:, :-1].clone().requires_grad_(), voice[:, -1:].clone()
        adam = torch.optim.Adam([timbre], RATE)
        for step in range(steps):
            adam.param_groups[0]["lr"] = RATE * (1.0 - step / steps)
            encoded, truth = stretches(recordings, draw, network.hop)
            rows = torch.cat([timbre, mean_log_f0], dim=-1).expand(len(truth), -1)
            state = network.begin_decoder(len(truth))
            wave, _ = network.decode(encoded, encoded.pitch, rows, state)
            lag = network.look_ahead
            loss = distance(wave[..., lag:], truth[..., : truth.shape[-1] - lag])
            (timbre.grad,) = torch.autograd.grad(loss, [timbre])
            adam.step()
            done(step + 1)
        return torch.cat([timbre.detach(), mean_log_f0], dim=-1)


@torch.no_grad()
def encode(network: ConverterNetwork, clip: Wave) -> Recording:
    """What the network takes from a clip, at the level of its training, and the clip; in whole hops."""
    wave = clip * gain_to(clip, LEVEL_DBFS)[:, None, None]
    shortest = FRAMES * network.hop
    wave = wave.repeat(1, 1, -(-shortest // wave.shape[-1]))[..., : round(LONGEST_S * network.sample_rate)]
    padded = network.pad_look_ahead(wave)
    return network.encode(padded, padded), padded


def stretches(recordings: Sequence[Recording], draw: torch.Generator, hop: int) -> Recording:
    """Random stretches of the recordings, a row each; of several places drawn the loudest."""
    encoded, waves = [], []
    for _ in range(STRETCHES):
        of, wave = recordings[int(torch.randint(len(recordings), (), generator=draw))]
        places = torch.randint(of.pitch.log_f0.shape[-1] - FRAMES + 1, (DRAWS,), generator=draw)
        cuts = [slice(int(start), int(start) + FRAMES) for start in places]
        cut = max(cuts, key=lambda cut: float(of.content.energy[..., cut].mean()))
        content = Content(*(part[..., cut] for part in of.content))
        encoded.append(
            Encoded(content, Pitch(*(part[..., cut] for part in of.pitch)), of.mean_log_f0[..., cut])
        )
        waves.append(wave[..., cut.start * hop : cut.stop * hop])
    contents, pitches, means = zip(*encoded)
    together = Encoded(
        Content(*map(torch.cat, zip(*contents))), Pitch(*map(torch.cat, zip(*pitches))), torch.cat(means)
    )
    return together, torch.cat(waves)
