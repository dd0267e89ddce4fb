"""Speech encoders as judges of content: features alone, or all of a recogniser fine-tuned on one."""

import pytest
import torch
from tiny_encoders import SPEECH

from engine.checkpoint import export
from engine.user_error import UserError
from pretrain.speech.encoder import SpeechEncoder
from pretrain.speech.loading import SpeechRecogniser, SpeechRecogniserConfig
from w2w.cluit.content_loss import ContentLoss, ContentLossConfig
from w2w.cluit.recognisers import FineTunedRecogniser, Listener, SpeechFeatures, open_recogniser


def features(folder):
    export(folder, SPEECH, SpeechEncoder(SPEECH))
    return SpeechFeatures(folder=str(folder))


def fine_tuned(folder):
    config = SpeechRecogniserConfig(encoder=SPEECH)
    export(folder / "export", config, SpeechRecogniser(config))  # as a run leaves it
    return FineTunedRecogniser(folder=str(folder))


@pytest.mark.parametrize(
    ("make", "terms"), [(features, {"features"}), (fine_tuned, {"features", "posteriors"})]
)
def test_gradients_reach_the_converted_wave_and_nothing_else(tmp_path, make, terms):
    backend = make(tmp_path)
    listener = open_recogniser(backend)
    assert isinstance(listener, Listener)
    loss = ContentLoss(ContentLossConfig(backend=backend), 16_000).train()
    converted = (0.1 * torch.randn(2, 1, 8_000)).requires_grad_()
    source = torch.randn(2, 1, 8_000, requires_grad=True)
    assert set(loss.terms(converted, source)) == terms
    loss(converted, source).backward()
    assert converted.grad is not None
    assert converted.grad.any()
    assert source.grad is None
    assert all(p.grad is None and not p.requires_grad for p in loss.parameters())
    assert not any(module.training for module in loss.recogniser.modules())
    torch.testing.assert_close(loss(source, source), torch.tensor(0.0), atol=1e-6, rtol=0.0)


def test_chosen_layers_are_compared(tmp_path):
    backend = features(tmp_path)
    a, b = torch.randn(2, 1, 1, 8_000)
    apart = [ContentLoss(ContentLossConfig(backend=backend, layers=layers), 16_000)(a, b) for layers in
             ((0,), (1,), (0, 1))]  # fmt: skip
    torch.testing.assert_close((apart[0] + apart[1]) / 2, apart[2])
    deepest = ContentLoss(ContentLossConfig(backend=backend), 16_000)(a, b)
    torch.testing.assert_close(deepest, apart[1])


def test_mistakes_are_told_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"--content\.backend\.folder"):
        open_recogniser(SpeechFeatures())
    with pytest.raises(UserError, match=r"--content\.backend\.folder"):
        open_recogniser(FineTunedRecogniser())
    with pytest.raises(UserError, match="nothing to compare"):
        ContentLossConfig(backend=SpeechFeatures(folder="x"), features=0.0)
    with pytest.raises(UserError, match=r"config\.json"):
        open_recogniser(SpeechFeatures(folder=str(tmp_path)))
