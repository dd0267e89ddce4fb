"""Let a WaveNet talk, or sound, of itself: ``python -m vocoders.babble RUN --seconds 4 --out babble.wav``

RUN is a run of ``vocoders/train.py --preset wavenet_speakers`` or ``wavenet_sounds``, which learn what sounds
are like without being told what is said. --speaker chooses one of the voices it knows, by number.
"""

from collections.abc import Sequence
from pathlib import Path

import torch

from data.audio import save
from engine.arguments import Arguments
from engine.user_error import UserError, exits_cleanly
from vocoders.tasks.config import trained_babbler
from vocoders.wavenet.generation import generate
from vocoders.wavenet.sampling import Sampler


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    arguments = Arguments.described_by("vocoders.babble", __doc__)
    arguments.add_argument("run", type=Path, help="run of vocoders/train.py")
    arguments.add_argument("--out", type=Path, required=True, help="audio file to write")
    arguments.add_argument("--seconds", type=float, default=4.0, help="length (default 4)")
    arguments.add_argument("--speaker", type=int, help="number of a voice (default 0)")
    arguments.add_argument("--temperature", type=float, default=1.0, help="below 1: calmer (default 1)")
    arguments.add_argument(
        "--top-p", type=float, default=1.0, help="share of likely classes kept (default 1)"
    )
    arguments.add_argument("--seed", type=int, default=0, help="decides what is random (default 0)")
    args = arguments.parse_args(argv)
    network, config = trained_babbler(args.run)
    n_samples = round(args.seconds * config.mel.sample_rate)
    if n_samples < 1:
        raise UserError(f"--seconds {args.seconds:g} must be above 0")
    speakers = network.config.global_
    if speakers is None and args.speaker is not None:
        raise UserError(f"{args.run} knows no speakers: leave --speaker away")
    who = args.speaker or 0
    if speakers is not None and not 0 <= who < speakers.n_speakers:
        raise UserError(f"--speaker {who}: the network knows 0 … {speakers.n_speakers - 1}")
    wave = generate(
        network,
        speaker=torch.tensor([who]) if speakers else None,
        n_samples=n_samples,
        sampler=Sampler(temperature=args.temperature, top_p=args.top_p),
        seed=args.seed,
    )
    save(args.out, wave, config.mel.sample_rate)
    print(f"{args.out}: {args.seconds:g} s")


if __name__ == "__main__":
    main()
