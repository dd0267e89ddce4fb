"""The content loss: one interface of recognisers, gradients to the converted wave alone, plain refusals."""

import json
from dataclasses import replace

import pytest
import torch
import torchaudio
from safetensors.torch import save_file

from engine.checkpoint import export
from engine.user_error import UserError
from pretrain.recogniser import Recogniser, RecogniserConfig
from w2w.cluit.content_loss import ContentLoss, ContentLossConfig, loud_frames
from w2w.cluit.recognisers import LocalRecogniser, TorchaudioPipeline, TransformersCTC, open_recogniser

TORCHAUDIO = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [[8, 10, 5], [8, 8, 8], [8, 4, 8]],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 16,
    "encoder_projection_dropout": 0.0,
    "encoder_pos_conv_kernel": 4,
    "encoder_pos_conv_groups": 2,
    "encoder_num_layers": 2,
    "encoder_num_heads": 2,
    "encoder_attention_dropout": 0.0,
    "encoder_ff_interm_features": 16,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.0,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.0,
    "aux_num_out": 6,
}
TRANSFORMERS = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (8, 8, 8),
    "conv_kernel": (10, 8, 4),
    "conv_stride": (5, 8, 8),
    "vocab_size": 6,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}


def local(folder):
    config = RecogniserConfig(width=8, n_blocks=2, kernel=3)
    export(folder, config, Recogniser(config))
    return LocalRecogniser(folder=folder)


def by_transformers(kind):
    def make(folder):
        import transformers

        config = getattr(transformers, f"{kind}Config")(**TRANSFORMERS)
        getattr(transformers, f"{kind}ForCTC")(config).save_pretrained(folder)
        return TransformersCTC(folder=str(folder))

    return make


def by_torchaudio(folder):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(TORCHAUDIO))
    save_file(torchaudio.models.wav2vec2_model(**TORCHAUDIO).state_dict(), folder / "model.safetensors")
    return TorchaudioPipeline(name=str(folder))


BACKENDS = {
    "local": local,
    "wav2vec2": by_transformers("Wav2Vec2"),
    "hubert": by_transformers("Hubert"),
    "data2vec": by_transformers("Data2VecAudio"),
    "torchaudio": by_torchaudio,
}


@pytest.fixture(params=BACKENDS)
def backend(request, tmp_path):
    return BACKENDS[request.param](tmp_path / "recogniser")


@pytest.fixture
def judge(tmp_path):
    return ContentLoss(ContentLossConfig(backend=local(tmp_path / "recogniser")), 16_000)


def test_backends_share_one_interface(backend):
    recogniser = open_recogniser(backend)
    out = recogniser(0.1 * torch.randn(2, 1, 8_000))
    assert recogniser.sample_rate == 16_000
    assert len(out.features) == 2
    assert {f.shape[::2] for f in out.features} == {(2, out.log_probs.shape[1])}
    torch.testing.assert_close(out.log_probs.exp().sum(-1), torch.ones(out.log_probs.shape[:2]))


def test_gradients_reach_the_converted_wave_and_nothing_else(backend):
    loss = ContentLoss(ContentLossConfig(backend=backend), 16_000).train()
    converted, source = (
        (0.1 * torch.randn(2, 1, 8_000)).requires_grad_(),
        torch.randn(2, 1, 8_000, requires_grad=True),
    )
    value = loss(converted, source)
    value.backward()
    assert value > 0
    assert converted.grad is not None
    assert converted.grad.abs().sum() > 0
    assert source.grad is None
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())
    assert not loss.recogniser.training


def test_equal_waves_say_the_same(backend):
    wave = 0.1 * torch.randn(2, 1, 8_000)
    for distance in ("l1", "cosine"):
        loss = ContentLoss(ContentLossConfig(backend=backend, distance=distance), 16_000)
        torch.testing.assert_close(loss(wave, wave), torch.tensor(0.0), atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("sample_rate", [8_000, 16_000, 24_000])
def test_other_rates_are_resampled_under_gradient(judge, sample_rate):
    loss = ContentLoss(judge.config, sample_rate)
    converted = (0.1 * torch.randn(1, 1, sample_rate // 2)).requires_grad_()
    loss(converted, torch.randn(1, 1, sample_rate // 2)).backward()
    assert converted.grad is not None
    assert converted.grad.isfinite().all()
    assert converted.grad.abs().sum() > 0


def test_weights_add_up_and_0_leaves_out(judge):
    converted, source = torch.randn(1, 1, 8_000), torch.randn(1, 1, 8_000)
    terms = judge.terms(converted, source)
    weighted = judge.config.features * terms["features"] + judge.config.posteriors * terms["posteriors"]
    torch.testing.assert_close(judge(converted, source), weighted)
    only = ContentLoss(replace(judge.config, posteriors=0.0), 16_000)
    assert set(only.terms(converted, source)) == {"features"}
    none = ContentLoss(replace(judge.config, posteriors=0.0, features=0.0), 16_000)
    assert none(converted, source) == 0


def test_silence_of_the_source_does_not_count(judge):
    source = torch.cat([0.3 * torch.randn(1, 1, 8_000), torch.zeros(1, 1, 8_000)], -1)
    noisy = source.clone()
    noisy[..., 12_000:] = 0.05 * torch.randn(1, 1, 4_000)
    counts = loud_frames(source, 50, -40.0)
    assert counts[0, :25].all()
    assert not counts[0, 26:].any()
    unmasked = ContentLoss(replace(judge.config, silence_db=-500.0), 16_000)
    assert judge(noisy, source) < unmasked(noisy, source) + 1e-6
    assert judge(torch.randn(1, 1, 8_000), torch.zeros(1, 1, 8_000)) == 0


def test_unknown_layers_are_refused(judge):
    loss = ContentLoss(replace(judge.config, layers=(7,)), 16_000)
    with pytest.raises(UserError, match="layer 7"):
        loss(torch.randn(1, 1, 4_000), torch.randn(1, 1, 4_000))


def test_a_model_without_its_head_is_not_filled_with_random_numbers(tmp_path):
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    Wav2Vec2Model(Wav2Vec2Config(**TRANSFORMERS)).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="lm_head"):
        open_recogniser(TransformersCTC(folder=str(tmp_path)))


def test_what_cannot_be_had_is_told_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", offline)
    monkeypatch.setattr(torchaudio.utils, "_download_asset", offline, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    bad = [
        (LocalRecogniser(folder=tmp_path / "nowhere"), "no exported model"),
        (TransformersCTC(folder=str(tmp_path / "nowhere")), "cannot load"),
        (TransformersCTC(folder="somebody/not-here"), "cannot load"),
        (TorchaudioPipeline(name="NO_SUCH"), "NO_SUCH"),
        (TorchaudioPipeline(name=str(tmp_path)), r"config\.json"),
        (TorchaudioPipeline(name="WAV2VEC2_ASR_BASE_960H"), "cannot be had"),
    ]
    for backend, words in bad:
        with pytest.raises(UserError, match=words) as told:
            open_recogniser(backend)
        assert "\n" not in str(told.value)


def offline(*args, **kwargs):
    raise OSError("no route to host")


def test_the_released_recogniser_is_the_default():
    loss = ContentLoss(ContentLossConfig(), 16_000)
    converted = (0.1 * torch.randn(1, 1, 16_000)).requires_grad_()
    loss(converted, 0.1 * torch.randn(1, 1, 16_000)).backward()
    assert converted.grad is not None
