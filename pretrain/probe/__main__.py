"""Evaluate an encoder on a task: ``python -m pretrain.probe TASK --encoder FOLDER --data MANIFEST``.

``python -m pretrain.probe TASK --help`` lists a task's options. Scores are printed as a table and added to
OUT/results.csv.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from engine.user_error import UserError, exits_cleanly, nearest

TASKS = {
    "classification": ("classification", "classify frozen embeddings with a 2-layer perceptron"),
    "low_data": ("classification", "classification with 1 to 100 % of the labels, as a table and a plot"),
    "zero_shot": ("zero_shot", "classify by the nearest caption, 'This is a sound of …', without training"),
    "audio_retrieval": ("retrieval", "retrieve clips with the same label as a query clip"),
    "cross_modal": ("retrieval", "retrieve images or captions by sound, and sounds by image or caption"),
    "captioning": ("captioning", "caption sounds with a 1-layer transformer on frozen features"),
    "pictures": ("pictures", "generate images of sounds from their embeddings"),
    "real_sounds": ("zero_shot", "supervised, frozen, zero-shot and baselines on a corpus' official folds"),
    "speech_error": ("speech_error", "phone or character error rate after fine-tuning on some of the labels"),
    "speakers": ("speech_labels", "speaker identification from frozen speech features"),
    "keywords": ("speech_labels", "digit or keyword classification from frozen speech features"),
}
"""Tasks by name: module and description."""


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(listing())
        return
    task, *rest = args
    name = task.replace("-", "_")
    if name not in TASKS:
        raise UserError(f"there is no task {task!r}{nearest(name, TASKS)}: the tasks are {', '.join(TASKS)}")
    getattr(import_module(f"pretrain.probe.{TASKS[name][0]}"), name)(rest)


def listing() -> str:
    width = max(map(len, TASKS))
    return "\n".join([__doc__ or "", *(f"  {name:<{width}}  {about}" for name, (_, about) in TASKS.items())])


if __name__ == "__main__":
    main()
