"""Span masks have the statistics of transformers', with equally many masked frames in each row."""

import numpy as np
import pytest
import torch
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

from engine.user_error import UserError
from pretrain.speech.student import MaskConfig, equally_many, gather_frames, masked_indices, span_mask

DRAWS = 1500


@pytest.mark.parametrize(("frames", "config"), [(120, MaskConfig()), (73, MaskConfig(share=0.5, span=5))])
def test_mask_statistics_equal_those_of_transformers(frames, config):
    np.random.seed(0)  # noqa: NPY002 - theirs draws from the global generator
    theirs = np.stack(
        [_compute_mask_indices((2, frames), config.share, config.span) for _ in range(DRAWS)]
    ).reshape(-1, frames)
    ours = torch.stack([span_mask(2, frames, config) for _ in range(DRAWS)]).view(-1, frames).numpy()
    assert abs(ours.mean() - theirs.mean()) < 0.01
    assert np.abs(ours.mean(0) - theirs.mean(0)).max() < 0.07  # also towards the edges, which are hidden less
    assert abs(ours.sum(1).std() - theirs.sum(1).std()) < 0.7
    runs = [
        np.diff(np.flatnonzero(np.diff(np.pad(m.astype(int), ((0, 0), (1, 1))))))[::2] for m in (ours, theirs)
    ]
    assert runs[0].min() >= config.span == runs[1].min()
    assert abs(runs[0].mean() - runs[1].mean()) < 0.6


def test_default_mask_covers_about_half():
    hidden = torch.stack([span_mask(1, 500, MaskConfig()) for _ in range(100)]).float().mean()
    assert 0.46 < hidden < 0.52


def test_rows_have_equally_many_masked_frames():
    mask = span_mask(6, 90, MaskConfig())
    equal = equally_many(mask)
    assert (equal.sum(1) == mask.sum(1).min()).all()
    assert not (equal & ~mask).any()
    index = masked_indices(equal)
    assert torch.equal(torch.zeros_like(mask).scatter(1, index, True), equal)


def test_frames_are_gathered_from_their_own_clip():
    x = torch.arange(12.0).view(2, 3, 2)
    index = torch.tensor([[0, 2], [1, 1], [2, 0]])  # the third row is the first clip's again
    assert torch.equal(gather_frames(x, index), torch.stack([x[0, [0, 2]], x[1, [1, 1]], x[0, [2, 0]]]))


def test_clip_shorter_than_a_span_is_refused():
    with pytest.raises(UserError, match=r"shorter than mask\.span=10"):
        span_mask(1, 9, MaskConfig())
