"""Read mels from files, check them against a vocoder's mel definition, and save them with their definition.

A ``.npz`` written by ``save_mel`` holds ``mel`` and ``definition``, the mel definition as JSON. A ``.npy``
has no definition, so only its shape and values can be checked.
"""

import math
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from data.frontends import NAMED, MelConfig
from engine.config import differences, from_json, to_json
from engine.files import atomic
from engine.user_error import UserError

EXTENSIONS = (".npy", ".npz")
DEFINITIONS: dict[str, MelConfig] = {
    **NAMED,
    # TacotronSTFT, also used by WaveGlow: centred frames, magnitudes without a floor.
    "waveglow": replace(NAMED["hifigan"], padding="center", magnitude_floor=0.0),
    "wavenet_r9y9": MelConfig(
        f_min=125.0, f_max=7_600.0, magnitude_floor=0.0, log="log10", floor=1e-10, padding="center"
    ),
}
"""Mel definitions by name: those of ``data.frontends`` and those used only by published vocoders."""


def is_mel(path: Path) -> bool:
    """Whether a file is a mel, by its extension."""
    return path.suffix.lower() in EXTENSIONS


def definition_name(mel: MelConfig) -> str:
    """The definition's name, or its differences from HiFi-GAN's definition."""
    name = next((name for name, known in DEFINITIONS.items() if known == mel), None)
    if name:
        return repr(name)
    settings = differences(mel, NAMED["hifigan"])
    return "of " + ", ".join(f"{field}={ours}" for field, ours, _ in settings)


def check_definition(theirs: MelConfig, ours: MelConfig, where: str) -> None:
    """Raise ``UserError`` with the first difference unless the two definitions are equal."""
    if theirs == ours:
        return
    field, their, our = next(iter(differences(theirs, ours)))
    raise UserError(
        f"{where} is a mel {definition_name(theirs)}, the vocoder reads mels {definition_name(ours)}: "
        f"{field} is {their} instead of {our}; recompute the mel, or use a vocoder with the mel's definition"
    )


def check_mel(mel: object, config: MelConfig, where: str = "the mel") -> Float[Tensor, "batch n_mels frames"]:
    """Return the mel in float32; raise ``UserError`` if it cannot be a log-mel of this definition."""
    if not isinstance(mel, Tensor):
        raise UserError(f"{where} is a {type(mel).__name__}, not a tensor: use torch.from_numpy for an array")
    if not mel.is_floating_point():
        raise UserError(
            f"{where} holds {str(mel.dtype).removeprefix('torch.')}: a log-mel must be floating-point"
        )
    shape = tuple(mel.shape)
    if mel.ndim != 3:
        raise UserError(f"{where} has shape {shape}: it must be (batch, {config.n_mels}, frames)")
    if shape[-1] == 0 or shape[0] == 0:
        raise UserError(f"{where} has shape {shape}: it contains no frame")
    if shape[1] != config.n_mels:
        if shape[2] == config.n_mels:
            raise UserError(f"{where} has shape {shape}: it is transposed, put bands before frames")
        raise UserError(
            f"{where} has {shape[1]} bands, the vocoder reads {config.n_mels} (definition "
            f"{definition_name(config)}): compute the mel with that definition"
        )
    if not bool(torch.isfinite(mel).all()):
        kind = "NaN" if bool(mel.isnan().any()) else "infinite"
        raise UserError(f"{where} holds {kind} values; was the logarithm taken without a floor?")
    _check_scale(mel, config, where)
    return mel.float()


def _check_scale(mel: Tensor, config: MelConfig, where: str) -> None:
    """Refuse values outside the range of the definition's logarithm: another base, decibels, raw power."""
    floor = math.log(config.floor) if config.log == "ln" else math.log10(config.floor)
    lowest, highest = float(mel.min()), float(mel.max())
    if lowest < 1.5 * floor - 1.0:
        guess = "a natural-log mel (divide by ln 10)" if config.log == "log10" else "in dB, or normalised"
        raise UserError(
            f"{where} falls to {lowest:.1f}, far below {floor:.1f}, the lowest value of its definition "
            f"({config.log}): is it {guess}?"
        )
    if highest > 20.0:
        raise UserError(
            f"{where} rises to {highest:.1f}, too loud for a {config.log} mel: take its logarithm if it "
            "holds magnitudes, or undo its scaling"
        )
    other = math.log10(config.floor) if config.log == "ln" else math.log(config.floor)
    at_floor = (mel - other).abs() < 1e-4
    if config.log == "ln" and lowest > other - 1e-3 and float(at_floor.float().mean()) > 0.001:
        raise UserError(
            f"{where} never falls below {other:.1f}, the floor of a log10 mel: the vocoder reads natural "
            "logarithms, multiply by ln 10 = 2.302585"
        )


def read_mel(path: str | Path, config: MelConfig) -> Float[Tensor, "1 n_mels frames"]:
    """Read and check a mel from .npy (as written by HiFi-GAN's and WaveNet's code) or from our .npz."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no mel file {path}")
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.lib.npyio.NpzFile):
            with content:
                if "mel" not in content:
                    raise UserError(
                        f"{path} holds {', '.join(content) or 'nothing'}: the array 'mel' is missing"
                    )
                values = content["mel"]
                definition = str(content["definition"]) if "definition" in content else None
        else:
            values, definition = content, None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        reason = "it holds pickled objects" if "allow_pickle" in str(error) else "damaged, or no numpy file"
        raise UserError(f"{path} cannot be read as a mel: {reason}") from None
    if definition is not None:
        check_definition(from_json(MelConfig, definition, f"{path}, definition"), config, str(path))
    if values.dtype.kind != "f":
        raise UserError(f"{path} holds {values.dtype}: a log-mel must be floating-point")
    mel = torch.from_numpy(np.ascontiguousarray(values, np.float32))
    if mel.ndim == 3 and mel.shape[0] > 1:
        raise UserError(f"{path} has shape {tuple(mel.shape)}: save one mel, (bands, frames), per file")
    if mel.ndim not in (2, 3):
        raise UserError(f"{path} has shape {tuple(mel.shape)}: a mel is ({config.n_mels}, frames)")
    return check_mel(mel.reshape(1, *mel.shape[-2:]), config, str(path))


def save_mel(path: str | Path, mel: Float[Tensor, "1 n_mels frames"], config: MelConfig) -> None:
    """Write a mel and its definition as .npz, atomically."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, mel=mel[0].cpu().numpy(), definition=np.array(to_json(config)))
