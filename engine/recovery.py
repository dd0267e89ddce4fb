"""Recovery from non-finite values: skip updates, report them, and return to a checkpoint.

Updates with a non-finite gradient are skipped (``engine/optim.py``). After ``patience`` consecutive ones the
run returns to its newest checkpoint and halves that player's learning rate, at most ``MOST_HALVINGS`` times.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from engine.optim import Player
from engine.user_error import UserError

MOST_HALVINGS = 3
Buffers = list[tuple[nn.Module, str]]


def state_buffers(modules: Iterable[nn.Module]) -> Buffers:
    """Find the floating-point buffers that belong to a run's state: memory banks, running statistics."""
    owners = [owner for module in modules for owner in module.modules()]
    return [
        (owner, name)
        for owner in owners
        for name, buffer in owner.named_buffers(recurse=False)
        if buffer.is_floating_point() and name not in owner._non_persistent_buffers_set
    ]


@contextmanager
def finite_buffers(buffers: Buffers) -> Iterator[None]:
    """Restore the buffers that are no longer finite after the step inside."""
    before = [getattr(owner, name).clone() for owner, name in buffers]
    yield
    for (owner, name), old in zip(buffers, before):
        buffer: Tensor = getattr(owner, name)
        buffer.copy_(buffer.where(buffer.isfinite().all(), old))


def report(scalars: Mapping[str, float]) -> str:
    """Return a message about non-finite values since the last logged scalars; empty if there were none."""
    names = [name.removeprefix("spoilt/") for name in scalars if name.startswith("spoilt/")]
    if not names:
        return ""
    counts = {name: value for name, value in scalars.items() if name.startswith("skipped/") and value}
    skipped = ", ".join(f"{value:.0f} of {name.removeprefix('skipped/')}" for name, value in counts.items())
    return f"not finite: {', '.join(names)}; updates skipped so far: {skipped or 'none'}"


def diverged(players: Mapping[str, Player]) -> list[str]:
    """Return the players with ``patience`` consecutive skipped updates; this synchronises with the device."""
    return [name for name, p in players.items() if int(p.longest_row) >= p.config.patience]


def now_skipping(players: Mapping[str, Player]) -> bool:
    """Return whether any player's last update was skipped."""
    return any(int(player.skipped_in_row) for player in players.values())


def verdict(players: Mapping[str, Player], *, can_go_back: bool) -> tuple[str, dict[str, int]]:
    """Return a message and how often each player's learning rate is halved from now on.

    Raises ``UserError`` if there is no checkpoint to return to, or halving did not help.
    """
    names = diverged(players)
    halvings = {name: player.halvings + (name in names) for name, player in players.items()}
    reason = ", ".join(
        f"the gradient of player {name!r} was not finite {players[name].config.patience} times in a row"
        for name in names
    )
    if not can_go_back or max(halvings.values()) > MOST_HALVINGS:
        tried = f", even at 1/{2**MOST_HALVINGS} of its learning rate" if can_go_back else ""
        raise UserError(
            f"{reason}{tried}: lower its learning rate, clip its gradient, or look for broken recordings with"
            " data.check"
        )
    return reason, halvings
