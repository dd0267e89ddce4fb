"""StarGAN's networks: tensor shapes, merging of labels, receptive fields."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from engine.user_error import UserError
from w2w.baselines.stargan.labels import LabelGroup, LabelsConfig, input_label
from w2w.baselines.stargan.networks import Discriminator, Generator, LabelMerge, OneMap, StarGANConfig
from w2w.baselines.stargan.presets import WHOLE_INPUT
from w2w.baselines.stargan.spectrogram import SpectrogramConfig

PUBLISHED = StarGANConfig()
LABELS = LabelsConfig(
    first=LabelGroup(column="speaker", size=4),
    second=LabelGroup(column="accent", size=2),
    third=LabelGroup(column=""),
)
NARROW = StarGANConfig(n_channels=2, critic_channels=2, labels=LABELS)
TINY = replace(NARROW, spectrogram=SpectrogramConfig(n_bins=64, n_frames=64), critic_layers=4)


def shapes(network, *inputs):
    """Return the input and output shapes of a network's convolutions, in order."""
    seen = []

    def note(module, taken, given):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            seen.append((tuple(taken[0].shape[1:]), tuple(given.shape[1:])))

    with torch.no_grad():
        handles = [module.register_forward_hook(note) for module in network.modules()]
        out = network(*inputs)
    for handle in handles:
        handle.remove()
    return seen, out


def test_generator_tensor_shapes_match_the_diagram():
    network = Generator(PUBLISHED).eval()
    seen, out = shapes(network, torch.rand(1, 1, 256, 256), torch.zeros(1, 1479))
    block = [((128, 64, 64), (128, 64, 64))] * 2
    assert seen == [
        ((1, 256, 256), (32, 256, 256)),
        ((32, 256, 256), (64, 128, 128)),
        ((64, 128, 128), (128, 64, 64)),
        ((128, 64, 64), (128, 64, 64)),  # the merge, beside 1479 maps of labels
        *block,
        *block,
        *block,
        ((128, 64, 64), (64, 128, 128)),
        ((64, 128, 128), (32, 256, 256)),
        ((32, 256, 256), (1, 256, 256)),
    ]
    assert network.merge.weight.shape == (128, 128 + 1479, 3, 3)
    assert network.encoder[0][0].weight.shape == (32, 1, 7, 7)
    assert network.encoder[1][0].weight.shape == (64, 32, 4, 4)
    assert network.decoder[0][0].weight.shape == (128, 64, 4, 4)
    assert network.out.weight.shape == (1, 32, 7, 7)
    assert out.shape == (1, 1, 256, 256)
    assert ((out >= 0) & (out <= 1)).all()


def test_discriminator_tensor_shapes_match_the_diagram():
    network = Discriminator(PUBLISHED)
    seen, judged = shapes(network, torch.rand(1, 1, 256, 256))
    widths, sizes = [1, 32, 64, 128, 256, 512, 1024], [256, 128, 64, 32, 16, 8, 4]
    maps = [(width, size, size) for width, size in zip(widths, sizes)]
    assert seen == [*pairwise(maps), (maps[-1], (1, 4, 4)), (maps[-1], (1476, 1, 1))]
    assert network.classes.weight.shape == (1476, 1024, 4, 4)
    assert network.score.weight.shape == (1, 1024, 3, 3)
    assert judged.score.shape == (1, 1, 4, 4)
    assert judged.labels.shape == (1, 1476)
    assert [tuple(f.shape[1:]) for f in judged.features] == maps[1:]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(5, 9), (1, 4), (2, 2)])
def test_merging_labels_equals_the_dense_convolution(bias, size):
    merge = LabelMerge(3, 7, 4, bias=bias).double()
    features, label = torch.randn(2, 3, *size).double(), torch.rand(2, 7).double()
    repeated = label[:, :, None, None].expand(-1, -1, *size)
    dense = F.conv2d(torch.cat([features, repeated], dim=1), merge.weight, merge.bias, padding=1)
    assert_close(merge(features, label), dense)
    ours = torch.autograd.grad(merge(features, label).square().sum(), list(merge.parameters()))
    theirs = torch.autograd.grad(dense.square().sum(), list(merge.parameters()))
    assert_close(ours, theirs)


