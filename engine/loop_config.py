"""When things happen in a run, where it lives, and how it computes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from accelerate.utils import DynamoBackend

from engine.config import free
from engine.user_error import UserError, at_least


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """When things happen in a run, and where it lives."""

    out: Path = free(Path("runs/unnamed"))  # noqa: RUF009 - paths do not change
    """Folder of the run: config.json, checkpoints and logs."""
    steps: int = free(1000)
    """Steps of the whole run; raise it to continue a finished run."""
    seed: int = 0
    """Everything random follows from this and the step."""
    log_every: int = free(20)
    """Steps between logged scalars."""
    save_every: int = free(1000)
    """Steps between checkpoints; one is always written at the end."""
    sample_every: int = free(1000)
    """Steps between logged sounds, pictures and evaluations; 0 for none."""
    keep: int = free(2)
    """Newest checkpoints that are kept."""
    workers: int = free(0)
    """Processes that load data; 0 loads in the training process."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Compute the task's update in bfloat16 where that is safe, or on a GPU in float16 with scaled losses.
    Where no option says it, what accelerate was told counts."""
    accumulate: int = 1
    """Micro-batches whose gradients are averaged into one step."""
    compile: str = "no"
    """Compile the networks by torch.compile with this backend, such as inductor."""
    cpu: bool = free(False)
    """Stay on the CPU even where there is a GPU."""
    trackers: Literal["tensorboard", "wandb", "none"] = free("tensorboard")
    """Where scalars, sounds and pictures go."""
    max_minutes: float = free(0.0)
    """Stop and save after this long; 0 for no limit."""
    threads: int = free(0)
    """CPU threads of the training process; 0 leaves torch's choice."""

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "log_every", "save_every", "keep", "accumulate", prefix="loop.")
        for name in ("sample_every", "workers", "threads", "max_minutes", "seed"):
            if getattr(self, name) < 0:
                raise UserError(f"loop.{name}={getattr(self, name)} must not be below 0")
        backends = [name.lower() for name in DynamoBackend.list()]
        if self.compile not in backends:
            raise UserError(f"loop.compile={self.compile} is none of {', '.join(backends)}")
