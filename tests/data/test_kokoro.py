"""Kokoro: the timbre of one voice with the prosody of another; other files are refused."""

import os
from pathlib import Path

import numpy as np
import pytest

from data.synthetic.kokoro import Kokoro
from engine.user_error import UserError


def test_files_that_are_not_kokoros_are_refused(tmp_path):
    pytest.importorskip("kokoro_onnx", reason="needs the extra 'synth'")
    onnx = pytest.importorskip("onnx", reason="needs the extra 'export'")
    model, voices = tmp_path / "m.onnx", tmp_path / "v.bin"

    def refusal() -> str:
        with pytest.raises(UserError) as refused:
            Kokoro(model, voices)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    assert f"no file of voices {voices}" in refusal()
    voices.write_bytes(b"something else")
    assert f"{voices} does not hold Kokoro's voices" in refusal()
    with voices.open("wb") as file:
        np.savez(file, af_one=np.zeros((3, 4)))
    assert f"{voices} does not hold Kokoro's voices" in refusal()
    with voices.open("wb") as file:
        np.savez(file, af_one=np.zeros((510, 1, 256), np.float32))
    assert f"no model {model}" in refusal()
    model.write_bytes(b"something else")
    assert f"{model} is not an ONNX model" in refusal()
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    ends = [[value(name, onnx.TensorProto.FLOAT, [1])] for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", *ends)
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, ir_version=8, opset_imports=opset), model)
    assert "not Kokoro, because its inputs are x" in refusal()


def test_kokoro_speakers_share_length_and_melody():
    """With the model, named by KOKORO_MODEL and KOKORO_VOICES."""
    files = [os.environ.get(name) for name in ("KOKORO_MODEL", "KOKORO_VOICES")]
    if not all(files):
        pytest.skip("KOKORO_MODEL and KOKORO_VOICES do not name Kokoro's two files")
    pyworld = pytest.importorskip("pyworld")
    kokoro = Kokoro(*(Path(str(file)) for file in files), threads=1)
    phonemes = kokoro.phonemize("There were many thousand stars above the harbour.", "af_heart")
    waves = [
        kokoro.speak(phonemes, timbre=timbre, prosody="af_heart", speed=1.0)
        for timbre in ({"af_heart": 1.0}, {"am_adam": 1.2, "bf_emma": -0.2}, {"bf_emma": 0.5, "am_puck": 0.5})
    ]
    assert len({len(wave) for wave in waves}) == 1
    assert not np.allclose(waves[0], waves[1], atol=0.01)
    tracks = [pyworld.harvest(wave.astype(np.float64), kokoro.sample_rate)[0] for wave in waves]
    for track in tracks[1:]:
        voiced = (track > 0) & (tracks[0] > 0)
        assert voiced.mean() > 0.3
        assert np.median(np.abs(12 * np.log2(track[voiced] / tracks[0][voiced]))) < 1