def test_one_map_equals_the_plain_convolution():
    one, x = OneMap(3, 7), torch.randn(2, 3, 9, 11)
    assert_close(one(x), F.conv2d(x, one.weight, one.bias, padding=3), atol=1e-5, rtol=1e-5)


def columns_seen(config, column=128):
    """Columns that one of the output depends on: of the merged map, the map before it, the spectrogram."""
    network = Generator(replace(config, n_channels=2, labels=LABELS)).eval()
    for parameter in network.parameters():  # all positive, so that no ReLU hides a path
        parameter.data = parameter.data.abs() / 10 + 0.01
    before_sigmoid = []  # which would be saturated
    network.out.register_forward_hook(lambda module, taken, given: before_sigmoid.append(given))
    merged = torch.rand(1, 8, 64, 64, requires_grad=True)
    before = torch.rand(1, 8, 64, 64, requires_grad=True)
    spectrogram = torch.rand(1, 1, 256, 256, requires_grad=True)
    label = torch.ones(1, LABELS.n_in)
    network.decode(merged)
    network.decode(network.after_merge(network.merge(before, label)))
    network(spectrogram, label)
    for out in before_sigmoid:
        out[0, 0, 128, column].backward()
    return [int(x.grad.abs().sum((0, 1, 2)).count_nonzero()) for x in (merged, before, spectrogram)]


def test_receptive_field_of_the_published_generator():
    """16 quarter columns after the merge (64 columns) and 18 with it (72); 84 of the 256 of the input.

    The experiment's 62 counts 7 convolutions of 3 columns at a quarter of the size, 8 each, and 6 of the
    last: (7 · 8 + 6). That leaves out the two deconvolutions and the column itself.
    """
    assert columns_seen(PUBLISHED) == [16, 18, 84]


@pytest.mark.parametrize("column", [0, 128, 255])
def test_remedys_dilations_cover_the_whole_input(column):
    assert columns_seen(replace(PUBLISHED, dilations=WHOLE_INPUT), column)[1:] == [64, 256]


def test_instance_norm_removes_constant_label_maps():
    """A label is a constant over the map except at its edges, so normalisation leaves only the edges."""
    torch.manual_seed(0)
    merge, features = LabelMerge(4, 6, 4, bias=False), torch.randn(1, 4, 64, 64)
    norm = nn.InstanceNorm2d(4)
    one, other = (merge(features, F.one_hot(torch.tensor([k]), 6).float()) for k in (0, 3))
    inner = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert (one - other)[inner].abs().mean() > 0.05
    apart = (norm(one) - norm(other)).abs()
    assert apart[inner].mean() < 0.1 * (one - other)[inner].abs().mean()


def test_labels_reach_every_output_without_normalised_merge():
    config = replace(TINY, norm="instance", norm_of_merge=False)
    network = Generator(config).eval()
    spectrogram, labels = torch.rand(1, 1, 64, 64), torch.tensor([[0, -1], [3, -1]])
    one, other = (network(spectrogram, input_label(of[None], config.labels)) for of in labels)
    assert (one - other).abs().amin() > 0 or (one != other).float().mean() > 0.99


def test_every_parameter_of_both_networks_receives_a_gradient():
    for config in (TINY, replace(TINY, norm="instance", norm_of_merge=False, dilations=(1, 2))):
        generator, discriminator = Generator(config), Discriminator(config)
        labels = torch.tensor([[0, 1], [1, -1], [2, 0], [3, 0]])
        out = generator(torch.rand(4, 1, 64, 64), input_label(labels, config.labels))
        judged = discriminator(out)
        (judged.score.square().mean() + judged.labels.square().mean()).backward()
        for name, parameter in [*generator.named_parameters(), *discriminator.named_parameters()]:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_generator_accepts_any_multiple_of_four_frames():
    network = Generator(NARROW).eval()
    assert network(torch.rand(1, 1, 256, 20), torch.zeros(1, LABELS.n_in)).shape == (1, 1, 256, 20)


def test_sizes_that_cannot_be_halved_are_refused():
    with pytest.raises(UserError, match="cannot be halved 6 times"):
        StarGANConfig(spectrogram=SpectrogramConfig(n_frames=128 + 4))
