"""Draw the README's picture: log-mels of a source, a target and the converted sentence.

    python examples/picture.py --voice ada --out docs/pictures/conversion.png

The converted sentence is saved next to it as Opus.
"""

import io
from pathlib import Path

from PIL import Image, ImageDraw

from data.audio import load, resample, save
from data.frontends import SPEECH_16K, mel_png
from engine.arguments import Arguments
from engine.user_error import exits_cleanly
from w2w import Converter
from w2w.gallery.named import find, sentences

WIDTH, HEIGHT, TITLE = 860, 120, 22
RATE = SPEECH_16K.sample_rate


@exits_cleanly
def main() -> None:
    arguments = Arguments.described_by("examples.picture", __doc__)
    arguments.add_argument("--voice", default="ada", help="a voice of the gallery (default: ada)")
    arguments.add_argument("--out", type=Path, required=True, help="output file (.png)")
    args = arguments.parse_args()
    converter, sentence = Converter.from_pretrained(), next(iter(sentences().values()))
    source = load(sentence.recording, converter.sample_rate)
    wave = converter.convert(source, converter.voice(args.voice))
    save(args.out.with_suffix(".opus"), wave, converter.sample_rate)
    waves = {
        f"source: “{sentence.text}”": load(sentence.recording, RATE),
        f"target: {args.voice}, another sentence": load(find(args.voice).recordings[0], RATE),
        f"converted: the source in the voice of {args.voice}": resample(wave, converter.sample_rate, RATE),
    }
    longest = max(wave.shape[-1] for wave in waves.values())
    picture = Image.new("RGB", (WIDTH, len(waves) * (HEIGHT + TITLE)), "white")
    draw = ImageDraw.Draw(picture)
    for number, (title, wave) in enumerate(waves.items()):
        top = number * (HEIGHT + TITLE)
        draw.text((4, top + 4), title, fill="black", font_size=14)
        mel = Image.open(io.BytesIO(mel_png(wave))).convert("RGB")
        picture.paste(mel.resize((round(WIDTH * wave.shape[-1] / longest), HEIGHT)), (0, top + TITLE))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    picture.quantize(64).save(args.out, optimize=True)
    print(args.out)


if __name__ == "__main__":
    main()
