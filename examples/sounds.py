"""Write the page of sounds in the documentation: ``python examples/sounds.py --out docs/sounds.md``.

It has what act one of the demo makes: three people's sentences with other voices, by the released converter,
as Opus files in a folder beside the page.
"""

from collections.abc import Sequence
from pathlib import Path

from demo import spoken

from data.audio import load, save
from engine.arguments import Arguments
from engine.user_error import exits_cleanly
from eval.pairs import Pair
from w2w import Converter
from w2w.gallery.named import sentences

HEAD = """# Listen

Three people's sentences, spoken with voices of [the gallery](../w2w/gallery/README.md), which tells whose
both are, by the released converter. All that was made is shown, good or not; page and sounds are made by
`python examples/sounds.py --out docs/sounds.md`.
"""


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    arguments = Arguments.described_by("examples.sounds", __doc__)
    arguments.add_argument("--out", type=Path, default=Path("sounds.md"), help="the page (default sounds.md)")
    out = arguments.parse_args(argv).out
    converter, folder = Converter.from_pretrained(), out.with_suffix("")
    conversions = list(spoken(converter, folder, "opus"))
    page = [HEAD]
    for sentence in sentences().values():
        page.append(f"## “{sentence.text}”\n\n| | to hear |\n| --- | --- |")
        page.append(
            row("the source", copied(sentence.recording, folder / f"{sentence.name}.opus", converter))
        )
        page += [row(name_of(pair), pair.output) for pair in conversions if pair.source == sentence.recording]
        page.append("")
    out.write_text("\n".join(page), encoding="utf-8")
    print(f"{out}, and {len(conversions) + len(sentences())} sounds in {folder}")


def copied(source: Path, place: Path, converter: Converter) -> Path:
    """The source as the converter hears it."""
    save(place, load(source, converter.sample_rate), converter.sample_rate)
    return place


def name_of(pair: Pair) -> str:
    """With which voice, and how."""
    voice = pair.target.stem
    return f"with {voice}'s voice" + ("" if pair.system == "converted" else f", {pair.system}")


def row(name: str, sound: Path | None) -> str:
    assert sound is not None
    place = f"{sound.parent.name}/{sound.name}"
    return f'| {name} | <audio controls preload="none" src="{place}"></audio> [file]({place}) |'


if __name__ == "__main__":
    main()
