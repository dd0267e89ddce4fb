"""What a vocoder's training shows of itself: validation waves resynthesised, as sound, picture and score."""

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from data.frontends import LogMel
from engine.tracking import Samples
from vocoders.scores.copies import evaluate

Wave = Float[Tensor, "1 1 samples"]
Mel = Float[Tensor, "1 n_mels frames"]
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
