"""Masked regression of a teacher's targets, and the signs of a collapse (Baevski et al., 2022)."""

from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor, nn

from engine.user_error import UserError
from pretrain.speech.targets import TeacherConfig

Steps = Float[Tensor, "rows steps dim"]


@dataclass(frozen=True, kw_only=True)
class RegressionConfig:
    """How the student's guesses are compared with the teacher's targets."""

    weight: float = 1.0
    """What the term counts in the loss."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    least_target_spread: float = 0.1
    """Stop when the targets' standard deviation over masked steps falls below this ..."""
    least_prediction_spread: float = 0.01
    """... or the predictions' below this,"""
    guard_from: int = 5000
    """once so many updates are done; before, both may well be small."""


class Regression(nn.Module):
    """Guesses the targets from the student's states by one linear layer."""

    def __init__(self, config: RegressionConfig, dim: int, hidden: int) -> None:
        super().__init__()
        self.config = config
        self.head = nn.Linear(dim, hidden)

    def forward(
        self, states: Float[Tensor, "rows steps dim"], target: Float[Tensor, "rows steps hidden"]
    ) -> tuple[Float[Tensor, ""], dict[str, Tensor]]:
        guess = self.head(states).float()
        loss = masked_regression(guess, target)
        scalars = {
            "spread/target": spread(target),
            "spread/prediction": spread(guess.detach()),
            "variance_explained": variance_explained(guess.detach(), target),
        }
        return loss, scalars

    def guard(self, scalars: dict[str, Tensor], update: int) -> None:
        """Stop a run whose teacher or student answers the same to everything."""
        if update < self.config.guard_from:
            return
        for name, least in (
            ("target", self.config.least_target_spread),
            ("prediction", self.config.least_prediction_spread),
        ):
            found = float(scalars[f"spread/{name}"])
            if found < least:
                raise UserError(
                    f"collapsed after {update} updates: {name}s vary by {found:.3g} over "
                    f"masked steps, less than {least:g}; start again with a lower --optim.lr, a longer "
                    "warm-up or a higher --regression.teacher.decay-first"
                )


def masked_regression(guess: Steps, target: Steps) -> Float[Tensor, ""]:
    """Squared distance over the square root of the channels, averaged over masked steps."""
    return (guess - target).square().sum(-1).mean() * target.shape[-1] ** -0.5


def spread(x: Steps) -> Float[Tensor, ""]:
    """Return the standard deviation over all masked steps of the batch, averaged over channels."""
    return (x.flatten(0, 1).var(0) + 1e-6).sqrt().mean()


def variance_explained(guess: Steps, target: Steps) -> Float[Tensor, ""]:
    """Return 1 − squared error over the targets' variance: 1 is perfect, 0 as good as the mean."""
    flat = target.flatten(0, 1)
    return 1 - (guess.flatten(0, 1) - flat).square().mean() / flat.var(0, unbiased=False).mean()


def mean_square(x: Float[Tensor, "batch frames dim"]) -> Float[Tensor, ""]:
    """Return what the convolutions' frames vary by: it sinks towards 0 when they die."""
    return x.detach().float().square().mean()
