"""Speed of self-supervised training compared with transformers: ``python -m benchmarks.pretraining steps``

``steps`` times one training step (masks, forward, backward, Adam) of each of our methods and of transformers'
Wav2Vec2ForPreTraining with the same convolutions and transformer, in turns, on one thread, in processor
seconds. ``curve --data.paths …`` trains data2vec and data2vec 2.0 on the same speech and targets, and prints
the loss on held-out speech over processor seconds: ``benchmarks/pretraining_curve.py``.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

from benchmarks.table import in_turns, machine, ratio, show
from engine.arguments import Arguments
from engine.optim import OptimConfig
from engine.user_error import exits_cleanly
from pretrain.speech.batches import Clips
from pretrain.speech.contrast import ContrastConfig
from pretrain.speech.encoder import SpeechEncoderConfig
from pretrain.speech.pretraining import Pretraining, PretrainingConfig
from pretrain.speech.regression import RegressionConfig, TeacherConfig
from pretrain.speech.student import MultiMaskConfig

GOAL = 0.8
"""Maximum time of our step relative to that of transformers."""
SIZES = {
    "small": SpeechEncoderConfig(
        conv_dims=(128,) * 7, hidden=256, layers=4, heads=4, ffn=1024, attention_dropout=0.0
    ),
    "base": SpeechEncoderConfig(attention_dropout=0.0),
}
"""Both run without attention dropout, with which both fall back to slow attention on a CPU."""
OPTIM = OptimConfig(lr=1e-4, betas=(0.9, 0.98), eps=1e-6)
Wave = Float[Tensor, "batch 1 samples"]


class Step(NamedTuple):
    run: Callable[[], object]
    masked: float
    """Expected number of masked frames per step."""


def methods(model: SpeechEncoderConfig) -> dict[str, PretrainingConfig]:
    """Our training methods at one size; the first has the same loss as that of transformers."""
    regression = RegressionConfig(teacher=TeacherConfig(top=min(8, model.layers)))
    plain = PretrainingConfig(model=model, regression=regression, optim=OPTIM)
    return {
        "contrastive": replace(plain, regression=None, contrast=ContrastConfig()),
        "data2vec": plain,
        "both": replace(plain, contrast=ContrastConfig()),
        "data2vec 2.0, 8 masks": replace(plain, student=MultiMaskConfig()),
    }


def our_step(config: PretrainingConfig, wave: Wave, *, bf16: bool) -> Step:
    task, batch = Pretraining(config), Clips(wave)

    def run() -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            return task.update(batch, 0)

    mask = config.student.mask
    rows = len(wave) * (config.student.masks if isinstance(config.student, MultiMaskConfig) else 1)
    frames = config.model.frames(wave.shape[-1])
    return Step(run, rows * masked_frames(1, frames, mask.share, mask.span))


def masked_frames(rows: int, frames: int, share: float, span: int) -> float:
    """Mean number of masked frames of a batch, of 50 draws."""
    return float(np.mean([_compute_mask_indices((rows, frames), share, span).sum() for _ in range(50)]))


def their_step(model: SpeechEncoderConfig, wave: Wave, *, bf16: bool) -> Step:
    """A step of Wav2Vec2ForPreTraining: masks, negatives (by its own functions), forward, backward, Adam."""
    config = Wav2Vec2Config(
        conv_dim=list(model.conv_dims),
        conv_kernel=list(model.conv_kernels),
        conv_stride=list(model.conv_strides),
        num_feat_extract_layers=len(model.conv_dims),  # pyright: ignore[reportCallIssue]
        feat_extract_norm="layer",
        hidden_size=model.hidden,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        intermediate_size=model.ffn,
        hidden_dropout=model.dropout,
        attention_dropout=model.attention_dropout,
        feat_proj_dropout=0.0,
        feat_quantizer_dropout=0.0,
        activation_dropout=0.0,
        layerdrop=0.0,
    )
    network = Wav2Vec2ForPreTraining(config).train()
    optimizer = torch.optim.AdamW(network.parameters(), OPTIM.lr, OPTIM.betas, OPTIM.eps)
    shape = (len(wave), model.frames(wave.shape[-1]))
    values = (wave - wave.mean(-1, keepdim=True))[:, 0]

    def run() -> object:
        mask = _compute_mask_indices(shape, 0.65, 10)
        negatives = _sample_negative_indices(shape, config.num_negatives, mask)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = network(
                values,
                mask_time_indices=torch.from_numpy(mask),
                sampled_negative_indices=torch.from_numpy(negatives),
            ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    return Step(run, masked_frames(*shape, 0.65, 10))


def compare_steps(argv: Sequence[str]) -> None:
    arguments = Arguments.described_by("benchmarks.pretraining steps", __doc__)
    option = arguments.add_argument
    option("--size", choices=list(SIZES), default="small")
    option("--clips", type=int, default=4, help="clips per batch (default 4)")
    option("--seconds", type=float, default=6.0, help="length of a clip (default 6)")
    option("--repeats", type=int, default=7, help="turns, of which the median is reported (default 7)")
    option("--bf16", action="store_true", help="run both in bfloat16 autocast")
    args = arguments.parse_args(argv)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    wave = torch.randn(args.clips, 1, int(16_000 * args.seconds))
    model = SIZES[args.size]
    peer = their_step(model, wave, bf16=args.bf16)
    steps = {"transformers, Wav2Vec2ForPreTraining": peer}
    steps |= {name: our_step(config, wave, bf16=args.bf16) for name, config in methods(model).items()}
    theirs, *_ = took = in_turns([step.run for step in steps.values()], args.repeats)
    rows = []
    for (name, step), seconds in zip(steps.items(), took):
        middle, share = median(seconds), ratio(seconds, theirs)
        goal = "" if step is peer or "2.0" in name else "yes" if share <= GOAL else "NO"
        faster = step.masked / peer.masked * ratio(theirs, seconds)
        rows.append(
            [name, f"{middle:.3f}", f"{share:.2f}", goal, f"{step.masked / middle:.0f}", f"{faster:.2f}"]
        )
    print(machine())
    precision = "bfloat16" if args.bf16 else "float32"
    heads = ["step", "seconds", "of theirs", f"≤ {GOAL}", "masked frames / s", "times theirs"]
    show(f"{args.size}, {args.clips} × {args.seconds:g} s, {precision}, {args.repeats} turns", heads, rows)


@exits_cleanly
def main(argv: Sequence[str] | None = None) -> None:
    rest = list(sys.argv[1:] if argv is None else argv)
    if rest[:1] == ["curve"]:
        from benchmarks.pretraining_curve import compare_curves

        compare_curves(rest[1:])
    else:
        compare_steps(rest[1:] if rest[:1] == ["steps"] else rest)


if __name__ == "__main__":
    main()
