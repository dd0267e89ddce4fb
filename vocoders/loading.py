"""Load a vocoder from an exported folder, a published checkpoint or a training run."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from jaxtyping import Shaped
from torch import Tensor

from data.frontends import MelConfig
from engine.checkpoint import checkpoints, export, fill, load_weights
from engine.config import load_config, save_config
from engine.torch_files import read_torch_file
from engine.user_error import UserError
from vocoders.griffin_lim import GriffinLimConfig
from vocoders.hifigan import HiFiGANConfig
from vocoders.mel_files import DEFINITIONS, check_definition
from vocoders.melgan import MelGANConfig
from vocoders.neural_griffin_lim import NeuralGriffinLimConfig
from vocoders.published import configs, layout, shapes
from vocoders.vocoder import NetworkConfig, Vocoder, VocoderConfig
from vocoders.vocos import VocosConfig
from vocoders.waveglow import WaveGlowConfig
from vocoders.wavenet.mel_wavenet import MelWaveNetConfig
from vocoders.wavenet.network import WaveNetConfig

State = Mapping[str, Shaped[Tensor, "..."]]

RELEASED = Path(__file__).parent / "released"
"""Folder of the trained 16 kHz vocoder that comes with the package."""
PACKAGED = ("released", "released_24k", "released_hifigan")
"""Names of all trained vocoders in the package; the last sounds worse, but takes mels frame by frame."""
KINDS: dict[str, type] = {
    "griffin_lim": GriffinLimConfig,
    "neural_griffin_lim": NeuralGriffinLimConfig,
    "hifigan": HiFiGANConfig,
    "melgan": MelGANConfig,
    "vocos": VocosConfig,
    "waveglow": WaveGlowConfig,
    "wavenet": WaveNetConfig,
}
"""Names of vocoders and the config classes of their networks."""


def load_vocoder(
    name: str,
    weights: str | Path | Mapping[str, Any] | None = None,
    config: Any = None,
    *,
    mel: MelConfig | str | None = None,
    fold: bool = True,
    device: str = "cpu",
) -> Vocoder:
    """Load a vocoder.

    ``name`` is one of ``KINDS`` or ``PACKAGED``, or the folder of an export or a training run. ``weights``
    is such a folder, a published file or a state dict; ``griffin_lim`` needs none. ``config`` is the JSON
    file published with the weights, its content as a dict, or a config object (of the network or the whole
    vocoder); without it, the config is inferred from the weights' shapes, if these are published ones.
    ``mel`` is the mel definition or its name, for published weights without one. ``fold`` removes weight
    norm, which changes the speed but not the results.
    """
    if isinstance(mel, str):
        if mel not in DEFINITIONS:
            raise UserError(f"mel definition {mel!r} is unknown; choose one of {', '.join(DEFINITIONS)}")
        mel = DEFINITIONS[mel]
    if name not in KINDS:
        vocoder = from_folder(_named_folder(name, weights), fold)
    elif name == "griffin_lim":
        vocoder = _griffin_lim(weights, config, mel)
    elif weights is None:
        raise UserError(f"{name} needs weights: give its file or folder (weights=, --weights)")
    elif isinstance(weights, str | Path) and Path(weights).is_dir():
        vocoder = from_folder(Path(weights), fold)
        kind = kind_of(vocoder.config.network)
        if kind != name:
            raise UserError(f"{weights} holds a {kind} vocoder, not {name}: load it by that name")
    else:
        vocoder = _from_state(name, weights, config, mel, fold)
    if mel is not None:
        check_definition(mel, vocoder.mel, "mel=")
    return vocoder.eval().requires_grad_(False).to(device)


def export_vocoder(vocoder: Vocoder, folder: Path) -> Path:
    """Write a vocoder as config.json and, if it has weights, model.safetensors; return the folder."""
    if not isinstance(vocoder.config.network, GriffinLimConfig):
        return export(folder, vocoder.config, vocoder.network)
    folder.mkdir(parents=True, exist_ok=True)
    save_config(vocoder.config, folder / "config.json")
    return folder


def kind_of(network: NetworkConfig) -> str:
    """The name under which a network's vocoder is loaded."""
    if isinstance(network, MelWaveNetConfig):
        return "wavenet"
    return next(name for name, kind in KINDS.items() if isinstance(network, kind))


def released_folder(name: str) -> Path | None:
    """The folder of a packaged vocoder (``PACKAGED``), None for other names."""
    return RELEASED.with_name(name.replace("released", RELEASED.name)) if name in PACKAGED else None


