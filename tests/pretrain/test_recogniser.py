"""Recognisers: shapes, gradients, padding, loading, and the error rate of the released one."""

import pytest
import torch
from torch.testing import assert_close

from engine.checkpoint import export
from engine.user_error import UserError
from pretrain.ctc_score import error_rates, total
from pretrain.recogniser import RELEASED, Recogniser, RecogniserConfig, load_recogniser
from pretrain.speech import encoder
from pretrain.speech.labelled import LabelledConfig, LabelledSpeech
from pretrain.speech.loading import SpeechRecogniser, SpeechRecogniserConfig
from pretrain.units import PHONES, Phonemes

SMALL = RecogniserConfig(width=8, n_blocks=3, kernel=3)
ON_ENCODER = SpeechRecogniserConfig(encoder=encoder.TINY, units=Phonemes())


@pytest.fixture(params=["small", "on_encoder"])
def recogniser(request) -> Recogniser | SpeechRecogniser:
    if request.param == "small":
        return Recogniser(SMALL).eval()
    return SpeechRecogniser(ON_ENCODER).eval()


@pytest.mark.parametrize("samples", [1, 3_201, 16_000])
def test_features_and_posteriors_have_50_frames_per_second(recogniser, samples):
    out = recogniser(torch.randn(2, 1, samples))
    frames = out.log_probs.shape[1]
    width, n_layers = (8, 3) if isinstance(recogniser, Recogniser) else (32, 2)
    assert out.log_probs.shape == (2, frames, len(PHONES) + 1)
    assert [f.shape for f in out.features] == [(2, width, frames)] * n_layers
    if samples > 1_000:
        assert abs(frames - samples / 320) <= 2.5
    assert_close(out.log_probs.exp().sum(-1), torch.ones(2, frames))


@pytest.mark.parametrize("silent", [False, True])
def test_gradients_reach_the_wave_and_are_finite_in_silence(recogniser, silent):
    wave = torch.randn(2, 1, 4_800) * (not silent)
    wave.requires_grad_(True)
    out = recogniser(wave)
    (out.log_probs * torch.randn_like(out.log_probs)).sum().backward()
    assert out.log_probs.isfinite().all()
    assert wave.grad is not None
    assert wave.grad.isfinite().all()
    assert silent or wave.grad.any()


def test_gradients_reach_every_parameter():
    network = Recogniser(SMALL)
    network(torch.randn(1, 1, 4_000)).log_probs[..., 1].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_padding_and_other_batch_items_do_not_matter(recogniser):
    waves = [torch.randn(1, 1, 9_600), torch.randn(1, 1, 6_400)]
    padded = torch.cat([waves[0], torch.nn.functional.pad(waves[1], (0, 3_200))])
    together = recogniser(padded, torch.tensor([9_600, 6_400]))
    for row, wave in enumerate(waves):
        frames = int(together.valid[row].sum()) - 2  # the last frames depend on what follows
        alone = recogniser(wave, torch.tensor([wave.shape[-1]])).log_probs[0]
        assert_close(together.log_probs[row, :frames], alone[:frames], atol=5e-2, rtol=1e-3)


def test_padding_of_mels_does_not_matter():
    network, mel = Recogniser(SMALL).eval(), torch.randn(1, 80, 40)
    valid = torch.ones(1, 40, dtype=torch.bool)
    padded, longer = torch.cat([mel, torch.full((1, 80, 30), 5.0)], -1), torch.arange(70)[None] < 40
    alone = network.from_normalised(network.normalise(mel, valid), valid)
    beside = network.from_normalised(network.normalise(padded, longer), longer)
    assert_close(beside.log_probs[:, :20], alone.log_probs, rtol=1e-4, atol=1e-5)


def test_level_and_channel_colour_do_not_matter():
    network = Recogniser(SMALL)
    mel, channel = torch.randn(1, 80, 60), torch.randn(1, 80, 1).expand(-1, -1, 60)
    level = channel.mean(1, keepdim=True)  # the weights depend on the loudness of frames: keep it
    changed = network.normalise(mel + channel - level + 2.0)
    assert_close(network.normalise(mel), changed, atol=1e-4, rtol=1e-4)


def test_exported_recogniser_loads_unchanged(recogniser, tmp_path):
    wave = torch.randn(1, 1, 4_000)
    export(tmp_path, recogniser.config, recogniser)
    loaded = load_recogniser(tmp_path)
    assert type(loaded) is type(recogniser)
    assert_close(loaded(wave).log_probs, recogniser(wave).log_probs)
    assert loaded.transcribe(wave) == recogniser.transcribe(wave)
    assert not any(p.requires_grad for p in loaded.parameters())


def test_unusable_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load_recogniser(tmp_path)
    export(tmp_path, RecogniserConfig(width=16, n_blocks=3, kernel=3), Recogniser(SMALL))
    with pytest.raises(UserError, match="has shape"):
        load_recogniser(tmp_path)
    torch.save({}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="pickled"):
        load_recogniser(tmp_path)


def test_released_recogniser_is_small():
    assert (RELEASED / "model.safetensors").stat().st_size < 8 * 2**20
    assert sum(p.numel() for p in load_recogniser().parameters()) <= 2_500_000


def test_released_recogniser_recognises_real_speech(speech_pack):
    pytest.importorskip("espeakng_loader")
    recogniser = load_recogniser()
    config = LabelledConfig(paths=(str(speech_pack),), split="validation", longest_seconds=5.0)
    speech = LabelledSpeech(config, recogniser.units, progress=False)
    assert total(error_rates(recogniser, speech).values()).rate < 0.6
