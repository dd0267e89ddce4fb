"""The contrastive loss equals that of transformers' wav2vec 2.0 on copied weights."""

import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close
from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining
from transformers.models.wav2vec2.modeling_wav2vec2 import _sample_negative_indices

from pretrain.speech.contrast import Contrast, ContrastConfig, contrastive_logits, draw_negatives
from pretrain.speech.student import MaskConfig, equally_many, gather_frames, masked_indices, span_mask

CONFIG = ContrastConfig(codes=6, code_dim=8, dim=12, negatives=7)


def published() -> Wav2Vec2ForPreTraining:
    config = Wav2Vec2Config(
        conv_dim=[8, 8],
        conv_kernel=[10, 8],
        conv_stride=[10, 8],
        num_feat_extract_layers=2,
        feat_extract_norm="layer",
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        num_codevectors_per_group=CONFIG.codes,
        codevector_dim=CONFIG.code_dim,
        proj_codevector_dim=CONFIG.dim,
    )
    return Wav2Vec2ForPreTraining(config)


def ours_like(theirs: Wav2Vec2ForPreTraining) -> Contrast:
    ours = Contrast(CONFIG, dim=16, local_dim=8)
    ours.quantiser.logits.load_state_dict(theirs.quantizer.weight_proj.state_dict())
    ours.quantiser.entries.data = theirs.quantizer.codevectors.data.view_as(ours.quantiser.entries).clone()
    ours.project_states.load_state_dict(theirs.project_hid.state_dict())
    ours.project_targets.load_state_dict(theirs.project_q.state_dict())
    return ours


def test_loss_equals_the_published_one():
    theirs = published().eval()
    ours = ours_like(theirs).eval()
    wave = torch.randn(3, 8000)
    frames = int(theirs._get_feat_extract_output_lengths(8000))
    mask = equally_many(span_mask(3, frames, MaskConfig()))
    index = masked_indices(mask)
    negatives = torch.from_numpy(_sample_negative_indices((3, frames), CONFIG.negatives, mask.numpy())).long()
    expected = theirs(wave, mask_time_indices=mask, sampled_negative_indices=negatives)
    outputs = theirs.wav2vec2(wave, mask_time_indices=mask)

    local = gather_frames(outputs.extract_features, index)
    entries, numbers, perplexity = ours.quantiser(local.flatten(0, 1), 1.0)
    targets = ours.project_targets(entries).view(*index.shape, -1)
    assert_close(targets, gather_frames(expected.projected_quantized_states, index))
    assert_close(perplexity, expected.codevector_perplexity)

    rank = mask.cumsum(1) - 1  # a frame's number among the masked ones of its clip
    flat = rank.flatten()[negatives[mask].view(-1)].view(*index.shape, -1)
    logits = contrastive_logits(
        ours.project_states(gather_frames(outputs.last_hidden_state, index)),
        targets,
        numbers.view(index.shape),
        flat,
        0.1,
    )
    right = torch.zeros(index.numel(), dtype=torch.long)
    assert_close(
        F.cross_entropy(logits.flatten(0, 1), right, reduction="sum"),
        expected.contrastive_loss,
        rtol=1e-4,
        atol=1e-4,
    )
    unused = (12 - perplexity) / 12 * mask.sum()
    assert_close(unused, expected.diversity_loss)


def test_negatives_are_uniform_over_the_other_masked_steps():
    drawn = draw_negatives(1, 5, 4000)
    for step in range(5):
        share = torch.bincount(drawn[0, step], minlength=5) / 4000
        assert share[step] == 0
        others = share[torch.arange(5) != step]
        assert (others - 0.25).abs().max() < 0.04


def test_quantising_once_for_several_masks_equals_quantising_each():
    contrast = Contrast(CONFIG, dim=16, local_dim=8).eval()
    local, states = torch.randn(2, 30, 8), torch.randn(4, 9, 16)
    index = torch.stack([torch.randperm(30)[:9] for _ in range(4)])
    torch.manual_seed(1)
    _, together = contrast(states, local, index, 0)
    torch.manual_seed(1)
    _, apart = contrast(states, local.repeat(2, 1, 1), index, 0)
    assert_close(together["contrast"], apart["contrast"])


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_gradients_reach_everything_and_stay_finite_with_unused_codes(scale):
    contrast = Contrast(CONFIG, dim=16, local_dim=8)
    contrast.quantiser.logits.weight.data *= scale  # so large that the other codes' shares are 0
    local, states = torch.randn(2, 30, 8, requires_grad=True), torch.randn(2, 9, 16, requires_grad=True)
    index = torch.stack([torch.randperm(30)[:9] for _ in range(2)])
    contrast(states, local, index, 0)[0].backward()
    for tensor in (states, local, *contrast.parameters()):
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert scale > 1 or tensor.grad.any()
