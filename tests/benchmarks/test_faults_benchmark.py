"""The faults benchmark detects differing checkpoints, and killed trainings resume exactly."""

import pytest
import torch
from safetensors.torch import save_file

from benchmarks import faults


def test_differences_finds_a_changed_bit_and_leftover_files(tmp_path):
    for name, value in (("a", 1.0), ("b", 1.0), ("c", 1.0 + 2**-23)):
        folder = tmp_path / name / "checkpoints" / "step_00000004"
        folder.mkdir(parents=True)
        save_file(
            {"weight": torch.full((100,), 1.0).index_fill(0, torch.tensor(50), value)},
            folder / "net.safetensors",
        )
        torch.save({"player": {"updates": 4, "state": torch.arange(5000.0)}}, folder / "optimizers.pt")
        (folder / "progress.json").write_text('{"step": 4}')
    assert faults.differences(tmp_path / "a", tmp_path / "b") == []
    assert faults.differences(tmp_path / "a", tmp_path / "c") == ["differs: net.safetensors"]
    torch.save({"player": {"updates": 4, "state": torch.arange(5000.0) + 1}}, folder / "optimizers.pt")
    assert "differs: optimizers.pt" in faults.differences(tmp_path / "a", tmp_path / "c")
    (folder.parent / ".step_00000005.tmp").mkdir()
    assert "left behind: .step_00000005.tmp" in faults.differences(tmp_path / "a", tmp_path / "c")


@pytest.mark.slow
def test_killed_trainings_resume_exactly():
    with pytest.raises(SystemExit) as end:
        faults.main(["--kills", "6", "--only", "vocoder"])
    assert end.value.code == 0