def _named_folder(name: str, weights: object) -> Path:
    if (released := released_folder(name)) is not None:
        if not (released / "config.json").is_file():
            raise UserError(
                "no trained vocoder comes with this copy: give a folder or weights, or use griffin_lim"
            )
        return released
    if weights is not None or not Path(name).exists():
        raise UserError(
            f"vocoder {name!r} is unknown; choose one of {', '.join(KINDS)}, released, or the folder of a "
            "trained one"
        )
    if not Path(name).is_dir():
        raise UserError(
            f"{name} is a file: give its vocoder's name, one of {', '.join(KINDS)}, and the file as weights"
        )
    return Path(name)


def from_folder(folder: Path, fold: bool = True) -> Vocoder:
    """Load an exported folder (config.json, model.safetensors) or a training run's newest checkpoint."""
    if not (folder / "model.safetensors").is_file() and checkpoints(folder):
        from vocoders.tasks.config import trained_vocoder

        return trained_vocoder(folder)
    if (folder / "progress.json").is_file():
        raise UserError(f"{folder} is one checkpoint of a training run: name the run, {folder.parent.parent}")
    if (folder / "model.safetensors").is_file() or (folder / "config.json").is_file():
        config, weights = load_config(VocoderConfig, folder / "config.json"), folder / "model.safetensors"
        named = "network" in configs.read_json(folder / "config.json")  # else it is Griffin-Lim by default
        if isinstance(config.network, GriffinLimConfig) and named:
            return Vocoder(config)
        return _filled(config, load_weights(weights), weights, fold)
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))[:4]
    raise UserError(
        f"{folder} holds no vocoder (config.json and model.safetensors) and no training run; found "
        f"{', '.join(names) or 'nothing'}: give the path of the file itself if the weights are published ones"
    )


def _griffin_lim(weights: object, config: Any, mel: MelConfig | None) -> Vocoder:
    if weights is not None:
        raise UserError(
            "griffin_lim has no weights: leave them out and give the mel definition (mel=, --mel)"
        )
    match config:
        case VocoderConfig(network=GriffinLimConfig()):
            return Vocoder(config)
        case None | GriffinLimConfig():
            return Vocoder(VocoderConfig(mel=mel or MelConfig(), network=config or GriffinLimConfig()))
        case MelConfig():
            return Vocoder(VocoderConfig(mel=config))
    raise UserError(f"griffin_lim takes a GriffinLimConfig, not {type(config).__name__}")


def _from_state(
    name: str, weights: str | Path | Mapping[str, Any], config: Any, mel: MelConfig | None, fold: bool
) -> Vocoder:
    """Load weights in the published layout, from a file or a state dict."""
    where = "the state dict" if isinstance(weights, Mapping) else str(weights)
    content = weights if isinstance(weights, Mapping) else read_torch_file(weights)
    raw = layout.network_state(content, where)
    kind = layout.kind_of_layout(raw, where)
    if kind != name:
        raise UserError(f"{where} holds {kind} weights, not {name}: load it by that name")
    if kind == "waveglow":
        raw = layout.fuse_old_layout(raw)
    state = layout.from_published(raw)
    return _filled(describe(name, state, config, mel, where), state, where, fold)


def describe(name: str, state: State, config: Any, mel: MelConfig | None, where: str | Path) -> VocoderConfig:
    """Return the config of weights: from a published config or one of ours, or else from their shapes."""
    if isinstance(config, str | Path) and {"network", "mel"} <= set(configs.read_json(config)):
        config = load_config(VocoderConfig, config)
    match config:
        case VocoderConfig():
            _of_kind(name, config.network)
            return config
        case None:
            described = shapes.from_shapes(name, state, where)
        case str() | Path():
            described = configs.from_json(name, configs.read_json(config), config)
        case Mapping():
            described = configs.from_json(name, config, "the config")
        case _:
            _of_kind(name, config)
            described = VocoderConfig(mel=mel or _fitting(name, config), network=config)
    return replace(described, mel=mel or described.mel)


def _fitting(name: str, network: Any) -> MelConfig:
    """The mel definition published with this kind of network, or a known one with its hop and bands."""
    for known in (DEFINITIONS.get(name, MelConfig()), *DEFINITIONS.values()):
        if (known.hop, known.n_mels) == (network.hop, network.n_mels):
            return known
    raise UserError(
        f"no mel definition of hop {network.hop} and {network.n_mels} bands is known: give it (mel=)"
    )


def _of_kind(name: str, network: Any) -> None:
    if not isinstance(network, get_args(NetworkConfig)):
        raise UserError(
            f"config is a {type(network).__name__}: give a published JSON file, or a {KINDS[name].__name__}"
        )
    if kind_of(network) != name:
        raise UserError(f"config is for {kind_of(network)}, not {name}: load the weights by that name")


def _filled(config: VocoderConfig, state: State, where: str | Path, fold: bool) -> Vocoder:
    vocoder = Vocoder(config)
    if layout.is_folded(state):
        vocoder.network.fold()
    fill(vocoder.network, state, where)
    if fold:
        vocoder.network.fold()
    return vocoder
