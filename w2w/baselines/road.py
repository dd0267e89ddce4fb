"""The mel road as a folder: which network converts mels, and which vocoder speaks them."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.audio import load
from engine.checkpoint import export, fill, load_export, load_weights, newest_checkpoint
from engine.config import load_config, save_config
from engine.user_error import UserError
from vocoders import load_vocoder
from vocoders.griffin_lim import GriffinLimConfig
from vocoders.loading import RELEASED
from vocoders.mel_files import check_definition
from vocoders.vocoder import Vocoder, VocoderConfig
from w2w.baselines.cluit_mel.network import CluitMelConfig, CluitMelNetwork
from w2w.baselines.two_stage import TwoStage

WORDS = ("released", "griffin_lim")
"""Vocoders that are named by a word; others are folders."""
BESIDE = "vocoder"
"""Folder of an export's own vocoder, beside its weights."""


@dataclass(frozen=True, kw_only=True)
class MelRoadConfig:
    """The ``config.json`` of an exported converter of mels; its weights are the converter's alone."""

    road: CluitMelConfig | None
    """Which network converts, and its sizes."""
    vocoder: str = "released"
    """What speaks: ``released``, ``griffin_lim``, or a vocoder's folder, relative to this file's."""


def open_road(folder: Path, vocoder: str | Path | None = None, device: str = "cpu") -> Any:
    """Load an exported converter of mels and its vocoder as one network from wave to wave.

    ``vocoder`` is another than the folder names: a word, a vocoder's folder or its training run.
    """
    config, state = load_export(folder, MelRoadConfig)
    assert config.road is not None
    speaks = str(vocoder) if vocoder is not None else _beside(folder, config.vocoder)
    found = find_vocoder(speaks, config.road, f"what {folder} makes")
    network = CluitMelNetwork(config.road)
    fill(network, state, folder / "model.safetensors")
    return TwoStage(network.eval().fold(), found).to(device)


def find_vocoder(name: str, road: CluitMelConfig, where: str) -> Vocoder:
    """Load a vocoder for what a road makes; ``where`` names that in complaints."""
    if name == "griffin_lim":
        return load_vocoder(name, mel=road.mel)
    found = load_vocoder(name)
    check_definition(road.mel, found.mel, where)
    return found


def _beside(folder: Path, name: str) -> str:
    if name in WORDS:
        return name
    if not (folder / name).is_dir():
        raise UserError(
            f"{folder / 'config.json'} names the vocoder {name!r}, and there is no folder {folder / name}: "
            "copy it there, or name another vocoder (vocoder=, --vocoder)"
        )
    return str(folder / name)


def export_road(
    run: Path, out: Path, *, vocoder: str | None = None, statistics: str | Path | None = None
) -> Path:
    """Write the folder of a run's averaged network and its vocoder; return it.

    A vocoder of a folder or a run is copied into the export, which then stands alone. Without one, an export
    that is there already keeps its own, and a new one takes the released vocoder, or Griffin-Lim where that
    reads other mels. ``statistics`` is a clip whose statistics a network of frozen ones keeps.
    """
    checkpoint = newest_checkpoint(run)
    if checkpoint is None:
        raise UserError(f"{run} holds no checkpoint of a run: give the folder that --loop.out named")
    road, network = averaged(checkpoint)
    if vocoder is None:
        vocoder = _kept(out) or _default(road)
    found = None
    if vocoder not in (*WORDS, BESIDE):
        found = find_vocoder(vocoder, road, f"what {run} makes")
    elif vocoder == "released":
        find_vocoder(vocoder, road, f"what {run} makes")
    if statistics is not None:
        freeze_statistics(network, statistics)
    if found is not None:
        _export_vocoder(found, out / BESIDE)
    return export(out, MelRoadConfig(road=road, vocoder=BESIDE if found else vocoder), network)


def averaged(checkpoint: Path) -> tuple[CluitMelConfig, CluitMelNetwork]:
    """The averaged network of a training run's checkpoint."""
    from w2w.baselines.cluit_mel.presets import CluitMelTrainConfig

    road = load_config(CluitMelTrainConfig, checkpoint / "config.json").network
    network, weights = CluitMelNetwork(road), checkpoint / "network_ema.safetensors"
    fill(network, load_weights(weights), weights)
    return road, network.eval()


def freeze_statistics(network: CluitMelNetwork, clip: str | Path) -> None:
    """Keep a recorded clip's statistics, that the speaker's other words be normalised alike."""
    rate = network.mel.sample_rate
    # The vocoder has no say in mels; Griffin-Lim is there for any definition.
    mel = TwoStage(network, load_vocoder("griffin_lim", mel=network.mel)).mel_of(load(clip, rate))
    try:
        network.freeze_statistics(mel)
    except UserError as mistake:
        raise UserError(f"--statistics {clip}: {mistake}") from None


def is_mel_run(run: Path) -> bool:
    """Whether a folder is a training run of a converter of mels."""
    checkpoint = newest_checkpoint(run)
    with suppress(OSError, ValueError):
        config = json.loads(((checkpoint or run) / "config.json").read_text())
        return checkpoint is not None and "converter" not in config
    return False


def _kept(out: Path) -> str | None:
    """The vocoder of an export that is there already."""
    with suppress(UserError):
        kept = load_config(MelRoadConfig, out / "config.json").vocoder
        return kept if kept in WORDS or (out / kept).is_dir() else None
    return None


def _default(road: CluitMelConfig) -> str:
    fits = (RELEASED / "config.json").is_file() and (
        load_config(VocoderConfig, RELEASED / "config.json").mel == road.mel
    )
    return "released" if fits else "griffin_lim"


def _export_vocoder(vocoder: Vocoder, folder: Path) -> None:
    if isinstance(vocoder.config.network, GriffinLimConfig):
        save_config(vocoder.config, folder / "config.json")
    else:
        export(folder, vocoder.config, vocoder.network)
