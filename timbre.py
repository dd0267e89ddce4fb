"""The command ``timbre``: ``timbre convert …`` is ``python -m w2w.convert …`` from any folder.

``python -m`` puts the current folder first on the import path, where a user's file may have the name of one
of this project's packages (``data.py``, ``engine.py``); an installed command puts its own folder there
instead. With ``python -m``, every package that has commands imports this file, which moves the current folder
to the end; this works unless a user's file has the name of the command's own package.
"""

import os
import sys
from importlib import import_module
from pathlib import Path

COMMANDS = {
    "convert": ("w2w.convert", "convert recordings to another voice"),
    "live": ("w2w.live.__main__", "convert a microphone live, or a file in the same way"),
    "app": ("app.__main__", "serve the page and the HTTP interface"),
    "voices": ("w2w.gallery.__main__", "list, try and save named voices"),
    "export": ("w2w.export", "export the converter of a training run"),
    "publish": ("w2w.publish", "upload a converter to the Hugging Face hub"),
    "watermark": ("w2w.watermark.__main__", "detect the watermark in recordings"),
    "tie": ("w2w.tie", "tie a converter's voices to words and pictures"),
    "corpora": ("data.corpora.__main__", "write the manifest of a corpus"),
    "check": ("data.check", "find faulty recordings"),
    "synthetic": ("data.voices", "synthesise a corpus of synthetic voices"),
    "parallel": ("data.parallel", "synthesise time-aligned sentences in several voices"),
    "train": ("w2w.train", "train a converter"),
    "eval": ("eval.run", "score converters and other systems"),
    "robustness": ("eval.robustness", "score a converter under hard conditions"),
    "synthesize": ("vocoders.synthesize", "synthesise waves from mels, or resynthesise recordings"),
}
"""Modules with the ``main`` of each command, and their descriptions."""

# Set before torch is loaded: OpenMP threads wait for one another in a busy loop, for a whole time slice if
# another program occupies a core. With a short spin count they soon sleep.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def main() -> None:
    from engine.user_error import UserError, exits_cleanly

    @exits_cleanly
    def run(name: str = "--help", *words: str) -> None:
        if name in ("--help", "-h"):
            print("usage: timbre COMMAND …; timbre COMMAND --help shows its options\n")
            print(*(f"  {known:12}{does}" for known, (_, does) in COMMANDS.items()), sep="\n")
            print("\nbegin with: timbre voices; timbre convert me.wav --voice ada --out as_ada.wav")
        elif name in COMMANDS:
            sys.argv = [f"timbre {name}", *words]
            import_module(COMMANDS[name][0]).main()
        else:
            raise UserError(f"there is no command {name!r}; choose from {', '.join(COMMANDS)}")

    run(*sys.argv[1:])


def current_folder_last() -> None:
    """Give this project's packages precedence over files of the same name in the current folder."""
    if not sys.flags.safe_path and Path(sys.path[0]) == Path.cwd() != Path(__file__).parent:
        sys.path.append(sys.path.pop(0))


if sys.argv[:1] == ["-m"] or __name__ == "__main__":
    current_folder_last()
if __name__ == "__main__":
    main()
