"""Predict mels: ``python -m w2w.baselines.predict --checkpoint EXPORT --data DATA --out M``

Every recording of the split is converted to its own voice, which keeps its timing. The mel is written to
SPEAKER/NAME.npy, where SPEAKER is the name of the recording's folder. ``vocoders/train.py --init released
--predicted-mels M`` then fine-tunes a vocoder on these mels and the recordings (HiFi-GAN, section 4.4). Run
the command again to continue after an interruption.
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
    option("--checkpoint", required=True, metavar="FOLDER", help="exported mel converter, or its run")
    option("--data", required=True, metavar="MANIFEST", help="manifest, or folder of recordings")
    option("--split", default="train", help="split of the manifest to use (default: train)")
    option("--out", type=Path, required=True, metavar="FOLDER", help="folder to write")
    option("--vocoder", metavar="V", help="vocoder to fine-tune (default: the converter's own)")
    option("--device", default="cpu")
    args = arguments.parse_args(argv)
    if not is_mel_converter(weights_folder(args.checkpoint)):
        raise UserError(f"{args.checkpoint} is not a mel converter and predicts no mels: give one that is")
    converter = Converter.from_pretrained(args.checkpoint, vocoder=args.vocoder, device=args.device)
    paths = [Path(row.path) for row in split_rows(args.data, args.split)]
    left_out: list[str] = []
    written = predict(converter, paths, args.out, left_out)
    print(f"{args.out}: {written} mels written for {len(paths)} recordings")
    end(len(paths) - len(left_out), left_out)


def predict(converter: Converter, recordings: Sequence[Path], out: Path, left_out: list[str]) -> int:
    """Write the missing mels; return their number. ``left_out`` collects recordings that have no voice."""
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
    """Each recording's output file; two recordings with the same one are refused."""
    places = {path: out / path.parent.name / f"{path.stem}.npy" for path in recordings}
    first: dict[Path, Path] = {}
    for path, place in places.items():
        if first.setdefault(place, path) != path:
            raise UserError(
                f"{first[place]} and {path} would both be written to {place}: "
                "convert folders of the same name into different --out folders"
            )
    return places


if __name__ == "__main__":
    main()
