"""A converter of mels as a folder: which network converts them, and which vocoder makes waves of them."""

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
"""Vocoders that are named by a word; others are folders."""
BESIDE = "vocoder"
"""Folder of an export's own vocoder, beside its weights."""


@dataclass(frozen=True, kw_only=True)
class MelConverterConfig:
    """The ``config.json`` of an exported converter of mels; its weights are the converter's alone."""

    KIND: ClassVar[str] = "mel_converter"
    road: MelNetworkConfig
    """Which network converts, and its sizes; the name is the file format's."""
    vocoder: str = "released"
    """What speaks: ``released``, ``griffin_lim``, or a vocoder's folder, relative to this file's."""


def open_mel_converter(folder: Path, vocoder: str | Path | None = None, device: str = "cpu") -> Any:
    """Load an exported converter of mels and its vocoder as one network from wave to wave.

    ``vocoder`` is another than the folder names: a word, a vocoder's folder or its training run.
    """
    config, state = load_export(folder, MelConverterConfig)
    speaks = str(vocoder) if vocoder is not None else _beside(folder, config.vocoder)
    loaded = find_vocoder(speaks, config.road, f"what {folder} makes")
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
    """Load a vocoder for what a network makes; ``where`` names that in complaints."""
    match network_config:
        case CluitMelConfig():
            if name == "griffin_lim":
                return load_vocoder(name, mel=network_config.mel)
            loaded = load_vocoder(name)
            check_definition(network_config.mel, loaded.mel, where)
            return loaded
        case StarGANUseConfig():  # its spectrogram can be told in any definition of its rate
            rate = network_config.network.spectrogram.sample_rate
            if name == "griffin_lim":
                return load_vocoder(name, mel=replace(MelConfig(), sample_rate=rate, f_max=rate / 2))
            loaded = load_vocoder(name)
            if loaded.sample_rate != rate:
                raise UserError(
                    f"{where} has {rate} Hz, the vocoder {name} speaks at {loaded.sample_rate} Hz: take one "
                    "of that rate, or griffin_lim"
                )
            return loaded


def _beside(folder: Path, name: str) -> str:
    if name in WORDS:
        return name
    if not (folder / name).is_dir():
        raise UserError(
            f"{folder / 'config.json'} names the vocoder {name!r}, and there is no folder {folder / name}: "
            "copy it there, or name another vocoder (vocoder=, --vocoder)"
        )
    return str(folder / name)


def export_mel_converter(
    run: Path, out: Path, *, vocoder: str | None = None, statistics: str | Path | None = None
) -> Path:
    """Write the folder of a run's averaged network and its vocoder; return it.

    A vocoder of a folder or a run is copied into the export, which then stands alone. Without one, an export
    that is there already keeps its own, and a new one takes the released vocoder, or Griffin-Lim where that
    reads other mels. ``statistics`` is a clip whose statistics a network of frozen ones keeps.
    """
    network_config, network = learned(run_checkpoint(run))
    if statistics is not None:
        freeze_statistics(network, statistics)
    name = vocoder or _kept(out) or _default(network_config)
    loaded = find_vocoder(name, network_config, f"what {run} makes") if name in WORDS or vocoder else None
    if loaded is not None and name not in WORDS:
        name = BESIDE
        export_vocoder(loaded, out / BESIDE)
    return export(out, MelConverterConfig(road=network_config, vocoder=name), network)


def learned(checkpoint: Path) -> tuple[MelNetworkConfig, Any]:
    """What a training run's checkpoint leaves for use: CLUIT's averaged network, or StarGAN's two."""
    from w2w.baselines.cluit_mel.presets import CluitMelTrainConfig

    if stored_kind(checkpoint) == "stargan_training":
        return trained(checkpoint)
    network_config = load_config(CluitMelTrainConfig, checkpoint / "config.json").network
    network, weights = CluitMelNetwork(network_config), checkpoint / "network_ema.safetensors"
    fill(network, load_weights(weights), weights)
    return network_config, network.eval()


def freeze_statistics(network: Any, clip: str | Path) -> None:
    """Keep a recorded clip's statistics, that the speaker's other words be normalised alike."""
    if not isinstance(network, CluitMelNetwork):
        raise UserError(f"--statistics {clip} is for CLUIT on mels; StarGAN keeps no statistics to replace")
    try:
        network.freeze_statistics(mel_of(load(clip, network.mel.sample_rate), network.mel))
    except UserError as mistake:
        raise UserError(f"--statistics {clip}: {mistake}") from None


def is_mel_run(run: Path) -> bool:
    checkpoint = newest_checkpoint(run)
    return checkpoint is not None and stored_kind(checkpoint) in ("cluit_mel_training", "stargan_training")


def _kept(out: Path) -> str | None:
    with suppress(UserError):
        kept = load_config(MelConverterConfig, out / "config.json").vocoder
        return kept if kept in WORDS or (out / kept).is_dir() else None
    return None


def _default(network_config: MelNetworkConfig) -> str:
    for name in ("released", "released_24k"):
        folder = released_folder(name)
        if folder is None or not (folder / "config.json").is_file():
            continue
        theirs = load_config(VocoderConfig, folder / "config.json").mel
        match network_config:
            case CluitMelConfig():
                fits = theirs == network_config.mel
                if fits and network_config.causal and name == "released":
                    return "released_hifigan"  # which speaks live, too
            case StarGANUseConfig():
                fits = theirs.sample_rate == network_config.network.spectrogram.sample_rate
        if fits:
            return name
    return "griffin_lim"
