"""Demo of conversion, then of training on a small scale: ``python examples/demo.py --out demo``

Part one, within a minute: the released converter converts three people's sentences to three voices, to a
blend of two and to a higher pitch, and one sentence in chunks like live speech. A page shows audio,
spectrograms and scores.

Part two, within ten minutes on two idle cores: the released converter is fine-tuned on a corpus of synthetic
voices and scored on unseen sentences and voices. Its page is shown only if it beats all baselines that need
no training.

It needs no recordings and no network. The printed commands also work with real speech. The same command
resumes an interrupted demo and skips finished parts.
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
"""Target voices of the three sentences."""
HIGHER = 4.0
"""Pitch shift in semitones."""
STEPS = 160


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    torch.set_num_threads(1)  # sentences are too short for several threads
    out = Path(args.out)
    page = first_act(out / "released")
    show(page)
    if not args.first_act:
        second_act(out, args)
    print("Your own recording: timbre convert me.wav --voice ada --out me_as_ada.wav")


def parse(argv: Sequence[str] | None) -> Namespace:
    arguments = Arguments.described_by("examples.demo", __doc__)
    option = arguments.add_argument
    option("--out", default="demo", help="output folder (default demo)")
    option("--first-act", action="store_true", help="run only part one")
    option("--minutes", type=float, default=12.0, help="duration of the corpus (default 12)")
    option("--voices", type=int, default=16, help="voices in the corpus (default 16)")
    option("--steps", type=int, default=STEPS, help=f"training steps (default {STEPS})")
    option("--train-minutes", type=float, default=5.0, help="maximum training time (default 5)")
    option("--pairs", type=int, default=12, help="pairs to score in part two (default 12)")
    option("--fast", action="store_true", help="part two: score only similarity and pitch")
    return arguments.parse_args(argv)


def first_act(out: Path) -> Path:
    """Convert the sentences with the released converter, score them and return the page."""
    print_title("Part one: the released converter, with voices of the gallery")
    page = out / "report/report.html"
    if page.is_file():
        print(f"done already: {page}")
        return page
    write_pairs(out / "pairs.csv", conversions(Converter.from_pretrained(), out / "audio"))
    run(
        "eval/run.py",
        *("--pairs", out / "pairs.csv", "--out", out / "report", "--overwrite", "--cache", out / "cache"),
        *("--title", "Three people's sentences, with other voices", "--sound-first"),
        *("--examples", len(CAST) * len(sentences()), "--fast"),
    )
    return page


def conversions(converter: Converter, audio: Path, suffix: str = "wav") -> Iterator[Pair]:
    """Convert every sentence to every voice, to a blend and to a higher pitch, and one in chunks."""
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
    """Save an output and return its pair."""
    output = audio / f"{sentence.name}_{name}_{way.replace(' ', '_')}.{suffix}"
    save(output, wave, rate)
    target = find(name).recordings[0]
    return Pair(source=sentence.recording, target=target, output=output, text=sentence.text, system=way)


def second_act(out: Path, args: Namespace) -> None:
    """Fine-tune the released converter on synthetic voices, and show its scores if it beats the baselines."""
    corpus, trained, report = out / "corpus", out / "run", out / "report"
    print_title("Part two: a corpus of synthetic voices")
    run("-m", "data.voices", corpus, "--minutes", args.minutes, "--voices", args.voices)
    print_title("Fine-tuning the released converter on it")
    if (trained / "export/model.safetensors").is_file():
        print(f"done already: {trained / 'export'}")
    else:
        run("w2w/train.py", *training(args, corpus, trained))
        if not (trained / "export").is_dir():
            raise SystemExit(0)  # interrupted, after saving and printing a message
    print_title("Converting unseen sentences to unseen voices, and scoring them")
    if not (report / "report.html").is_file():
        run(
            "eval/run.py",
            *("--data", corpus, "--n-pairs", args.pairs),
            *("--converter", trained / "export", "--name", "demo"),
            *("--out", report, "--overwrite", "--cache", out / "cache", *(("--fast",) if args.fast else ())),
        )
    gain = json.loads((report / "summary.json").read_text())["gain_over_baselines"]["demo"]
    if gain > 0:
        print(f"Similarity to the target voices exceeds the best baseline without training by {gain:.3f}:")
        show(report / "report.html")
    else:
        print(f"This short run did not beat the best baseline without training ({gain:.3f}): raise --steps.")


def training(args: Namespace, corpus: Path, out: Path) -> list[object]:
    """Options of the training command: fine-tuning, with conversion between the voices."""
    return [
        *("--finetune", "released", "--data.path", corpus / "manifest.csv", "--data.equal-speakers"),
        *("--loop.out", out, "--loop.steps", args.steps, "--loop.max-minutes", args.train_minutes),
        *("--optim-converter.lr", 3e-4, "--optim-converter.decay-steps", args.steps),
        *("--cluit.weights.contrast-voice", 1, "--cluit.weights.contrast-style", 0.2),
    ]


def run(*command: object) -> None:
    """Print and run a Python command, which handles Ctrl-C itself, so that it can save."""
    args = [str(word) for word in command]
    print(f"$ python {shlex.join(args)}", flush=True)
    if args[0].endswith(".py"):
        args[0] = str(ROOT / args[0])
    process = subprocess.Popen([sys.executable, *args])
    # Not SIG_IGN, which the process would inherit. The terminal sends Ctrl-C to both processes.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    ended = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        code = process.wait()
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, ended)
    if code:
        raise SystemExit(code if code > 0 else 128 - code)


def print_title(title: str) -> None:
    print(f"\n{title}", flush=True)


def show(page: Path) -> None:
    """Print a page's address, and open it in the browser of a desktop."""
    print(f"\nListen, look and compare: {page.resolve().as_uri()}\n", flush=True)
    if sys.stdout.isatty() and (sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY")):
        with suppress(webbrowser.Error):
            webbrowser.open(page.resolve().as_uri())


if __name__ == "__main__":
    main()
