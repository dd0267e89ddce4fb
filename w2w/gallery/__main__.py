"""List, preview and manage named voices: ``timbre voices``

    timbre voices                                       list all voices with source and licence
    timbre voices preview ada rufus --out tried         write tried/ada.wav, tried/ada.png, …
    timbre voices preview --sentence night --out tried  preview all voices
    timbre voices add mum mum1.wav mum2.wav --about "my mother"
    timbre voices remove mum
    timbre voices rebuild                               regenerate what depends on the converter's weights

Other commands accept a name as target voice: `timbre convert me.wav --voice ada --out as_ada.wav`. `add`
stores a voice in the user data folder, or in the folder that the environment variable TIMBRE_VOICES names.
Add a voice only with the speaker's consent.
"""

import re
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from data.audio import excerpt, info, load, resample, save
from data.frontends import SPEECH_16K, mel_png
from engine.arguments import Arguments
from engine.files import atomic, write_json
from engine.table import markdown, table
from engine.user_error import UserError, exits_cleanly
from w2w.convert import convert, job_of
from w2w.converter import Converter
from w2w.gallery.named import PACKAGED, NamedVoice, embed, find, gallery, own_folder, read, sentences
from w2w.recording import LONGEST_S

ACTIONS = ("list", "preview", "add", "remove", "rebuild")
PORTRAIT_COLUMNS, PORTRAIT_SHADES = 240, 32


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    match args.action:
        case "list":
            rows = [(voice.name, voice.about, voice.made) for voice in gallery().values()]
            print(table(("voice", "what to expect", "where it is from"), rows, left=3))
        case "preview":
            preview(args.names or list(gallery()), args)
        case "add":
            add(args.names[0], [Path(name) for name in args.names[1:]], args)
        case "remove":
            for name in args.names:
                remove(name)
        case "rebuild":
            rebuild(PACKAGED, Converter.from_pretrained(args.checkpoint))
            rebuild(own_folder(), Converter.from_pretrained(args.checkpoint))


def parse(argv: Sequence[str] | None) -> Namespace:
    arguments = Arguments.described_by("w2w.gallery", __doc__)
    option = arguments.add_argument
    option("action", nargs="?", default="list", choices=ACTIONS, help="what to do (default: list)")
    option("names", nargs="*", metavar="NAME", help="names of voices; for `add`, one name and recordings")
    option("--out", type=Path, metavar="FOLDER", help="preview: folder for audio files and pictures")
    option("--sentence", default="night", metavar="NAME", help="preview: sentence used (default: night)")
    option("--about", default="", metavar="WORDS", help="add: description of the voice")
    option("--source", default="", metavar="WORDS", help="add: source of the recordings")
    option("--licence", default="", metavar="WORDS", help="add: licence of the recordings, or the consent")
    option("--overwrite", action="store_true", help="add: replace your voice of this name")
    option("--checkpoint", metavar="FOLDER", help="converter to use (default: the released one)")
    args = arguments.parse_args(argv)
    if args.action == "preview" and args.out is None:
        raise UserError("preview needs --out FOLDER for its audio files and pictures")
    if args.action == "preview" and args.sentence not in sentences():
        raise UserError(f"there is no --sentence {args.sentence}; choose from {', '.join(sentences())}")
    if args.action == "add" and len(args.names) < 2:
        raise UserError("add needs a name and recordings: timbre voices add NAME REF.wav")
    if args.action == "remove" and not args.names:
        raise UserError("remove needs the name of a voice: timbre voices remove NAME")
    if args.action in ("list", "rebuild") and args.names:
        raise UserError(f"{args.action} takes no names: omit {' '.join(args.names)}")
    return args


def preview(names: Sequence[str], args: Namespace) -> None:
    """Convert a sentence to each voice, with the watermark, and draw its mel."""
    found = [find(name) for name in names]
    converter = Converter.from_pretrained(args.checkpoint)
    for voice in found:
        out = args.out / f"{voice.name}.wav"
        out.parent.mkdir(parents=True, exist_ok=True)
        convert(converter, embed(converter, voice.name), job_of(sentences()[args.sentence].recording, out))
        draw(load(out, SPEECH_16K.sample_rate), out.with_suffix(".png"))
        print(out)


def draw(wave: Float[Tensor, "1 1 samples"], path: Path) -> None:
    with atomic(path) as temporary:
        temporary.write_bytes(mel_png(wave, columns=PORTRAIT_COLUMNS, n_shades=PORTRAIT_SHADES))


