"""Initial weights of a training, and fine-tuning to one speaker by ``w2w/train.py --finetune released``.

Fine-tuning takes some minutes of the speaker's recordings, a small learning rate and few steps. Recordings
are reconstructed from the converter's own conversions of them to the voice of recordings at other speeds, so
that it learns to produce this voice from speech in others. Adversarial and contrastive losses are off, since
they need other voices.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from data.audio import excerpt
from data.batches import DataConfig
from data.rows import split_rows
from engine.checkpoint import fill, newest_checkpoint
from engine.outcome import leaving_out, note
from engine.user_error import UserError
from w2w.cluit.task import CLUIT
from w2w.converter import OWN_VOICE, Converter
from w2w.recording import LONGEST_S
from w2w.voice_fitting import MOST_CLIPS
from w2w.weights import begin_from, load_converter, pitch_tracker, weights_folder


def begin_task_from(task: CLUIT, where: str) -> None:
    """Fill the networks from another run's newest checkpoint, or from an export; memory banks start empty."""
    folder = Path(where)
    if where in ("released", "released_live") or (folder / "model.safetensors").is_file():
        folder = weights_folder(where)
        theirs, state = load_converter(folder)
        if theirs.pitch_ahead != task.converter.config.pitch_ahead:  # the weights have equal shapes
            raise UserError(
                f"init={where} has an F0 tracker with {theirs.pitch_ahead} frames more look-ahead than the"
                f" converter, not {task.converter.config.pitch_ahead}: give --pretrained.pitch the tracker"
                " that it was trained with, released or released_ahead"
            )
        layers, stored = task.converter.config.recogniser_layers, theirs.recogniser_layers
        if theirs.recogniser and layers[: len(stored)] != stored:
            raise UserError(
                f"init={where} encodes the layers {list(stored)} of its recogniser: "
                f"converter.recogniser_layers must begin with them, and is {list(layers)}"
            )
        stem = state.get("content.stem.weight")
        if theirs.recogniser and len(layers) > len(stored) and stem is not None:
            # Added layers have no effect at first.
            n_new = stem.shape[1] // (1 + len(stored)) * (len(layers) - len(stored))
            state |= {"content.stem.weight": F.pad(stem, (0, 0, 0, n_new))}
        for module in (task.converter, task.converter_ema.module):
            fill(module, pitch_tracker(module) | state, folder / "model.safetensors")
    elif newest_checkpoint(folder) is None:
        raise UserError(
            f"init={where} holds neither a checkpoint of a run nor an exported converter: give the folder"
            " that --loop.out named, or one with config.json and model.safetensors"
        )
    else:
        begin_from(task.modules, folder, without=("bank", "voices", "balancer"))


def save_voice(folder: Path, network: Any, data: DataConfig) -> None:
    """Save the speaker's voice with an export, for ``--voice own``: the recordings' mean, fitted to them."""
    converter, faults, voices, clips = Converter(network), [], [], []
    for row in split_rows(data.path, data.split):
        with leaving_out(faults):
            clip = excerpt(row.path, 0, round(LONGEST_S * converter.sample_rate), converter.sample_rate)
            voices.append(converter.embed(clip, names=[str(row.path)]))
            clips += [clip] if len(clips) < MOST_CLIPS else []
    if not voices:
        raise UserError(faults[0])
    note(*faults)
    save_file({"voice": converter.fit(torch.stack(voices).mean(0), clips).cpu()}, folder / OWN_VOICE)
