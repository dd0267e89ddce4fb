"""What ``w2w/train.py --task`` may name."""

from collections.abc import Sequence

from engine.user_error import UserError

TASKS = {
    "w2w": "w2w.train",
    "cluit-mel": "w2w.baselines.cluit_mel.train",
    "stargan": "w2w.baselines.stargan.train",
}
"""Each module has ``PRESETS`` and ``train``."""


def task_of(words: Sequence[str]) -> tuple[str, list[str]]:
    """The task that the command line names, w2w without one, and the words that are left."""
    name, rest, words = "w2w", [], list(words)
    while words:
        word = words.pop(0)
        if word == "--task" and not words:
            raise UserError(f"--task needs a value: {', '.join(TASKS)}")
        if word == "--task":
            name = words.pop(0)
        elif word.startswith("--task="):
            name = word.removeprefix("--task=")
        else:
            rest.append(word)
    if name not in TASKS:
        raise UserError(f"there is no task {name!r}; choose from {', '.join(TASKS)}")
    return name, rest
