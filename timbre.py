"""The command ``timbre``: ``timbre convert …`` is ``python -m w2w.convert …`` in whatever folder.

``python -m`` puts the current folder first on the import path, and a file of the user's there may be called
as one of this project's packages (``data.py``, ``engine.py``). An installed command's own folder stands there
instead. For ``python -m`` every package that has commands imports this file, which moves the current folder
to the end; it can do so for all but files that are called as the command itself.
"""

import os
import sys
from importlib import import_module
from pathlib import Path

COMMANDS = {
    "convert": ("w2w.convert", "speak recordings with another voice"),
    "live": ("w2w.live.__main__", "convert a microphone, or a file by the same path"),
    "app": ("app.__main__", "serve the page and the HTTP interface"),
    "voices": ("w2w.gallery.__main__", "voices with names: list and try them, keep your own"),
    "export": ("w2w.export", "take the converter for use out of a run"),
    "publish": ("w2w.publish", "put a converter on the Hugging Face hub"),
    "watermark": ("w2w.watermark.__main__", "say which recordings bear the mark"),
    "tie": ("w2w.tie", "tie a converter's voices to words and pictures"),
    "corpora": ("data.corpora.__main__", "write the manifest of a corpus"),
    "check": ("data.check", "say what is wrong with which recording"),
    "synthetic": ("data.voices", "speak a corpus of synthetic voices"),
    "parallel": ("data.parallel", "speak sentences in several voices, equally long"),
    "train": ("w2w.train", "train a converter"),
    "eval": ("eval.run", "score converters and other systems"),
    "robustness": ("eval.robustness", "score a converter under hard conditions"),
    "synthesize": ("vocoders.synthesize", "make waves of mels, or copies of recordings"),
}
"""By name: the module whose ``main`` it is, and what it does."""

# Before torch is loaded: its threads wait for one another in a busy loop, and where another program has one
# of the cores they wait for its whole turn, time and again. With a short count they soon sleep.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def main() -> None:
    from engine.user_error import UserError, exits_cleanly

    @exits_cleanly
    def run(name: str = "--help", *words: str) -> None:
        if name in ("--help", "-h"):
            print("usage: timbre COMMAND …; timbre COMMAND --help tells its options\n")
            print(*(f"  {known:12}{does}" for known, (_, does) in COMMANDS.items()), sep="\n")
            print("\nbegin with: timbre voices; timbre convert me.wav --voice ada --out as_ada.wav")
        elif name in COMMANDS:
            sys.argv = [f"timbre {name}", *words]
            import_module(COMMANDS[name][0]).main()
        else:
            raise UserError(f"there is no command {name!r}; choose from {', '.join(COMMANDS)}")

    run(*sys.argv[1:])


def current_folder_last() -> None:
    """Let packages of this project come before files of the same name in the current folder."""
    if not sys.flags.safe_path and Path(sys.path[0]) == Path.cwd() != Path(__file__).parent:
        sys.path.append(sys.path.pop(0))


if sys.argv[:1] == ["-m"] or __name__ == "__main__":
    current_folder_last()
if __name__ == "__main__":
    main()
