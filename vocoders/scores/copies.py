"""Scores of a vocoder's resynthesis (copy) of a recording: spectral distances, PESQ, and pitch.

Every score takes the recording and its copy, cuts both to the shorter length, and returns a float.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib.util import find_spec

import torch
from jaxtyping import Float
from torch import Tensor, nn

from data.audio import resample
from data.frontends import HIFIGAN, LogMel, named_mel, stft
from engine.tracking import Samples
from engine.user_error import UserError
from vocoders.scores.pitch import pitch_scores

Wave = Float[Tensor, "1 1 samples"]
Waves = Float[Tensor, "batch 1 samples"]
Mel = Float[Tensor, "1 n_mels frames"]
Copy = Float[Tensor, "1 1 copy_samples"]

PESQ_RATE = 16_000
_NAMES = {16_000: "speech16k", 22_050: "hifigan_full_band", 24_000: "speech24k"}
RESOLUTIONS = ((1024, 120, 600), (2048, 240, 1200), (512, 50, 240))
"""FFT size, hop and window of the paper's table 1, for 24 kHz, used at every sample rate."""
POWER_FLOOR = 1e-7
"""Minimum power: keeps the gradients of root and logarithm finite in silence."""


class MultiResolutionSTFT(nn.Module):
    """The multi-resolution STFT distance (Yamamoto, Song, Kim 2020, arXiv:1910.11480), a loss and a score.

    Mean over resolutions of spectral convergence plus the L1 of log-magnitudes; 0 for equal waves. Gradients
    reach only the generated wave. Spectral convergence is one ratio of norms over the whole batch, as
    published: a silent crop has no influence on it and causes no division by 0. Waves shorter than half of
    the longest FFT raise ``ValueError``.
    """

    def __init__(self) -> None:
        super().__init__()
        for i, (_, _, win) in enumerate(RESOLUTIONS):
            self.register_buffer(f"window_{i}", torch.hann_window(win), persistent=False)

    def forward(self, generated: Waves, reference: Waves) -> Float[Tensor, ""]:
        terms = []
        for i in range(len(RESOLUTIONS)):
            fake = self.magnitudes(generated, i)
            with torch.no_grad():
                real = self.magnitudes(reference, i)
            convergence = torch.linalg.vector_norm(real - fake) / torch.linalg.vector_norm(real)
            terms.append(convergence + (real.log() - fake.log()).abs().mean())
        return torch.stack(terms).mean()

    def magnitudes(self, wave: Waves, i: int) -> Float[Tensor, "batch bins frames"]:
        """The floored magnitudes at one resolution."""
        n_fft, hop, win = RESOLUTIONS[i]
        window = self.get_buffer(f"window_{i}")
        spectrum = stft(wave, n_fft=n_fft, hop=hop, win=win, padding="center", window=window)
        power = spectrum.real.square() + spectrum.imag.square()
        return power.clamp_min(POWER_FLOOR).sqrt()


@cache
def full_band_log_mel(sample_rate: int) -> LogMel:
    """The log-mel of scores at a sample rate: up to half the rate, natural log."""
    if sample_rate in _NAMES:
        return LogMel(named_mel(_NAMES[sample_rate]))
    return LogMel(replace(HIFIGAN, sample_rate=sample_rate, f_max=sample_rate / 2))


def log_mel_l1(reference: Wave, generated: Copy, sample_rate: int) -> float:
    """Mean absolute difference of log-mels up to half the sample rate, in nepers."""
    reference, generated = _alike(reference, generated)
    log_mel = full_band_log_mel(sample_rate)
    return float((log_mel(reference) - log_mel(generated)).abs().mean())


def pesq(reference: Wave, generated: Copy, sample_rate: int) -> float:
    """Wide-band PESQ (ITU-T P.862.2) at 16 kHz, 1.0 to 4.64; NaN if it detects no speech.

    Raises ``UserError`` if the package is not installed.
    """
    try:
        import pesq as package  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise UserError("PESQ needs the package pesq, which compiles C: pip install pesq") from None
    reference, generated = _alike(reference, generated)
    if sample_rate != PESQ_RATE:
        reference, generated = (resample(w, sample_rate, PESQ_RATE) for w in (reference, generated))
    if not generated.abs().max() > 1e-6:  # its level alignment would divide by 0
        return math.nan
    try:
        return float(package.pesq(PESQ_RATE, reference[0, 0].numpy(), generated[0, 0].numpy(), "wb"))
    except package.PesqError:  # too short, or no utterance detected
        return math.nan


def scores(reference: Wave, generated: Copy, sample_rate: int) -> dict[str, float]:
    """All scores by name; PESQ only if its package is installed."""
    reference, generated = _alike(reference, generated)
    values = {
        "log_mel_l1": log_mel_l1(reference, generated, sample_rate),
        "stft_distance": float(MultiResolutionSTFT()(generated, reference)),
        **pitch_scores(reference, generated, sample_rate),
    }
    if has_pesq():
        values["pesq"] = pesq(reference, generated, sample_rate)
    return values


@torch.inference_mode()
def evaluate(vocoder: Callable[[Mel], Tensor], log_mel: LogMel, waves: Sequence[Wave]) -> dict[str, float]:
    """Resynthesise recordings from their mels and return the mean of every score, ignoring NaN.

    The vocoder's input is on ``log_mel``'s device; scores without any finite value are left out.
    """
    columns: dict[str, list[float]] = {}
    for wave in waves:
        generated = vocoder(log_mel(wave.to(log_mel.window.device)))
        for name, value in scores(wave, generated, log_mel.config.sample_rate).items():
            columns.setdefault(name, []).append(value)
    finite = {name: [v for v in values if not math.isnan(v)] for name, values in columns.items()}
    return {name: sum(values) / len(values) for name, values in finite.items() if values}


def has_pesq() -> bool:
    """Whether the package that computes PESQ is installed."""
    return find_spec("pesq") is not None


def _alike(reference: Tensor, generated: Tensor) -> tuple[Tensor, Tensor]:
    """Both waves as float32 on the CPU, cut to the shorter length."""
    n_samples = min(reference.shape[-1], generated.shape[-1])
    first, second = (wave[..., :n_samples].detach().float().cpu() for wave in (reference, generated))
    return first, second


N_SHOWN = 3
"""Validation waves that are logged."""


def resynthesise(vocoder: Callable[[Mel], Tensor], log_mel: LogMel, waves: Sequence[Wave]) -> Samples:
    """Each wave and its resynthesis from its mel, as audio and mels to log."""
    audio, mels = {}, {}
    for i, wave in enumerate(waves[:N_SHOWN]):
        mel = log_mel(wave.to(log_mel.window.device))
        copy = vocoder(mel)
        for name, sound in (("original", wave), ("resynthesised", copy)):
            audio[f"{name}/{i}"] = (sound, log_mel.config.sample_rate)
            mels[f"{name}/{i}"] = log_mel(sound.to(mel.device))[0]
    return Samples(audio=audio, mels=mels)
