"""Show what an encoder learned: ``python -m pretrain.probe TASK --encoder FOLDER --data MANIFEST``.

``python -m pretrain.probe TASK --help`` lists a task's options.
"""

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

from engine.user_error import UserError, exits_cleanly

TASKS = {
    "classification": "labels from frozen embeddings by a 2-layer perceptron, one label a clip or several",
    "zero_shot": "labels from the nearest caption, 'This is a sound of …', without any training",
    "audio_retrieval": "find the clips of the same label by the sound of one",
    "cross_modal": "find the picture or the caption of a sound among all, and back",
    "captioning": "say in words what is heard, by a 1-layer transformer on frozen embeddings",
    "low_data": "classification with 1 to 100 % of the labels, as a table and a plot",
    "pictures": "draw what is heard, by a generator guided by the embedding",
    "real_sounds": "supervised, frozen, zero-shot and baselines on a corpus' official folds",
    "speech_error": "phone or character error rate on speech features, by shares of the labels",
    "speakers": "who speaks, from speech features",
    "keywords": "digits or keywords, from speech features",
}
"""Names of the tasks, each a module of this package, and what they ask."""


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    """Run the task that the first word names with the words after it."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(listing())
        return
    task, *rest = words
    name = task.replace("-", "_")
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.4)
        guess = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"there is no task {task!r}: {guess}The tasks are {', '.join(TASKS)}")
    import_module(f"pretrain.probe.{name}").main(rest)


def listing() -> str:
    """What ``--help`` prints."""
    width = max(map(len, TASKS))
    return "\n".join([__doc__ or "", *(f"  {name:<{width}}  {about}" for name, about in TASKS.items())])


if __name__ == "__main__":
    main()
