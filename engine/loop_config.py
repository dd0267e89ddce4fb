"""The configuration of a training run's loop: schedule, output folder and hardware options."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from accelerate.utils import DynamoBackend

from engine.config import free
from engine.user_error import UserError, at_least


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Schedule, output folder and hardware options of a training run."""

    out: Path = free(Path("runs/unnamed"))  # noqa: RUF009 - paths do not change
    """Output folder of the run: config.json, checkpoints and logs."""
    steps: int = free(1000)
    """Total number of training steps; raise it to continue a finished run."""
    seed: int = 0
    """Random seed; all randomness is a function of the seed and the step."""
    log_every: int = free(20)
    """Steps between logged scalars."""
    save_every: int = free(1000)
    """Steps between checkpoints; one is always written at the end."""
    sample_every: int = free(1000)
    """Steps between logged audio samples, pictures and evaluations; 0 disables them."""
    keep: int = free(2)
    """Number of checkpoints to keep; older ones are deleted."""
    workers: int = free(0)
    """Data loading processes; 0 loads in the training process."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Automatic mixed precision: bfloat16, or on a GPU float16 with loss scaling. Without this option, the
    setting of accelerate is used."""
    accumulate: int = 1
    """Gradient accumulation: micro-batches whose gradients are averaged into one step."""
    compile: str = "no"
    """Backend of torch.compile for the networks, such as inductor; no disables compilation."""
    cpu: bool = free(False)
    """Train on the CPU even if there is a GPU."""
    trackers: Literal["tensorboard", "wandb", "none"] = free("tensorboard")
    """Experiment tracker for scalars, audio and pictures."""
    max_minutes: float = free(0.0)
    """Time limit in minutes, after which the run saves a checkpoint and stops; 0 for no limit."""
    threads: int = free(0)
    """CPU threads of the training process; 0 uses torch's default."""

    def __post_init__(self) -> None:
        at_least(1, self, "steps", "log_every", "save_every", "keep", "accumulate", prefix="loop.")
        at_least(0, self, "sample_every", "workers", "threads", "max_minutes", "seed", prefix="loop.")
        backends = [name.lower() for name in DynamoBackend.list()]
        if self.compile not in backends:
            raise UserError(f"loop.compile={self.compile} is unknown: choose one of {', '.join(backends)}")
