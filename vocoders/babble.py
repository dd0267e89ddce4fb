"""Generate audio with a WaveNet without mels: ``python -m vocoders.babble RUN --seconds 4 --out babble.wav``

RUN is a run of ``vocoders/train.py --preset wavenet_speakers`` or ``wavenet_sounds``, which model speech or
other sound without text or mels. --speaker selects one of the training speakers, by number.
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
    arguments.add_argument("--speaker", type=int, help="number of a training speaker (default 0)")
    arguments.add_argument(
        "--temperature", type=float, default=1.0, help="below 1: more predictable (default 1)"
    )
    arguments.add_argument(
        "--top-p", type=float, default=1.0, help="total probability of the classes drawn from (default 1)"
    )
    arguments.add_argument("--seed", type=int, default=0, help="random seed (default 0)")
    args = arguments.parse_args(argv)
    network, config = trained_babbler(args.run)
    n_samples = round(args.seconds * config.mel.sample_rate)
    if n_samples < 1:
        raise UserError(f"--seconds {args.seconds:g} must be above 0")
    speakers = network.config.global_
    if speakers is None and args.speaker is not None:
        raise UserError(f"{args.run} was trained without speakers: omit --speaker")
    speaker = args.speaker or 0
    if speakers is not None and not 0 <= speaker < speakers.n_speakers:
        raise UserError(f"--speaker {speaker} must be from 0 to {speakers.n_speakers - 1} for this network")
    wave = generate(
        network,
        speaker=torch.tensor([speaker]) if speakers else None,
        n_samples=n_samples,
        sampler=Sampler(temperature=args.temperature, top_p=args.top_p),
        seed=args.seed,
    )
    save(args.out, wave, config.mel.sample_rate)
    print(f"{args.out}: {args.seconds:g} s")


if __name__ == "__main__":
    main()
