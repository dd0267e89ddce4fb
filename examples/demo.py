"""A voice at once, then training in small: ``python examples/demo.py --out demo``

Act one, within a minute: three people's sentences, by the released converter, with three voices, their
mixture, another pitch, and one sentence piece by piece as live speech comes. One page has sounds, pictures
and scores.

Act two, within ten minutes of two idle cores: a corpus of synthetic voices, on which the released converter
is trained further, and its scores on unseen sentences and voices. Where that does not beat every trick
that takes no learning, its page is not shown.

It needs no recordings and no network. The commands it prints are the ones to use with real speech.
Interrupted, the same command goes on where it was; finished parts are not done again.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import webbrowser
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from data.audio import load, save
from engine.arguments import Arguments
from engine.user_error import exits_cleanly
from eval.pairs import Pair, write_pairs
from w2w import Converter
from w2w.gallery.named import Sentence, find, sentences
from w2w.weights import RELEASED_LIVE

ROOT = Path(__file__).resolve().parents[1]
CAST = ("ada", "ivan", "cora")
"""Who speaks the three sentences."""
HIGHER = 4.0
"""Semitones."""
STEPS = 160


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(1)  # a sentence is too little to share, least with whatever else this machine does
    out = Path(args.out)
    page = first_act(out / "released")
    show(page)
    if not args.first_act:
        second_act(out, args)
    print("Your own recording: timbre convert me.wav --voice ada --out me_as_ada.wav")


def parse(argv: Sequence[str] | None) -> Namespace:
    """Read the command line; the defaults are the demo."""
    arguments = Arguments.described_by("examples.demo", __doc__)
    option = arguments.add_argument
    option("--out", default="demo", help="folder of everything made here (default demo)")
    option("--first-act", action="store_true", help="the released converter alone")
    option("--minutes", type=float, default=12.0, help="of the corpus (default 12)")
    option("--voices", type=int, default=16, help="in the corpus (default 16)")
    option("--steps", type=int, default=STEPS, help=f"of training (default {STEPS})")
    option("--train-minutes", type=float, default=5.0, help="training ends then (default 5)")
    option("--pairs", type=int, default=12, help="scored in act two, of the fixed list (default 12)")
    option("--fast", action="store_true", help="act two: score similarity and pitch only")
    return arguments.parse_args(argv)


def first_act(out: Path) -> Path:
    """Speak the sentences with the released converter, score them, and return the page."""
    tell("Act one: the released converter speaks with voices of the gallery")
    page = out / "report/report.html"
    if page.is_file():
        print(f"done already: {page}")
        return page
    write_pairs(out / "pairs.csv", spoken(Converter.from_pretrained(), out / "audio"))
    run(
        "eval/run.py",
        *("--pairs", out / "pairs.csv", "--out", out / "report", "--overwrite", "--cache", out / "cache"),
        *("--title", "Three people's sentences, with other voices", "--sound-first"),
        *("--examples", len(CAST) * len(sentences()), "--fast"),
    )
    return page


def spoken(converter: Converter, audio: Path, suffix: str = "wav") -> Iterator[Pair]:
    """Every sentence with every voice, and what else a voice can be told to do."""
    voices = {name: converter.voice(name) for name in CAST}
    between = converter.blend(list(voices.values())[:2], [0.5, 0.5])
    for sentence in sentences().values():
        source = load(sentence.recording, converter.sample_rate)
        for name in CAST:
            converted = converter.convert(source, voices[name])
            yield pair(sentence, name, "converted", audio, converted, converter.sample_rate, suffix)
        first = voices[CAST[0]]
        ways = {
            f"half {CAST[1]}": converter.convert(source, between),
            f"{HIGHER:g} semitones higher": converter.convert(source, first, semitones=HIGHER),
        }
        if sentence.name == "night":
            speaker = Converter.from_pretrained(RELEASED_LIVE)
            live = speaker.stream(speaker.voice(CAST[0]), chunk_samples=speaker.network.hop)
            pieces = [live.push(chunk) for chunk in source.split(live.chunk_samples, dim=-1)]
            ways["piece by piece"] = torch.cat([*pieces, live.flush()], dim=-1)
        for way, wave in ways.items():
            yield pair(sentence, CAST[0], way, audio, wave, converter.sample_rate, suffix)


def pair(
    sentence: Sentence, name: str, way: str, audio: Path, wave: torch.Tensor, rate: int, suffix: str
) -> Pair:
    """One result for the table."""
    output = audio / f"{sentence.name}_{name}_{way.replace(' ', '_')}.{suffix}"
    save(output, wave, rate)
    target = find(name).recordings[0]
    return Pair(source=sentence.recording, target=target, output=output, text=sentence.text, system=way)


def second_act(out: Path, args: Namespace) -> None:
    """Train the released converter further on synthetic voices and show its score, where that is one."""
    corpus, trained, report = out / "corpus", out / "run", out / "report"
    tell("Act two: a corpus of synthetic voices")
    run("-m", "data.voices", corpus, "--minutes", args.minutes, "--voices", args.voices)
    tell("Training the released converter on it")
    if (trained / "export/model.safetensors").is_file():
        print(f"done already: {trained / 'export'}")
    else:
        run("w2w/train.py", *training(args, corpus, trained))
        if not (trained / "export").is_dir():
            raise SystemExit(0)  # interrupted: it has saved, and said so
    tell("Converting unseen sentences to unseen voices, and scoring them")
    if not (report / "report.html").is_file():
        run(
            "eval/run.py",
            *("--data", corpus, "--n-pairs", args.pairs),
            *("--converter", trained / "export", "--name", "demo"),
            *("--out", report, "--overwrite", "--cache", out / "cache", *(("--fast",) if args.fast else ())),
        )
    gain = json.loads((report / "summary.json").read_text())["gain_over_baselines"]["demo"]
    if gain > 0:
        print(f"Nearer to the target voices than the best trick without learning, by {gain:.3f}:")
        show(report / "report.html")
    else:
        print(f"So short a training did not beat the best trick without learning ({gain:.3f}): give --steps.")


def training(args: Namespace, corpus: Path, out: Path) -> list[object]:
    """The options of the training command: those of fine-tuning, with conversions between the voices."""
    return [
        *("--finetune", "released", "--data.path", corpus / "manifest.csv", "--data.equal-speakers"),
        *("--loop.out", out, "--loop.steps", args.steps, "--loop.max-minutes", args.train_minutes),
        *("--optim-converter.lr", 3e-4, "--optim-converter.decay-steps", args.steps),
        *("--cluit.weights.contrast-voice", 1, "--cluit.weights.contrast-style", 0.2),
    ]


def run(*command: object) -> None:
    """Print a Python command and run it; Ctrl-C is left to it, so that it can save."""
    args = [str(word) for word in command]
    print(f"$ python {shlex.join(args)}", flush=True)
    if args[0].endswith(".py"):
        args[0] = str(ROOT / args[0])
    process = subprocess.Popen([sys.executable, *args])
    # Not SIG_IGN, which the process would inherit. A terminal sends Ctrl-C to both.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    ended = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, ended)
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


def tell(what: str) -> None:
    print(f"\n{what}", flush=True)


def show(page: Path) -> None:
    """Say where a page is, and open it where somebody sits before a desktop."""
    print(f"\nListen, look and compare: {page.resolve().as_uri()}\n", flush=True)
    if sys.stdout.isatty() and (sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY")):
        with suppress(webbrowser.Error):
            webbrowser.open(page.resolve().as_uri())


if __name__ == "__main__":
    main()
