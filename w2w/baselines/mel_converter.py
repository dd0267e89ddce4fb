"""The folder format of a mel converter: the conversion network and the vocoder of its output."""

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from data.audio import load
from data.frontends import MelConfig
from engine.checkpoint import export, fill, load_export, load_weights, newest_checkpoint
from engine.config import load_config, stored_kind
from engine.user_error import UserError
from vocoders import load_vocoder
from vocoders.loading import PACKAGED, export_vocoder, released_folder
from vocoders.mel_files import check_definition
from vocoders.vocoder import Vocoder, VocoderConfig
from w2w.baselines.cluit_mel.network import CluitMelConfig, CluitMelNetwork
from w2w.baselines.stargan.converter import StarGANNetwork, StarGANUseConfig, trained
from w2w.baselines.two_stage import TwoStage, mel_of
from w2w.weights import run_checkpoint

MelNetworkConfig = CluitMelConfig | StarGANUseConfig

WORDS = (*PACKAGED, "griffin_lim")
"""Names of built-in vocoders; any other name is a folder."""
VOCODER_FOLDER = "vocoder"
"""Sub-folder of an export with a copy of its vocoder."""


@dataclass(frozen=True, kw_only=True)
class MelConverterConfig:
    """The ``config.json`` of an exported mel converter; ``model.safetensors`` has no vocoder weights."""

    KIND: ClassVar[str] = "mel_converter"
    road: MelNetworkConfig
    """Config of the conversion network; the field's name is fixed by the file format."""
    vocoder: str = "released"
    """The vocoder: ``released``, ``griffin_lim``, or a folder, relative to that of this file."""


def open_mel_converter(folder: Path, vocoder: str | Path | None = None, device: str = "cpu") -> Any:
    """Load an exported mel converter and its vocoder as one network from wave to wave.

    ``vocoder`` overrides the one that the folder names: a built-in name, a vocoder's folder or training run.
    """
    config, state = load_export(folder, MelConverterConfig)
    name = str(vocoder) if vocoder is not None else _exported_vocoder(folder, config.vocoder)
    loaded = find_vocoder(name, config.road, f"the output of {folder}")
    match config.road:
        case CluitMelConfig():
            mel_network = CluitMelNetwork(config.road)
            fill(mel_network, state, folder / "model.safetensors")
            return TwoStage(mel_network.eval().fold(), loaded).to(device)
        case StarGANUseConfig():
            network = StarGANNetwork(config.road, loaded)
            fill(network.mel_network, state, folder / "model.safetensors")
            return network.to(device)


def find_vocoder(name: str, network_config: MelNetworkConfig, where: str) -> Vocoder:
    """Load a vocoder for a network's output; ``where`` names that output in error messages."""
    match network_config:
        case CluitMelConfig():
            if name == "griffin_lim":
                return load_vocoder(name, mel=network_config.mel)
            loaded = load_vocoder(name)
            check_definition(network_config.mel, loaded.mel, where)
            return loaded
        case StarGANUseConfig():  # its spectrogram can be mapped to any mel definition of its sample rate
            rate = network_config.network.spectrogram.sample_rate
            if name == "griffin_lim":
                return load_vocoder(name, mel=replace(MelConfig(), sample_rate=rate, f_max=rate / 2))
            loaded = load_vocoder(name)
            if loaded.sample_rate != rate:
                raise UserError(
                    f"{where} has {rate} Hz, but the vocoder {name} has {loaded.sample_rate} Hz: use one of "
                    f"{rate} Hz, or griffin_lim"
                )
            return loaded


def _exported_vocoder(folder: Path, name: str) -> str:
    if name in WORDS:
        return name
    if not (folder / name).is_dir():
        raise UserError(
            f"{folder / 'config.json'} names the vocoder {name!r}, but there is no folder {folder / name}: "
            "copy it there, or choose another vocoder (vocoder=, --vocoder)"
        )
    return str(folder / name)


def export_mel_converter(
    run: Path, out: Path, *, vocoder: str | None = None, statistics: str | Path | None = None
) -> Path:
    """Export a run's averaged network and its vocoder to ``out``; return the folder.

    A vocoder given as a folder or a run is copied into the export, which is then self-contained. By default
    an existing export keeps its vocoder, and a new one uses the released vocoder, or Griffin-Lim if that
    reads other mels. ``statistics`` is a recording that sets the statistics of a ``frozen`` norm.
    """
    network_config, network = trained_network(run_checkpoint(run))
    if statistics is not None:
        freeze_statistics(network, statistics)
    name = vocoder or _present_vocoder(out) or _default_vocoder(network_config)
    loaded = find_vocoder(name, network_config, f"the output of {run}") if name in WORDS or vocoder else None
    if loaded is not None and name not in WORDS:
        name = VOCODER_FOLDER
        export_vocoder(loaded, out / VOCODER_FOLDER)
    return export(out, MelConverterConfig(road=network_config, vocoder=name), network)


def trained_network(checkpoint: Path) -> tuple[MelNetworkConfig, Any]:
    """Load the inference network of a training checkpoint: CLUIT's averaged one, or both of StarGAN."""
    from w2w.baselines.cluit_mel.presets import CluitMelTrainConfig

    if stored_kind(checkpoint) == "stargan_training":
        return trained(checkpoint)
    network_config = load_config(CluitMelTrainConfig, checkpoint / "config.json").network
    network, weights = CluitMelNetwork(network_config), checkpoint / "network_ema.safetensors"
    fill(network, load_weights(weights), weights)
    return network_config, network.eval()


def freeze_statistics(network: Any, clip: str | Path) -> None:
    """Set the normalisation statistics of a network with ``frozen`` norm to those of a recording."""
    if not isinstance(network, CluitMelNetwork):
        raise UserError(f"--statistics {clip} is for CLUIT on mels; StarGAN has no such statistics: omit it")
    try:
        network.freeze_statistics(mel_of(load(clip, network.mel.sample_rate), network.mel))
    except UserError as mistake:
        raise UserError(f"--statistics {clip}: {mistake}") from None


def is_mel_run(run: Path) -> bool:
    checkpoint = newest_checkpoint(run)
    return checkpoint is not None and stored_kind(checkpoint) in ("cluit_mel_training", "stargan_training")


def _present_vocoder(out: Path) -> str | None:
    with suppress(UserError):
        name = load_config(MelConverterConfig, out / "config.json").vocoder
        return name if name in WORDS or (out / name).is_dir() else None
    return None


def _default_vocoder(network_config: MelNetworkConfig) -> str:
    for name in ("released", "released_24k"):
        folder = released_folder(name)
        if folder is None or not (folder / "config.json").is_file():
            continue
        theirs = load_config(VocoderConfig, folder / "config.json").mel
        match network_config:
            case CluitMelConfig():
                fits = theirs == network_config.mel
                if fits and network_config.causal and name == "released":
                    return "released_hifigan"  # can stream
            case StarGANUseConfig():
                fits = theirs.sample_rate == network_config.network.spectrogram.sample_rate
        if fits:
            return name
    return "griffin_lim"
