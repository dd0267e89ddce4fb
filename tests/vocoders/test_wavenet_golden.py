"""WaveNets equal the published implementation, with weight norm and folded."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from vocoders.published.layout import from_published
from vocoders.wavenet.conditioning import LocalConfig
from vocoders.wavenet.distributions import MixtureOfLogistics, MuLaw, negative_log_likelihood
from vocoders.wavenet.network import GlobalConfig, WaveNet, WaveNetConfig

PUBLISHED = ["mulaw256_local", "mulaw256_local_global", "mol_local"]


def ours(published: dict) -> WaveNet:
    sizes = published["config"]
    upsampling = sizes["upsample_params"]
    network = WaveNet(
        WaveNetConfig(
            layers=sizes["layers"],
            stacks=sizes["stacks"],
            residual=sizes["residual_channels"],
            gate=sizes["gate_channels"],
            skip=sizes["skip_out_channels"],
            kernel=sizes["kernel_size"],
            output=MixtureOfLogistics(n=10) if sizes["scalar_input"] else MuLaw(levels=sizes["out_channels"]),
            local=LocalConfig(
                n=sizes["cin_channels"],
                scales=tuple(upsampling["upsample_scales"]),
                pad=upsampling["cin_pad"],
            ),
            global_=GlobalConfig(n_speakers=sizes["n_speakers"], dim=sizes["gin_channels"])
            if "gin_channels" in sizes
            else None,
        )
    )
    network.load_state_dict(from_published(published["state_dict"]))
    return network.eval()


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("name", PUBLISHED)
def test_outputs_equal_the_published_ones(name, folded, published):
    stored = published(f"wavenet_r9y9_{name}")
    network, given = ours(stored), stored["input"]
    network = network.fold() if folded else network
    x = given["x"] if given["ids"] is None else given["ids"]
    speaker = None if given["g"] is None else given["g"][:, 0]
    with torch.inference_mode():
        assert_close(network(x, given["c"], speaker), stored["output"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("levels", [256, 65_536])
def test_mixture_loss_equals_the_published_one(levels, published):
    stored = published("wavenet_r9y9_mol_local")
    output = MixtureOfLogistics(levels=levels, log_scale_min=-7.0, as_published=True)
    target = stored["extra"]["target"].transpose(1, 2)
    found = negative_log_likelihood(output, stored["output"], target)
    expected = stored["extra"][f"mol_loss_unreduced_{levels}"][..., 0]
    assert_close(found, expected, atol=1e-5, rtol=0)
    # Our own, more exact loss differs by the published one's rounding, and in the steps beyond ±.999.
    own = negative_log_likelihood(replace(output, as_published=False), stored["output"], target)
    inner = target[:, 0].abs() < 0.999
    assert_close(own[inner], expected[inner], atol=2e-5, rtol=0)
