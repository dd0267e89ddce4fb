"""Changes to marked recordings: codecs, sample rates, noise, reverberation, speed and attacks."""

import io
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import soundfile
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from data.audio.resampling import resample
from data.augment import parametric_eq, reverberation
from data.pitch_shift import shift_pitch_and_formants, stretch
from engine.user_error import UserError
from vocoders.loading import load_vocoder
from w2w import Converter
from w2w.watermark import DEFAULT_KEY, Marker

Wave = Float[Tensor, "1 1 samples"]
Changed = Float[Tensor, "1 1 changed"]
Change = Callable[[Wave], Tensor]
RATE = 16_000


def changes(converter: Converter, voice: Float[Tensor, "1 dim"], others: Wave) -> dict[str, Change]:
    """Changes by name, in the order of the table.

    ``voice`` is the target of a second conversion; ``others`` is unmarked speech to mix in, at least as long
    as any recording.
    """
    random = torch.Generator().manual_seed(0)
    vocoder = load_vocoder("released")
    changes: dict[str, Change] = {
        "nothing": lambda wave: wave,
        "16 → 8 → 16 kHz": lambda wave: resample(resample(wave, RATE, 8_000), 8_000, RATE),
        "16 → 44.1 kHz, 16 bit → 16 kHz": lambda wave: _bits(resample(wave, RATE, 44_100), 16, 44_100),
        "8 bit": lambda wave: _bits(wave, 8, RATE),
        "20 dB softer, 16 bit": lambda wave: _bits(0.1 * wave, 16, RATE),
        "clipped at a quarter of its peak": lambda wave: wave.clamp(-_peak(wave) / 4, _peak(wave) / 4),
        "random equalizer, ±9 dB": lambda wave: parametric_eq(wave, random, sample_rate=RATE),
        "telephone, 300–3400 Hz": _telephone,
        "a room, RT60 .1–.6 s": lambda wave: reverberation(wave, random, sample_rate=RATE),
    }
    for level in (30.0, 20.0, 10.0):
        changes[f"white noise at {level:g} dB"] = partial(_noisy, level=level, random=random)
    changes["other speech at 0 dB"] = lambda wave: (
        wave + _level(wave) / _level(others) * others[..., : wave.shape[-1]]
    )
    if has_codecs():
        for kilobits in (128, 64, 32):
            changes[f"MP3, {kilobits} kb/s"] = partial(coded, codec="mp3", kilobits=kilobits)
        for kilobits in (32, 16, 8):
            changes[f"Opus, {kilobits} kb/s"] = partial(coded, codec="opus", kilobits=kilobits)
        changes["AAC, 32 kb/s"] = partial(coded, codec="aac", kilobits=32)
    changes["Vorbis, quality 5 of 10"] = _vorbis
    for speed in (0.95, 1.05, 1.25):
        changes[f"played at {speed} of its speed"] = partial(_played, rate=round(RATE * speed))
    changes |= {
        "5 % slower, pitch kept (WSOLA)": lambda wave: stretch(wave[0], torch.tensor([1.05]), RATE)[None],
        "pitch and formants moved 2 semitones": lambda wave: shift_pitch_and_formants(
            wave, torch.tensor([2.0]), torch.tensor([2.0]), RATE
        ),
        "pitch moved 3 semitones down, formants kept": lambda wave: shift_pitch_and_formants(
            wave, torch.tensor([-3.0]), torch.tensor([0.0]), RATE
        ),
        "marked again with another key": lambda wave: Marker(RATE, "another").mark(wave),
        "resynthesised from its mel (released vocoder)": lambda wave: resample(
            vocoder(vocoder.log_mel(resample(wave, RATE, vocoder.sample_rate))), vocoder.sample_rate, RATE
        ),
        "converted again, without a mark": lambda wave: converter.convert(wave, voice),
        "mark removed by one who knows the key": unmarked,
    }
    return changes


def has_codecs() -> bool:
    """Whether PyAV is installed, which encodes MP3, Opus and AAC at a given bit rate."""
    return find_spec("av") is not None


def coded(wave: Wave, *, codec: str, kilobits: int) -> Changed:
    """Encode and decode with a lossy codec, and resample to ``RATE``; the codec's delay is not removed."""
    import av

    name, container, rate = {
        "mp3": ("libmp3lame", "mp3", RATE),
        "opus": ("libopus", "ogg", 48_000),
        "aac": ("aac", "adts", RATE),
    }[codec]
    file = io.BytesIO()
    sound: Any = av
    try:
        with sound.open(file, "w", format=container) as output:
            stream = output.add_stream(name, rate=rate, layout="mono")
            stream.bit_rate = 1000 * kilobits
            values = (resample(wave, RATE, rate)[0].clamp(-1, 1) * 32767).round().short().numpy()
            frame = sound.AudioFrame.from_ndarray(values, format="s16", layout="mono")
            frame.sample_rate = rate
            resampler = sound.AudioResampler(
                format=stream.codec_context.format, layout="mono", rate=rate, frame_size=0
            )
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                output.mux(stream.encode(part))
            output.mux(stream.encode(None))
    except sound.error.FFmpegError as error:
        raise UserError(f"PyAV cannot write {codec} at {kilobits} kb/s here: {error}") from None
    file.seek(0)
    with sound.open(file) as decoded:
        resampler = sound.AudioResampler(format="flt", layout="mono", rate=rate)
        parts = [part.to_ndarray() for frame in decoded.decode(audio=0) for part in resampler.resample(frame)]
    return resample(torch.from_numpy(np.concatenate(parts, axis=1))[None], rate, RATE)


def unmarked(wave: Wave) -> Wave:
    """Remove the watermark with knowledge of the key, by the inverse of its filter."""
    marker = Marker(RATE, DEFAULT_KEY)
    length = 1 << (wave.shape[-1] + 8 * marker.context).bit_length()
    impulse = F.pad(torch.ones(1, 1, 1), (0, length - 1))
    filtered = torch.fft.rfft(wave, length) / torch.fft.rfft(marker.mark(impulse))
    return torch.fft.irfft(filtered, length)[..., : wave.shape[-1]]


def _noisy(wave: Wave, *, level: float, random: torch.Generator) -> Wave:
    noise = torch.randn(wave.shape, generator=random)
    return wave + _level(wave) / _level(noise) * 10 ** (-level / 20) * noise


def _played(wave: Wave, *, rate: int) -> Changed:
    return resample(wave, rate, RATE)


def _telephone(wave: Wave) -> Wave:
    spectrum, frequencies = torch.fft.rfft(wave), torch.fft.rfftfreq(wave.shape[-1], 1 / RATE)
    return torch.fft.irfft(spectrum * ((frequencies > 300) & (frequencies < 3400)), wave.shape[-1])


def _vorbis(wave: Wave) -> Changed:
    file = io.BytesIO()
    soundfile.write(file, wave[0, 0].numpy(), RATE, format="OGG", subtype="VORBIS", compression_level=0.5)
    file.seek(0)
    return torch.from_numpy(soundfile.read(file, dtype="float32")[0])[None, None]


def _bits(wave: Wave, bits: int, rate: int) -> Changed:
    steps = 2 ** (bits - 1)
    return resample((wave * steps).round().clamp(-steps, steps - 1) / steps, rate, RATE)


def _peak(wave: Wave) -> float:
    return float(wave.abs().max())


def _level(wave: Wave) -> float:
    return max(float(wave.square().mean().sqrt()), 1e-9)
