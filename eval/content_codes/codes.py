"""One interface to content codes of converters, students, speech encoders, teachers and log-mels."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from data.audio import load
from data.causal_mel import CausalLogMel, frame_energy
from engine.user_error import UserError
from eval.outputs import load_converter
from pretrain.causal.encoder import load_student
from pretrain.speech.loading import load_speech_encoder
from pretrain.teacher import Teacher
from pretrain.teachers import load_teacher, speech_teacher
from w2w.networks.network import ConverterNetwork

SAMPLE_RATE = 16_000
"""Sample rate in Hz of the log-mels."""
HUSH = 4.6
"""Frames more than this below an utterance's loudest (natural log of magnitude, 40 dB) are pauses."""
N_MELS = 80
HOP, WINDOW = SAMPLE_RATE // 100, SAMPLE_RATE // 25
NAMES = "log-mel, converter:FOLDER, student:FOLDER, speech:FOLDER, teacher:FOLDER"
"""Values of ``--code``; the folder of a converter, student or speech encoder may be ``released``."""

Wave = Float[Tensor, "1 1 samples"]
Frames = Float[Tensor, "frames channels"]


@dataclass(frozen=True, kw_only=True)
class Code:
    name: str
    encode: Callable[[Wave], Float[Tensor, "1 channels frames"]]
    """Encodes a wave at ``sample_rate``."""
    hop: int
    """Samples between frames."""
    offset: int = 0
    """Sample position of frame 0."""
    sample_rate: int = SAMPLE_RATE
    """Sample rate in Hz."""


@dataclass(frozen=True, kw_only=True)
class CodeFrames:
    frames: Frames
    """Code in half precision."""
    audible: Bool[Tensor, " frames"]
    """Whether each frame is audible, not a pause."""


@torch.inference_mode()
def encode(code: Code, path: Path) -> CodeFrames:
    wave = load(path, code.sample_rate)
    frames = code.encode(wave)[0].float().cpu()
    return CodeFrames(
        frames=frames.T.half(), audible=audible_frames(wave, code.sample_rate, frames.shape[-1])
    )


def audible_frames(wave: Wave, sample_rate: int, n_frames: int) -> Bool[Tensor, " n_frames"]:
    """Divide a wave into ``n_frames`` frames and return which are audible."""
    analysis = CausalLogMel(sample_rate, sample_rate // 100, sample_rate // 25, N_MELS)
    energy = F.interpolate(frame_energy(analysis(wave)), n_frames)[0, 0]
    return energy > energy.max() - HUSH


def open_code(name: str) -> Code:
    """Open a code by name (see ``NAMES``); a plain folder is a converter."""
    if name == "log-mel":
        return log_mel()
    kind, colon, place = name.partition(":")
    if not colon or kind in ("hub", "C"):
        kind, place = "converter", name
    match kind:
        case "converter":
            return content_code(place, load_converter(place).network)
        case "student":
            student = load_student(place)
            return Code(
                name=name,
                encode=_on_device(student, student),
                hop=student.encoder.hop,
                offset=-student.look_ahead,
                sample_rate=student.config.sample_rate,
            )
        case "speech":
            return teacher_code(name, speech_teacher(load_speech_encoder(place)))
        case "teacher":
            return teacher_code(name, load_teacher(place))
    raise UserError(f"--code {name}: there is no kind {kind!r}; give {NAMES}")


def content_code(name: str, network: ConverterNetwork) -> Code:
    return Code(
        name=name,
        encode=_on_device(network, lambda wave: network.content.encode(network.pad_look_ahead(wave)).code),
        hop=network.config.hop,
        offset=-network.config.look_ahead,
        sample_rate=network.config.sample_rate,
    )


def teacher_code(name: str, teacher: Teacher) -> Code:
    """Features of a frozen speech encoder."""
    return Code(name=name, encode=_on_device(teacher, teacher), hop=teacher.hop, offset=teacher.offset)


def log_mel() -> Code:
    """Log-mels, the baseline for all codes."""
    mel = CausalLogMel(SAMPLE_RATE, HOP, WINDOW, N_MELS)
    return Code(name="log-mel", encode=mel, hop=HOP, offset=HOP - WINDOW // 2)


def _on_device(
    network: nn.Module, encode: Callable[[Tensor], Tensor]
) -> Callable[[Wave], Float[Tensor, "1 channels frames"]]:
    device = next(network.parameters()).device
    return lambda wave: encode(wave.to(device))
