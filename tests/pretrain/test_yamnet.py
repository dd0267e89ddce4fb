"""YAMNet equals its published torch port on random weights, and its front end TensorFlow's definition."""

import math

import pytest
import torch
from torch.testing import assert_close

from engine.user_error import UserError
from pretrain.probe.embedders import open_embedder
from pretrain.probe.yamnet import DIM, N_CLASSES, YAMNet, mel_bands


def random_weights(network):
    """Set weights with which no layer is constant and BatchNorm has an effect."""
    torch.manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if "bn" in name else 0.2 * torch.randn_like(tensor))
    return network.eval()


def test_parameters_have_the_published_names_and_shapes():
    state = YAMNet().state_dict()
    assert len(state) == 27 * 6 + 2
    assert state["layer1.fused.conv.weight"].shape == (32, 1, 3, 3)
    assert state["layer2.depthwise_conv.conv.weight"].shape == (32, 1, 3, 3)
    assert state["layer14.pointwise_conv.conv.weight"].shape == (1024, 1024, 1, 1)
    assert state["layer14.pointwise_conv.bn.running_var"].shape == (1024,)
    assert state["classifier.weight"].shape == (N_CLASSES, DIM)


@pytest.mark.reference
def test_network_equals_the_published_port_on_random_weights():
    theirs = pytest.importorskip("torch_vggish_yamnet.yamnet.model").YAMNet()
    random_weights(theirs)
    ours = YAMNet().eval()
    ours.load_state_dict(theirs.state_dict())
    patches = torch.randn(2, 1, 96, 64)
    with torch.no_grad():
        embedding, logits = theirs(patches)
        assert_close(ours(patches), embedding.flatten(1), rtol=1e-4, atol=1e-4)
        assert_close(ours.classifier(ours(patches)), logits, rtol=1e-4, atol=1e-4)


def test_bands_are_triangles_in_mels_without_dc():
    bands = mel_bands()
    assert bands.shape == (257, 64)
    assert not bands[0].any()
    mel = 1127 * math.log(1 + 1000 / 700)  # bin 32
    step = 1127 * (math.log(1 + 7500 / 700) - math.log(1 + 125 / 700)) / 65
    place = (mel - 1127 * math.log(1 + 125 / 700)) / step
    left = int(place) - 1  # the band whose centre lies below
    assert_close(bands[32, left].item(), 1 - (place - int(place)), rtol=1e-4, atol=1e-5)
    assert_close(bands[32].sum().item(), 1.0, rtol=1e-4, atol=1e-5)


def test_patches_last_a_second_every_half_second_and_short_sounds_are_padded():
    network, inputs = random_weights(YAMNet()), []
    network.layer1.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    for samples, count in ((100, 1), (15_600, 1), (15_601, 2), (16_000 * 2, 4)):
        assert network.embed(torch.randn(2, 1, samples)).shape == (2, DIM)
        assert inputs[-1].shape == (2 * count, 1, 96, 64)
    silence = network.embed(torch.zeros(1, 1, 100))
    assert_close(inputs[-1], torch.full((1, 1, 96, 64), math.log(1e-3)))
    assert silence.isfinite().all()


def test_probes_open_yamnet_by_its_file(tmp_path):
    network = random_weights(YAMNet())
    torch.save(network.state_dict(), tmp_path / "yamnet.pth")
    embedder = open_embedder(f"yamnet:{tmp_path / 'yamnet.pth'}")
    wave = torch.randn(2, 1, 16_000)
    assert (embedder.dim, embedder.sample_rate) == (1024, 16_000)
    with torch.no_grad():
        assert_close(embedder.embed(wave), network.embed(wave))
    with pytest.raises(UserError, match="there is no weights file"):
        open_embedder(f"yamnet:{tmp_path / 'none.pth'}")
    (tmp_path / "bad.pth").write_bytes(b"no")
    with pytest.raises(UserError, match="no PyTorch checkpoint"):
        open_embedder(f"yamnet:{tmp_path / 'bad.pth'}")
