"""The vocoders' benchmark: arithmetic counts, timing, verdicts, and imports of published code."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import vocoder_timing, vocoders
from benchmarks.vocoder_peers import Drawn, published_modules
from benchmarks.vocoder_timing import Timed, alternate, gmac, gmac_of, row
from benchmarks.vocoders import faster
from engine.user_error import UserError
from vocoders.hifigan import V2, HiFiGAN


def test_gmac_of_convolutions() -> None:
    conv, wave = nn.Conv1d(8, 16, 5, padding=2), torch.randn(3, 8, 100)
    assert gmac_of(conv, "forward", wave) == pytest.approx(3 * 100 * 16 * 8 * 5 / 1e9)
    grouped = nn.Conv1d(8, 16, 5, padding=2, groups=4)
    assert gmac_of(grouped, "forward", wave) == pytest.approx(3 * 100 * 16 * 2 * 5 / 1e9)


def test_gmac_includes_the_backward_pass() -> None:
    layer, x = nn.Linear(64, 32), torch.randn(10, 64)

    def step() -> None:
        torch.autograd.grad(layer(x).sum(), list(layer.parameters()))

    assert gmac(step) == pytest.approx(2 * 10 * 64 * 32 / 1e9)


def test_calls_alternate_after_a_warm_up() -> None:
    turns: list[str] = []
    took = alternate(lambda: turns.append("ours"), lambda: turns.append("theirs"), repeats=3)
    assert turns == ["ours", "theirs"] * 4
    assert len(took.ours) == len(took.theirs) == 3


def test_ratio_is_the_median_over_turns() -> None:
    """A disturbance that slows both calls of a turn changes nothing."""
    took = Timed(ours=[1.0, 9.0, 1.0], theirs=[2.0, 18.0, 2.0], outputs=[])
    assert took.ratio == 0.5


@pytest.mark.parametrize(("seconds", "verdict"), [(0.5, "yes"), (1.2, "NO, +100%")])
def test_missed_goal_is_shown_with_its_distance(seconds: float, verdict: str) -> None:
    took = Timed(ours=[seconds], theirs=[1.0], outputs=[])
    assert row("it", took, str, 0.6)[5] == verdict


def test_rows_without_a_checkout_have_no_verdict() -> None:
    alone = Timed(ours=[1.0], theirs=[], outputs=[torch.zeros(1)])
    assert row("it", alone, str, 0.6)[2:6] == ["not measured", "", "≤ 0.6", ""]
    assert alone.same == ""
    assert faster("it", 10.0, None, 3.0, "")[5] == ""
    assert faster("it", 10.0, 2.0, 3.0, "")[3:6] == ["5.0 ×", "≥ 3 ×", "yes"]


def test_waveglow_noise_is_given_from_the_deepest_flow_on() -> None:
    z = torch.arange(8.0)[None, :, None]
    drawn = Drawn(z, n_early=2, early_size=2)
    parts = [drawn(1, 2, 3).normal_().flatten().tolist() for _ in range(4)]
    assert parts == [[4, 5, 6, 7], [2, 3], [0, 1], [4, 5, 6, 7]]


def test_checkout_is_imported_and_removed_from_sys_modules(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(
        "import torch, yaml\nfrom librosa.filters import mel\nfrom utils import ANSWER\n"
        "def spectrum(x): return torch.stft(x, 16, window=torch.ones(16))\n"
    )
    (tmp_path / "utils.py").write_text("ANSWER = 42\n")
    before = set(sys.modules)
    (models,) = published_modules(tmp_path, "models")
    assert models.ANSWER == 42
    assert models.spectrum(torch.randn(1, 64)).shape[-1] == 2
    assert models.mel(22_050, 1024, 80, 0, None).shape == (80, 513)
    assert not {"models", "utils"} & (set(sys.modules) - before)
    assert str(tmp_path) not in sys.path


def test_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        published_modules(tmp_path / "absent", "models")
    with pytest.raises(UserError, match="is not a checkout of the published code"):
        published_modules(tmp_path, "models")


def test_unknown_only_option_is_refused() -> None:
    with pytest.raises(UserError, match="--only wavnet is not measured; choose from hifigan_v1"):
        vocoders.main.__wrapped__(["--only", "wavnet"])


def test_runtimes_equal_the_network() -> None:
    """All installed runtimes."""
    network = HiFiGAN(replace(V2, channels=16)).fold().eval()
    mel = torch.randn(1, 80, 6)
    for name, run in vocoder_timing.runtime_calls(network, mel):
        torch.testing.assert_close(run(), network(mel).detach(), rtol=1e-4, atol=1e-4, msg=name)


def test_missing_runtime_is_reported(monkeypatch, capsys) -> None:
    monkeypatch.setattr(vocoder_timing.importlib.util, "find_spec", lambda name: None)
    assert not list(vocoder_timing.runtime_calls(nn.Identity(), torch.zeros(1, 1, 1)))
    assert "openvino is not installed and not measured: pip install" in capsys.readouterr().err
