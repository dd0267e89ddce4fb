"""Synthesise a text with a WaveNet: python -m vocoders.speak "Good morning." --vocoder RUN --out morning.wav

RUN is a run of ``vocoders/train_spoken.py --preset speech``. Espeak first synthesises the text; its phonemes,
their durations and its pitch are the WaveNet's input.
"""

from pathlib import Path

from data.audio import save
from data.voices import speak
from engine.arguments import Arguments
from engine.user_error import UserError, exits_cleanly
from vocoders.tasks.config import fill_averaged, newest
from vocoders.train_spoken import SpokenTrainConfig
from vocoders.wavenet.generation import generate
from vocoders.wavenet.network import WaveNet, WaveNetConfig
from vocoders.wavenet.spoken import VOICE, speakers_of, utterance


@exits_cleanly
def main(argv: list[str] | None = None) -> None:
    arguments = Arguments.described_by("vocoders.speak", __doc__)
    arguments.add_argument("text", help="text to synthesise, in English")
    arguments.add_argument("--vocoder", type=Path, required=True, help="run of vocoders/train_spoken.py")
    arguments.add_argument("--out", type=Path, required=True, help="audio file to write")
    arguments.add_argument("--voice", default="", help="one of the run's voices (default: its first)")
    arguments.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    args = arguments.parse_args(argv)
    checkpoint, config = newest(args.vocoder, SpokenTrainConfig)
    sizes = config.task.network
    if not isinstance(sizes, WaveNetConfig):
        raise UserError(
            f"{args.vocoder} trained a phoneme recogniser, which cannot speak: train --preset speech"
        )
    features, voices = config.data.features, speakers_of(config.data)
    name = args.voice or voices[0]
    if name not in voices:
        raise UserError(f"voice {name!r} is unknown to this run: choose one of {', '.join(voices)}")
    network = WaveNet(sizes)
    fill_averaged(network, checkpoint)
    wave, phonemes = speak(args.text, VOICE[name], features.sample_rate)
    spoken = utterance(wave, phonemes, voices.index(name), features)
    speaker = spoken.speaker if sizes.global_ else None
    wave = generate(network, spoken.local, speaker, n_samples=spoken.wave.shape[-1], seed=args.seed)
    save(args.out, wave, features.sample_rate)
    print(f"{args.out}: {wave.shape[-1] / features.sample_rate:.2f} s by {name}")


if __name__ == "__main__":
    main()
