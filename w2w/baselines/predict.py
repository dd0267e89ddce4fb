"""Predict mels: ``python -m w2w.baselines.predict --checkpoint EXPORT --data DATA --out M``

Every recording of the split is converted to its own voice, which keeps its time, and written as
SPEAKER/NAME.npy, SPEAKER being the name of its folder. ``vocoders/train.py --init released --predicted-mels
M`` then teaches a vocoder to make the recordings out of them (HiFi-GAN, section 4.4). The same command
again continues where it was stopped.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.audio import load
from data.rows import split_rows
from engine.arguments import Arguments
from engine.files import atomic
from engine.outcome import end, leaving_out
from engine.user_error import UserError, exits_cleanly
from w2w.converter import Converter
from w2w.weights import is_mel_converter, weights_folder


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    arguments = Arguments.described_by("w2w.baselines.predict", __doc__)
    option = arguments.add_argument
    option("--checkpoint", required=True, metavar="FOLDER", help="exported converter of mels, or its run")
    option("--data", required=True, metavar="MANIFEST", help="manifest, or folder of recordings")
    option("--split", default="train", help="rows of this split only (default: train)")
    option("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    option("--vocoder", metavar="V", help="that is to be tuned, where it is not the folder's own")
    option("--device", default="cpu")
    args = arguments.parse_args(argv)
    if not is_mel_converter(weights_folder(args.checkpoint)):
        raise UserError(f"{args.checkpoint} holds no converter of mels, so there are no mels to predict")
    converter = Converter.from_pretrained(args.checkpoint, vocoder=args.vocoder, device=args.device)
    paths = [Path(row.path) for row in split_rows(args.data, args.split)]
    left_out: list[str] = []
    written = predict(converter, paths, args.out, left_out)
    print(f"{args.out}: {written} mels written, of {len(paths)} recordings")
    end(len(paths) - len(left_out), left_out)


def predict(converter: Converter, recordings: Sequence[Path], out: Path, left_out: list[str]) -> int:
    """Write the mels that are not there yet; return how many. ``left_out`` is told what has no voice."""
    places, written = destinations(recordings, out), 0
    missing = {source: place for source, place in places.items() if not place.is_file()}
    for source, place in tqdm(missing.items(), desc="predicting", unit="recording", disable=None):
        voice = None
        with leaving_out(left_out):
            wave = load(source, converter.sample_rate)
            voice = converter.embed(wave, names=[str(source)])
        if voice is None:
            continue
        with torch.inference_mode():
            mel = converter.network.converted_mel(wave.to(converter.device), voice.to(converter.device))
        with atomic(place) as temporary, temporary.open("wb") as file:
            np.save(file, mel[0].float().cpu().numpy())
        written += 1
    return written


def destinations(recordings: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Where each recording's mel goes; no two may share a place."""
    places = {path: out / path.parent.name / f"{path.stem}.npy" for path in recordings}
    first: dict[Path, Path] = {}
    for path, place in places.items():
        if first.setdefault(place, path) != path:
            raise UserError(
                f"{first[place]} and {path} would both be predicted as {place}: "
                "give the folders of one name in runs of their own"
            )
    return places


if __name__ == "__main__":
    main()
