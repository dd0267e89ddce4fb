"""What a run does about values that are not finite: it leaves them out, tells of them, and goes back.

A gradient that is not finite moves nothing (``engine/optim.py``). After ``patience`` of them in a row the run
goes back to its newest checkpoint with half that player's learning rate, ``MOST_HALVINGS`` times at most.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from engine.optim import Player
from engine.user_error import UserError

MOST_HALVINGS = 3


Places = list[tuple[nn.Module, str]]


def places(modules: Iterable[nn.Module]) -> Places:
    """Where the buffers are that belong to a run's state: banks, running statistics."""
    owners = [owner for module in modules for owner in module.modules()]
    return [
        (owner, name)
        for owner in owners
        for name, buffer in owner.named_buffers(recurse=False)
        if buffer.is_floating_point() and name not in owner._non_persistent_buffers_set
    ]


@contextmanager
def kept_finite(buffers: Places) -> Iterator[None]:
    """Undo what a step did to those buffers that are not finite after it."""
    before = [getattr(owner, name).clone() for owner, name in buffers]
    yield
    for (owner, name), good in zip(buffers, before):
        buffer: Tensor = getattr(owner, name)
        buffer.copy_(buffer.where(buffer.isfinite().all(), good))


def report(scalars: Mapping[str, float]) -> str:
    """What was not finite since the last logged scalars, in words; empty if all was."""
    spoilt = [name.removeprefix("spoilt/") for name in scalars if name.startswith("spoilt/")]
    if not spoilt:
        return ""
    counts = {name: value for name, value in scalars.items() if name.startswith("skipped/") and value}
    skipped = ", ".join(f"{value:.0f} of {name.removeprefix('skipped/')}" for name, value in counts.items())
    return f"not finite: {', '.join(spoilt)}; updates skipped so far: {skipped or 'none'}"


def lost(players: Mapping[str, Player]) -> list[str]:
    """Players of whose updates ``patience`` in a row were skipped; asking waits for the device."""
    return [name for name, p in players.items() if int(p.longest_row) >= p.config.patience]


def amid_a_row(players: Mapping[str, Player]) -> bool:
    return any(int(player.skipped_in_row) for player in players.values())


def verdict(players: Mapping[str, Player], *, can_go_back: bool) -> tuple[str, dict[str, int]]:
    """What is wrong, in words, and how often each player's rate is to be halved from now on.

    Raises ``UserError`` where no checkpoint is left, or halving did not help.
    """
    names = lost(players)
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
