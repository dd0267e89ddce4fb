"""Everything once, small: speak a corpus, train a converter on it, convert strangers' voices, score them.

    python examples/demo.py --out demo

needs no recordings and no network. The commands it prints are the ones to use with real speech. Interrupted,
the same command goes on where it was; finished parts are not done again.
"""

import shlex
import signal
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from data.audio import load, save
from data.frontends import SPEECH_16K, LogMel
from engine.arguments import Arguments
from engine.user_error import exits_cleanly
from eval.pairs import Pair, read_pairs

ROOT = Path(__file__).resolve().parents[1]
ROLES = ("source", "target", "converted")
STEPS = 1_500
"""Of training: some 7 minutes on 2 cores. The learning rate falls over them."""
SMALLER = (
    *("--data.batch", "6", "--data.crop-samples", "16000", "--data.reference-samples", "16000"),
    *("--converter.content.n-channels", "128", "--converter.content.n-blocks", "4"),
    *("--converter.style.n-channels", "96", "--converter.style.n-blocks", "2"),
    *("--converter.decoder.n-channels", "160", "--converter.decoder.n-blocks", "5"),
    *("--cluit.convert-from", "100", "--cluit.ema", "0.99"),
)
"""Less of everything than ``--preset small``; so few steps are no time for an adversary."""
WITHOUT_ADVERSARY = ("adversarial", "feature-matching", "contrast-discriminator", "contrast-converter")
SHOWN = 6
"""Pairs whose sounds and pictures are laid out."""


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Run all parts that are not done."""
    args = parse(argv)
    began, out = time.monotonic(), Path(args.out)
    corpus, trained, report = out / "corpus", out / "run", out / "report"

    tell(1, "Speaking a corpus of voices that do not exist")
    run("-m", "data.voices", corpus, "--minutes", args.minutes, "--voices", args.voices)

    tell(2, "Training a converter on it")
    if (trained / "export" / "model.safetensors").is_file():
        print(f"done already: {trained / 'export'}")
    else:
        run("w2w/train.py", *training(args, corpus, trained))
        if not (trained / "export").is_dir():
            raise SystemExit(0)  # interrupted: it has saved, and said so

    tell(3, "Converting sentences it never heard to voices it never heard, and scoring them")
    if (report / "report.html").is_file():
        print(f"done already: {report}")
    else:
        run(
            "eval/run.py",
            *("--data", corpus, "--n-pairs", args.pairs),
            *("--converter", trained / "export", "--name", "demo"),
            *("--out", report, "--overwrite", "--cache", out / "cache", *(("--fast",) if args.fast else ())),
        )

    shown = lay_out(spread(read_pairs(report / "pairs.csv")), out / "audio", out / "pictures")
    minutes = (time.monotonic() - began) / 60
    print(f"\nAll done in {minutes:.1f} minutes; {shown} pairs are laid out, the report has all scores:")
    print(f"  audio     {out / 'audio'}: <pair>_1_source, _2_target, _3_converted.wav")
    print(f"  pictures  {out / 'pictures'}: the same three as log-mels")
    print(f"  report    {(report / 'report.html').resolve().as_uri()}")
    print(f"  training  tensorboard --logdir {trained}")
    reference = min((out / "audio").glob("*_2_target.wav"))
    own = ["--checkpoint", str(trained / "export"), "--reference", str(reference), "--out", "me_too.wav"]
    print(f"Your own voice, as one of them:\n  python -m w2w.convert me.wav {shlex.join(own)}")


def parse(argv: Sequence[str] | None) -> Namespace:
    """Read the command line; the defaults are the demo."""
    arguments = Arguments.described_by("examples.demo", __doc__)
    arguments.add_argument("--out", default="demo", help="folder of everything made here (default demo)")
    arguments.add_argument("--minutes", type=float, default=25.0, help="of the corpus (default 25)")
    arguments.add_argument("--voices", type=int, default=24, help="in the corpus (default 24)")
    arguments.add_argument("--steps", type=int, default=STEPS, help=f"of training (default {STEPS})")
    arguments.add_argument(
        "--train-minutes", type=float, default=7.5, help="training ends then (default 7.5)"
    )
    arguments.add_argument("--pairs", type=int, default=16, help="scored, of the fixed list (default 16)")
    arguments.add_argument("--preset", default="small", help="of the converter (default small)")
    arguments.add_argument("--fast", action="store_true", help="score similarity and pitch only")
    return arguments.parse_args(argv)


def training(args: Namespace, corpus: Path, out: Path) -> list[object]:
    """The options of the training command."""
    steps = args.steps
    save_every, sample_every = 100, max(1, steps // 4)
    options: list[object] = ["--preset", args.preset, "--data.path", corpus / "manifest.csv"]
    options += ["--loop.out", out, "--loop.steps", steps, "--loop.max-minutes", args.train_minutes]
    options += ["--loop.save-every", save_every, "--loop.sample-every", sample_every]
    options += ["--optim-converter.decay-steps", steps]
    options += SMALLER if args.preset == "small" else ()
    for name in WITHOUT_ADVERSARY:
        options += [f"--cluit.weights.{name}", 0]
    return options


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


def tell(number: int, what: str) -> None:
    """Announce a part."""
    print(f"\n[{number}/3] {what}", flush=True)


def spread(pairs: list[Pair]) -> list[Pair]:
    """Some pairs of the converter, spread over its list."""
    own = [pair for pair in pairs if pair.system == "demo"]
    return [own[i] for i in np.linspace(0, len(own) - 1, min(SHOWN, len(own))).round().astype(int)]


def lay_out(pairs: list[Pair], audio: Path, pictures: Path) -> int:
    """Copy what belongs together under names that say so, and draw it; return the number of pairs."""
    pictures.mkdir(parents=True, exist_ok=True)
    for number, pair in enumerate(pairs, start=1):
        assert pair.output is not None
        name = f"{number:02d}_{pair.source.parent.name}_to_{pair.target.parent.name}"
        waves = {
            role: load(path, 16_000) for role, path in zip(ROLES, (pair.source, pair.target, pair.output))
        }
        for place, (role, wave) in enumerate(waves.items(), start=1):
            save(audio / f"{name}_{place}_{role}.wav", wave, 16_000)
        draw(waves, pictures / f"{name}.png", pair.text)
    return len(pairs)


def draw(waves: dict[str, Float[Tensor, "1 1 samples"]], path: Path, title: str) -> None:
    """Log-mels of some waves, one above the other."""
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    figure.suptitle(title, fontsize=10)
    for axes, (role, wave) in zip(figure.subplots(len(waves), 1), waves.items()):
        mel = LogMel(SPEECH_16K)(wave)[0].numpy()
        seconds = wave.shape[-1] / 16_000
        top = float(mel.max())
        axes.imshow(
            mel,
            origin="lower",
            aspect="auto",
            cmap="magma",
            vmin=top - 9,
            vmax=top,
            extent=(0, seconds, 0, len(mel)),
        )
        axes.set(ylabel=role, yticks=[])
    figure.savefig(path, dpi=100)


if __name__ == "__main__":
    main()