def add(name: str, recordings: Sequence[Path], args: Namespace) -> None:
    """Store a user's own voice, after checking that it can be embedded."""
    name, folder = name.lower(), own_folder()
    if not re.fullmatch(r"\w[\w-]*", name):
        raise UserError(f"a voice cannot be called {name!r}: use letters, digits, - and _")
    if name in {voice.name for voice in read(PACKAGED).voices}:
        raise UserError(f"the gallery has a voice {name!r} already: choose another name")
    if name in gallery() and not args.overwrite:
        raise UserError(f"you have a voice {name!r} already: --overwrite replaces it")
    converter = Converter.from_pretrained(args.checkpoint)
    clips = []
    for number, path in enumerate(recordings, start=1):
        rate = min(info(path).sample_rate, 48_000)
        clip = excerpt(path, 0, round(LONGEST_S * rate), rate)
        converter.embed(excerpt(path, 0, round(LONGEST_S * converter.sample_rate), converter.sample_rate))
        clips.append((f"recordings/{name}-{number}.flac", clip, rate))
    for place, clip, rate in clips:
        save(folder / place, clip, rate)
    others = [voice for voice in read(folder).voices if voice.name != name]
    places = tuple(Path(place) for place, _, _ in clips)
    card = {"about": args.about, "source": args.source, "licence": args.licence}
    write(folder, [*others, NamedVoice(name=name, recordings=places, **card)])
    draw(load(folder / places[0], SPEECH_16K.sample_rate), folder / "portraits" / f"{name}.png")
    print(f"{name} is stored in {folder}: timbre convert SOURCE.wav --voice {name} --out RESULT.wav")


def remove(name: str) -> None:
    folder = own_folder()
    voices = {voice.name: voice for voice in read(folder).voices}
    if name.lower() not in voices:
        raise UserError(f"{name} is not one of your own voices, which are {', '.join(voices) or 'none'}")
    removed = voices.pop(name.lower())
    write(folder, list(voices.values()))
    for path in (*removed.recordings, removed.portrait):
        if path is not None:
            path.unlink(missing_ok=True)
    print(f"{removed.name} is removed from {folder}")


def write(folder: Path, voices: Sequence[NamedVoice]) -> None:
    """Write a folder's ``voices.json``, with paths relative to the folder."""

    def entry(voice: NamedVoice) -> dict[str, Any]:
        filled = {key: value for key, value in asdict(voice).items() if value and key != "portrait"}
        places = [(folder / path).relative_to(folder).as_posix() for path in voice.recordings]
        return filled | {"recordings": places}

    write_json(folder / "voices.json", {"voices": [entry(voice) for voice in voices]})


def rebuild(folder: Path, converter: Converter) -> None:
    """Regenerate the recordings of voices from words, all portraits, and the gallery's page."""
    shelf, first = read(folder), next(iter(sentences().values()))
    rate = SPEECH_16K.sample_rate
    source = load(first.recording, converter.sample_rate)
    for voice in shelf.voices:
        assert voice.portrait is not None
        if voice.words and converter.words is not None:
            converted = converter.convert(source, converter.embed_text(voice.words))
            save(voice.recordings[0], converted, converter.sample_rate)
        if voice.recordings:
            wave = load(voice.recordings[0], rate)
        else:
            converted = converter.convert(source, embed(converter, voice.name))
            wave = resample(converted, converter.sample_rate, rate)
        draw(wave, voice.portrait)
    if shelf.sentences:
        with atomic(folder / "README.md") as temporary:
            temporary.write_text(page(), encoding="utf-8")


def page() -> str:
    """The gallery's page in Markdown: the contents of `voices.json` with the portraits."""
    shelf = read(PACKAGED)
    voices = [
        (f"`{voice.name}`", f"![mel of {voice.name}](portraits/{voice.name}.png)", voice.about, voice.made)
        for voice in shelf.voices
    ]
    rows = [(f"`{one.name}`", one.text, f"{one.source}, {one.licence}") for one in shelf.sentences]
    return ABOUT.format(
        voices=markdown(("voice", "portrait", "what to expect", "where it is from"), voices),
        sentences=markdown(("sentence", "text", "where it is from"), rows),
    )


ABOUT = """# The gallery

Voices for `--voice NAME`. This page and the portraits are written by `timbre voices rebuild`. A portrait is
the log-mel of the recording or, for a mixture, of the first sentence converted to it. The recordings are from
the corpora named, of people who read aloud for publication under these licences; none was asked about
conversion. Changes: excerpts of some seconds, encoded as Opus. The names are invented, not the readers'.
Under [CC BY 4.0](https://creativecommons.org/licenses/by/4.0/) you may use them when you name the source.

{voices}

Sentences to convert, by speakers who are none of the voices:

{sentences}
"""


if __name__ == "__main__":
    main()
