"""Take the converter for use out of a training run: ``python -m w2w.export RUN --out FOLDER``.

What is exported is the averaged converter of the newest checkpoint, as config.json and model.safetensors.
"""

from collections.abc import Sequence
from pathlib import Path

from data.arguments import Arguments
from engine.checkpoint import export, load_weights, newest_checkpoint
from engine.config import load_config
from engine.user_error import UserError, exits_cleanly


def export_run(run: Path, out: Path) -> Path:
    """Write config.json and model.safetensors of a run's averaged converter; return the folder."""
    from w2w.train import TrainConfig

    checkpoint = newest_checkpoint(run)
    if checkpoint is None:
        raise UserError(f"{run} holds no checkpoint of a run: give the folder that --loop.out named")
    config = load_config(TrainConfig, checkpoint / "config.json")
    return export(out, config.converter, load_weights(checkpoint / "converter_ema.safetensors"))


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Export a run."""
    parser = Arguments.described_by("w2w.export", __doc__)
    parser.add_argument("run", type=Path, help="folder of the training run")
    parser.add_argument("--out", type=Path, help="folder to write (default: RUN/export)")
    words = parser.parse_args(argv)
    folder = export_run(words.run, words.out or words.run / "export")
    print(f"exported to {folder}")


if __name__ == "__main__":
    main()
