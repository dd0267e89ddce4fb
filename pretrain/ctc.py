"""Train a recogniser with CTC: a small one from scratch, or by fine-tuning a pretrained speech encoder.

accelerate launch pretrain/ctc.py --preset small --data.paths speech/metadata.csv voices/manifest.csv
python -m pretrain.ctc --preset characters --init runs/speech/export --data.paths speech/metadata.csv

``small`` recognises phones; a consistency loss between two augmented views of each utterance makes its
features depend little on the voice. ``characters``, ``phonemes`` and ``semi_supervised`` (labels for a tenth
of the speech) fine-tune a pretrained speech encoder.
"""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

if __package__ in (None, ""):  # run as a file: this folder is on the import path, its parent is not
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.batches import Batches
from data.recordings import end_training
from engine.checkpoint import export
from engine.config import cli
from engine.loop import accelerator, addressing, fit
from engine.user_error import UserError, exits_cleanly
from pretrain.recogniser import RecogniserConfig
from pretrain.speech.batches import first_of
from pretrain.speech.labelled import labelled_speech
from pretrain.speech.recognition import Recognition
from pretrain.speech.recognition_config import PRESETS, CTCConfig, resolved
from pretrain.units import Phonemes, Units


@exits_cleanly
def main() -> None:
    _, speech = train(cli(PRESETS, default="small"))
    end_training(speech)


def train(
    config: CTCConfig,
    *,
    validation_split: str = "validation",
    on_evaluation: Callable[[int, float], None] | None = None,
) -> tuple[Recognition, Dataset[Any]]:
    """Train, resume a run, or reload a finished one; export the averaged weights to its ``export`` folder.

    Returns the task and the training data. ``on_evaluation`` is called with the step and the error rate of
    the validation split, in percent.
    """
    config = resolved(config)
    here, loop = accelerator(config.loop), config.loop
    if isinstance(config.model, RecogniserConfig):
        units, sample_rate = Units(Phonemes(inventory=config.model.phones)), config.model.mel.sample_rate
    else:
        units, sample_rate = Units(config.model.units), config.model.encoder.sample_rate
    ranks = {"rank": here.process_index, "n_ranks": here.num_processes, "accumulate": loop.accumulate}
    speech = labelled_speech(
        config.data, units, sample_rate=sample_rate, progress=here.is_main_process, **ranks
    )
    here.print(speech.summary)
    validation = None
    if loop.sample_every and here.is_main_process:
        whole = replace(config.data, split=validation_split, share=1.0, unlabelled_seconds=0.0)
        try:
            validation = first_of(labelled_speech(whole, units, sample_rate=sample_rate, progress=False))
        except UserError:  # a corpus without a validation split is trained without evaluation
            validation = None
    batches = Batches(speech, **addressing(loop, here))
    task, _ = fit(lambda: Recognition(config, validation, on_evaluation), batches, loop, full_config=config)
    if here.is_main_process:
        # Half precision halves the file, without a visible change in the error rate.
        state = {name: tensor.half() for name, tensor in task.average.state_dict().items()}
        print(f"exported to {export(loop.out / 'export', config.model, state)}")
    return task, speech


if __name__ == "__main__":
    main()
