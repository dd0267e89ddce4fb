"""What a vocoder's copy of a recording is worth: distances of spectra, PESQ, and pitch.

Every score takes the recording and its copy, cuts both to the shorter, and returns a float.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

from data.audio import resample
from data.frontends import HIFIGAN, LogMel, MelConfig, named_mel
from engine.tracking import Samples
from engine.user_error import UserError
from vocoders.scores.pitch import pitch_scores
from vocoders.scores.stft_distance import MultiResolutionSTFT

Wave = Float[Tensor, "1 1 samples"]
Mel = Float[Tensor, "1 n_mels frames"]


Copy = Float[Tensor, "1 1 copy_samples"]

PESQ_RATE = 16_000
_NAMES = {16_000: "speech16k", 22_050: "hifigan_full_band", 24_000: "speech24k"}


def full_band_mel(sample_rate: int) -> MelConfig:
    """The mel definition that scores at a rate use: up to half the rate, natural log, one per rate."""
    if sample_rate in _NAMES:
        return named_mel(_NAMES[sample_rate])
    return replace(HIFIGAN, sample_rate=sample_rate, f_max=sample_rate / 2)


def log_mel_l1(reference: Wave, generated: Copy, sample_rate: int, mel: MelConfig | None = None) -> float:
    """Mean absolute difference of log-mels, in nepers: by ``mel``, or by ``full_band_mel``."""
    reference, generated = _alike(reference, generated)
    log_mel = _log_mel(replace(mel or full_band_mel(sample_rate), log="ln"))
    if log_mel.config.sample_rate != sample_rate:
        raise UserError(f"a mel at {log_mel.config.sample_rate} Hz cannot score waves at {sample_rate} Hz")
    return float((log_mel(reference) - log_mel(generated)).abs().mean())


def multi_resolution_stft_distance(reference: Wave, generated: Copy, sample_rate: int) -> float:
    """Yamamoto's distance: spectral convergence plus log-magnitude L1, the mean over three resolutions."""
    reference, generated = _alike(reference, generated)
    return float(_stft_distance()(generated, reference))


def pesq(reference: Wave, generated: Copy, sample_rate: int) -> float:
    """Wide-band PESQ (ITU-T P.862.2) at 16 kHz, 1.0 to 4.64; NaN where it hears no speech.

    ``UserError`` where the package is not installed.
    """
    try:
        import pesq as package  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("PESQ needs the package pesq, which compiles C: pip install pesq") from None
    reference, generated = _alike(reference, generated)
    if sample_rate != PESQ_RATE:
        reference, generated = (resample(w, sample_rate, PESQ_RATE) for w in (reference, generated))
    if not generated.abs().max() > 1e-6:  # its level alignment would divide by nothing
        return math.nan
    try:
        return float(package.pesq(PESQ_RATE, reference[0, 0].numpy(), generated[0, 0].numpy(), "wb"))
    except package.PesqError:  # too short, or no utterance detected
        return math.nan


def scores(reference: Wave, generated: Copy, sample_rate: int) -> dict[str, float]:
    """All scores by name; PESQ is left out where its package is not installed."""
    values = {
        "log_mel_l1": log_mel_l1(reference, generated, sample_rate),
        "stft_distance": multi_resolution_stft_distance(reference, generated, sample_rate),
        **pitch_scores(*_alike(reference, generated), sample_rate),
    }
    if has_pesq():
        values["pesq"] = pesq(reference, generated, sample_rate)
    return values


@torch.inference_mode()
def evaluate(vocoder: Callable[[Mel], Tensor], waves: Sequence[Wave], log_mel: LogMel) -> dict[str, float]:
    """Copy recordings from their mels and return the mean of every score; NaN values count in no mean.

    The mel goes to the vocoder on ``log_mel``'s device; a score that no recording has is left out.
    """
    columns: dict[str, list[float]] = {}
    for wave in waves:
        generated = vocoder(log_mel(wave.to(log_mel.window.device)))
        for name, value in scores(wave, generated, log_mel.config.sample_rate).items():
            columns.setdefault(name, []).append(value)
    finite = {name: [v for v in values if not math.isnan(v)] for name, values in columns.items()}
    return {name: sum(values) / len(values) for name, values in finite.items() if values}


@lru_cache(maxsize=1)
def has_pesq() -> bool:
    """Whether the package that computes PESQ is installed."""
    try:
        import pesq  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        return False
    return True


def _alike(reference: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """Both as float32 on the processor, as long as the shorter."""
    n_samples = min(reference.shape[-1], generated.shape[-1])
    return reference[..., :n_samples].detach().float().cpu(), generated[
        ..., :n_samples
    ].detach().float().cpu()


@lru_cache(maxsize=8)
def _log_mel(config: MelConfig) -> LogMel:
    return LogMel(config)


@lru_cache(maxsize=1)
def _stft_distance() -> MultiResolutionSTFT:
    return MultiResolutionSTFT()


N_SHOWN = 3
"""Validation waves that are shown."""


def resynthesise(vocoder: Callable[[Mel], Tensor], log_mel: LogMel, waves: Sequence[Wave]) -> Samples:
    """Each wave beside what the vocoder makes of its mel."""
    audio, mels = {}, {}
    for i, wave in enumerate(waves[:N_SHOWN]):
        mel = log_mel(wave.to(log_mel.window.device))
        copy = vocoder(mel)
        for name, sound in (("original", wave), ("resynthesised", copy)):
            audio[f"{name}/{i}"] = (sound, log_mel.config.sample_rate)
            mels[f"{name}/{i}"] = log_mel(sound.to(mel.device))[0]
    return Samples(audio=audio, mels=mels)


def score(vocoder: Callable[[Mel], Tensor], log_mel: LogMel, waves: Sequence[Wave]) -> dict[str, float]:
    """Validation figures, means over the waves."""
    return evaluate(vocoder, waves, log_mel) if waves else {}
