"""Fitting a voice to recordings of its speaker by gradient descent on their reconstruction.

The style encoder computes a voice in one pass, which is a guess for a speaker unlike those of its training.
With frozen networks, gradient descent on the voice's timbre reduces the spectral distance between the
recordings and their reconstruction. Words are not fitted, since they are in the code.
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
"""Default number of optimisation steps; the environment variable TIMBRE_FIT_STEPS overrides it."""
LEARNING_RATE = 0.2
"""Adam's initial learning rate, in units of the timbre embedding; decays linearly to zero."""
SEGMENTS = 2
"""Segments per optimisation step (the batch size)."""
SEGMENT_FRAMES = 128
"""Frames of a segment: 1.28 s."""
DRAWS = 2
"""Candidate positions drawn per segment; the louder one is used."""
LEVEL_DBFS = -23.0
"""Level of the recordings in the loss, as in training."""
LONGEST_S, MOST_CLIPS = 30.0, 8
"""Seconds of each recording, and number of recordings, that are used at most."""


def fit(network: ConverterNetwork, voice: Voice, clips: Sequence[Wave], *, steps: int | None = None) -> Voice:
    """Fit a voice with a progress bar and an on-disk cache; see ``fitted``."""
    from w2w.exported.engine import network_key

    steps = int(os.environ.get("TIMBRE_FIT_STEPS", STEPS)) if steps is None else steps
    if steps < 1:
        return voice
    clips = [clip[..., : round(LONGEST_S * network.sample_rate)] for clip in clips[:MOST_CLIPS]]
    settings = f"{network_key(network)} {steps} {LEARNING_RATE} {SEGMENTS} {SEGMENT_FRAMES}"
    digest = hashlib.sha256(settings.encode())
    for tensor in (voice, *clips):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    file = cache_folder() / "voices" / f"{digest.hexdigest()[:32]}.npy"
    with suppress(OSError, ValueError):  # missing or damaged
        cached = np.load(file)
        if cached.shape == tuple(voice.shape):
            return torch.from_numpy(cached).to(voice)
    _note_once()
    with tqdm(
        total=steps, desc="fitting the voice", unit="step", delay=1.0, leave=False, disable=None
    ) as bar:
        fitted_voice = fitted(network, voice, clips, steps=steps, done=lambda step: bar.update())
    with suppress(OSError), atomic(file) as temporary:  # without a writable cache, it is fitted again
        np.save(temporary, fitted_voice.cpu().numpy())
    return fitted_voice


@cache
def _note_once() -> None:
    note("a voice is fitted to its recordings once, in about ten seconds; --fit-steps 0 skips this")


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

    The same clips and seed give the same voice. ``done`` is called after every step with its number.
    """
    draw = torch.Generator().manual_seed(seed)
    with torch.inference_mode(False), torch.enable_grad():
        distance = SpectralDistance(network.sample_rate).to(voice.device)
        recordings = [encode(network, clip.to(voice.device)) for clip in clips]
        timbre, mean_log_f0 = voice[:, :-1].clone().requires_grad_(), voice[:, -1:].clone()
        adam = torch.optim.Adam([timbre], LEARNING_RATE)
        for step in range(steps):
            adam.param_groups[0]["lr"] = LEARNING_RATE * (1.0 - step / steps)
            encoded, truth = segments(recordings, draw, network.hop)
            voices = torch.cat([timbre, mean_log_f0], dim=-1).expand(len(truth), -1)
            state = network.begin_decoder(len(truth))
            wave, _ = network.decode(encoded, encoded.pitch, voices, state)
            lag = network.look_ahead
            loss = distance(wave[..., lag:], truth[..., : truth.shape[-1] - lag])
            (timbre.grad,) = torch.autograd.grad(loss, [timbre])
            adam.step()
            done(step + 1)
        return torch.cat([timbre.detach(), mean_log_f0], dim=-1)


@torch.no_grad()
def encode(network: ConverterNetwork, clip: Wave) -> Recording:
    """Encode a clip at the training level; return its features and the clip, padded to whole hops."""
    wave = clip * gain_to(clip, LEVEL_DBFS)[:, None, None]
    shortest = SEGMENT_FRAMES * network.hop
    wave = wave.repeat(1, 1, -(-shortest // wave.shape[-1]))[..., : round(LONGEST_S * network.sample_rate)]
    padded = network.pad_look_ahead(wave)
    return network.encode(padded, padded), padded


def segments(recordings: Sequence[Recording], draw: torch.Generator, hop: int) -> Recording:
    """Draw a batch of random segments of the recordings, each at the loudest of several positions."""
    encoded, waves = [], []
    for _ in range(SEGMENTS):
        whole, wave = recordings[int(torch.randint(len(recordings), (), generator=draw))]
        starts = torch.randint(whole.pitch.log_f0.shape[-1] - SEGMENT_FRAMES + 1, (DRAWS,), generator=draw)
        cuts = [slice(int(start), int(start) + SEGMENT_FRAMES) for start in starts]
        cut = max(cuts, key=lambda cut: float(whole.content.energy[..., cut].mean()))
        content = Content(*(part[..., cut] for part in whole.content))
        pitch = Pitch(*(part[..., cut] for part in whole.pitch))
        encoded.append(Encoded(content, pitch, whole.mean_log_f0[..., cut]))
        waves.append(wave[..., cut.start * hop : cut.stop * hop])
    contents, pitches, means = zip(*encoded)
    content, pitch = Content(*map(torch.cat, zip(*contents))), Pitch(*map(torch.cat, zip(*pitches)))
    return Encoded(content, pitch, torch.cat(means)), torch.cat(waves)
