"""Convert published vocoder weights to our format: ``python -m vocoders.convert_weights FILE --out FOLDER``

    python -m vocoders.convert_weights generator_v1 --vocoder hifigan --config config_v1.json --out v1/
    python -m vocoders.convert_weights g_02500000 --vocoder hifigan --discriminators do_02500000 --out tuned/
    python -m vocoders.convert_weights runs/melgan --out melgan/

FILE is a published checkpoint, or the folder of a training run. FOLDER will contain config.json and
model.safetensors with weight norm folded: smaller, faster to load and to run, with the same results. With
--discriminators, training can start from FOLDER (``vocoders/train.py --init FOLDER``).
"""

import json
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from jaxtyping import Shaped
from torch import Tensor

from engine.arguments import Arguments
from engine.checkpoint import draft_folder, publish, save_weights
from engine.config import save_config
from engine.torch_files import read_torch_file
from engine.user_error import UserError, exits_cleanly
from vocoders.loading import KINDS, export_vocoder, load_vocoder
from vocoders.published.layout import adversary_states, kind_of_layout, network_state
from vocoders.vocoder import Vocoder

State = dict[str, Shaped[Tensor, "..."]]


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    args = parse(argv)
    adversaries = {}
    if args.discriminators:
        adversaries = adversary_states(read_torch_file(args.discriminators), args.discriminators)
    vocoder = _load(args, fold=True)
    folder = export_vocoder(vocoder, args.out)
    if adversaries:
        training_state(args.out, _load(args, fold=False), adversaries)
    size = (folder / "model.safetensors").stat().st_size / 2**20
    print(f"exported to {folder}: {type(vocoder.network).__name__}, {size:.1f} MiB")


def parse(argv: Sequence[str] | None) -> Namespace:
    arguments = Arguments.described_by("vocoders.convert_weights", __doc__)
    option = arguments.add_argument
    option("file", metavar="FILE", type=Path, help="published checkpoint, or folder of a training run")
    option("--out", type=Path, required=True, help="folder to write")
    kinds = [name for name in KINDS if name != "griffin_lim"]
    option("--vocoder", choices=kinds, help="network type (default: inferred from the weights' names)")
    option("--config", metavar="JSON", help="configuration published with the weights")
    option("--mel", metavar="NAME", help="mel definition, if neither weights nor configuration determine it")
    option("--discriminators", metavar="FILE", type=Path, help="published discriminators (do_*, netD.pt)")
    args = arguments.parse_args(argv)
    if not args.file.exists():
        raise UserError(f"there is no weights file {args.file}")
    if args.file.resolve() == args.out.resolve():
        raise UserError(f"--out {args.out} is also the input: give another folder")
    if args.out.exists() and not args.out.is_dir():
        raise UserError(f"--out {args.out} is a file: give a folder")
    if args.discriminators and args.file.is_dir():
        raise UserError("--discriminators needs a published file: a training run contains its own")
    return args


def _load(args: Namespace, *, fold: bool) -> Vocoder:
    if args.file.is_dir():
        name, weights = (args.vocoder, args.file) if args.vocoder else (str(args.file), None)
        return load_vocoder(name, weights, mel=args.mel)
    file: Path = args.file
    name = args.vocoder or kind_of_layout(network_state(read_torch_file(file), file), file)
    if name not in KINDS:
        raise UserError(f"{file} holds {name}: give the generator's file, and this one as --discriminators")
    return load_vocoder(name, file, args.config, mel=args.mel, fold=fold)


def training_state(out: Path, vocoder: Vocoder, adversaries: dict[str, State]) -> Path:
    """Write a checkpoint without optimisers, for ``vocoders/train.py --init``."""
    draft = draft_folder(out, 0)
    save_weights(vocoder.network, draft / "network.safetensors")
    critics = {
        f"{name}.{key}": tensor for name, state in adversaries.items() for key, tensor in state.items()
    }
    save_weights(critics, draft / "critics.safetensors")
    save_config(vocoder.config, draft / "config.json")
    progress = {"step": 0, "from": "published weights"}
    (draft / "progress.json").write_text(json.dumps(progress, indent=2) + "\n")
    return publish(draft, keep=1)


if __name__ == "__main__":
    main()
