"""Synthesise a text with a WaveNet: python -m vocoders.speak "Good morning." --vocoder RUN --out morning.wav

RUN is a run of ``vocoders/train_spoken.py --preset speech``. Espeak first synthesises the text; its phonemes,
their durations and its pitch are the WaveNet's input.
"""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from data.audio import save
from data.voices import Voice, speak
from engine.arguments import Arguments
from engine.user_error import UserError, exits_cleanly
from vocoders.tasks.config import fill_averaged, newest
from vocoders.tasks.wavenet import WaveNetTaskConfig
from vocoders.train_spoken import SpokenTrainConfig
from vocoders.wavenet.generation import generate
from vocoders.wavenet.network import WaveNet, WaveNetConfig
from vocoders.wavenet.spoken import VOICE, speakers_of, utterance


class Speaker:
    """Text to speech with a trained WaveNet; ``voices`` are the names of its voices, by label."""

    def __init__(self, run: Path) -> None:
        checkpoint, config = newest(run, SpokenTrainConfig)
        if not isinstance(config.task, WaveNetTaskConfig) or not isinstance(
            config.task.network, WaveNetConfig
        ):
            raise UserError(f"{run} trained a phoneme recogniser, which cannot speak: train --preset speech")
        self.features, self.voices = config.data.features, speakers_of(config.data)
        self.network = WaveNet(config.task.network)
        fill_averaged(self.network, checkpoint)

    def say(self, text: str, voice: Voice, seed: int = 0) -> Float[Tensor, "1 1 samples"]:
        if voice.name not in self.voices:
            raise UserError(
                f"voice {voice.name!r} is unknown to this run: choose one of {', '.join(self.voices)}"
            )
        wave, phonemes = speak(text, voice, self.features.sample_rate)
        spoken = utterance(wave, phonemes, self.voices.index(voice.name), self.features)
        speaker = spoken.speaker if self.network.config.global_ else None
        with torch.no_grad():
            return generate(
                self.network, spoken.local, speaker=speaker, n_samples=spoken.wave.shape[-1], seed=seed
            )


@exits_cleanly
def main(argv: list[str] | None = None) -> None:
    arguments = Arguments.described_by("vocoders.speak", __doc__)
    arguments.add_argument("text", help="text to synthesise, in English")
    arguments.add_argument("--vocoder", type=Path, required=True, help="run of vocoders/train_spoken.py")
    arguments.add_argument("--out", type=Path, required=True, help="audio file to write")
    arguments.add_argument("--voice", default="", help="one of the run's voices (default: its first)")
    arguments.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    args = arguments.parse_args(argv)
    speaker = Speaker(args.vocoder)
    name = args.voice or speaker.voices[0]
    if name not in VOICE:
        raise UserError(f"there is no voice {name!r}: choose one of {', '.join(speaker.voices)}")
    wave = speaker.say(args.text, VOICE[name], args.seed)
    save(args.out, wave, speaker.features.sample_rate)
    print(f"{args.out}: {wave.shape[-1] / speaker.features.sample_rate:.2f} s by {name}")


if __name__ == "__main__":
    main()
