"""A causal student of a frozen speech encoder, and how its frames and its teacher's meet."""

import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from engine.checkpoint import fill, load_export
from engine.user_error import at_least
from pretrain.causal.encoder import CausalEncoder, CausalEncoderConfig, Code, PerItem, Wave
from pretrain.teacher import Teacher, at_times

RELEASED = Path(__file__).parents[1] / "released" / "student"
"""The student of Moonshine's encoder that comes with the code."""


@dataclass(frozen=True, kw_only=True)
class StudentConfig:
    """What an exported student is made of."""

    KIND: ClassVar[str] = "causal_student"
    encoder: CausalEncoderConfig = field(default_factory=CausalEncoderConfig)
    sample_rate: int = 16_000
    """Hz of the waves it takes."""
    look_ahead_ms: float = 8.0
    """How much later than its teacher's frame the student's stands: it tells what was said so long ago."""
    teacher_dim: int = 288
    """Channels of the teacher's features."""

    def __post_init__(self) -> None:
        at_least(0, self, "look_ahead_ms")


class Student(nn.Module):
    """The encoder, and a linear head that guesses the teacher's features from its code."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = CausalEncoder(config.encoder, config.sample_rate)
        self.head = nn.Conv1d(config.encoder.dim, config.teacher_dim, 1)

    @property
    def look_ahead(self) -> int:
        """In samples."""
        return round(self.config.sample_rate * self.config.look_ahead_ms / 1000)

    def forward(self, wave: Wave, warp: PerItem | None = None) -> Code:
        """Codes of a whole wave."""
        return self.encoder(wave, warp)

    def places(self, teacher: Teacher, n_frames: int) -> Float[Tensor, " n_frames"]:
        """Where the teacher's frames stand among the student's."""
        return teacher.places(n_frames, self.encoder.hop, self.look_ahead)

    def guess(
        self, code: Code, places: Float[Tensor, " places"]
    ) -> Float[Tensor, "batch teacher_dim places"]:
        """What the teacher is thought to hear at these places."""
        return self.head(at_times(code, places)).float()


def is_student(folder: Path) -> bool:
    """Whether a folder holds a student, or a run that has exported one."""
    for path in (folder / "config.json", folder / "export" / "config.json"):
        with suppress(OSError, ValueError):
            if json.loads(path.read_text()).get("kind") == "causal_student":
                return True
    return False


def load_student(folder: str | Path) -> Student:
    """Load an exported student, or that of a run, ready for use; ``released`` comes with the code."""
    folder = RELEASED if str(folder) == "released" else Path(folder)
    if (folder / "export" / "config.json").is_file():
        folder = folder / "export"
    config, state = load_export(folder, StudentConfig)
    student = Student(config)
    fill(student, {name: tensor.float() for name, tensor in state.items()}, folder)
    return student.eval()
