"""References of another voice are found, whatever their level, hum or offset."""

import numpy as np
import pytest
import soundfile

from data.audio.listening import hum_in, measure
from data.check import check, main, measure_all
from data.manifest import rows_from
from data.plausibility import compare

RATE = 16_000


def speaker(seed: int, f0: float, tilt: float, seconds: float = 4.0) -> np.ndarray:
    """Syllables of varying pitch; harmonic amplitudes fall with the power ``tilt``."""
    rng, n = np.random.default_rng(seed), round(seconds * RATE)
    wander = np.interp(np.arange(n), np.linspace(0, n, 12), f0 * 2 ** rng.normal(0, 0.15, 12))
    phase = 2 * np.pi * np.cumsum(wander) / RATE
    voiced = sum(np.sin(k * phase) * k**-tilt for k in range(1, 30) if k * f0 < 3_500)
    syllables = np.clip(np.sin(2 * np.pi * 3 * np.arange(n) / RATE + rng.uniform(0, 6)), 0, None)
    pauses = np.arange(n) % (2 * RATE) < 1.3 * RATE
    return 0.1 * voiced * syllables * pauses + 1e-4 * rng.standard_normal(n)


@pytest.fixture
def references(tmp_path):
    """Five recordings of one voice at different levels, and one of another voice."""
    for number in range(5):
        wave = speaker(number, 110, 1.0) * 10 ** (-number / 5)
        soundfile.write(tmp_path / f"{number}.wav", wave, RATE, "PCM_24")
    soundfile.write(tmp_path / "other.wav", speaker(9, 220, 0.3), RATE, "PCM_24")
    return tmp_path


def test_recording_of_another_voice_is_found_with_its_pitch(references, capsys):
    rows = rows_from(references)
    measured = measure_all(rows)
    findings, sound = check(rows, measured, voice=True)
    assert [(f.row.path.name, f.problem) for f in findings] == [("other.wav", "unlike the others")]
    assert "the others'" in findings[0].detail
    assert len(sound) == 5
    assert not check(rows, measured)[0]
    with pytest.raises(SystemExit):
        main([str(references), "--voice"])
    assert "unlike the others" in capsys.readouterr().out


def test_comparison_needs_three_recordings(references, capsys):
    for path in list(references.glob("[1-4].wav")):
        path.unlink()
    with pytest.raises(SystemExit):
        main([str(references), "--voice"])
    assert "at least three audible recordings" in capsys.readouterr().err


def test_comparison_ignores_the_level(references):
    distances = [one.distance for one in compare([measure(p) for p in sorted(references.glob("[0-4].wav"))])]
    assert max(distances) < 1.5


@pytest.mark.parametrize(("mains", "level"), [(50, -30.0), (60, -50.0)])
def test_hum_is_measured_under_speech(tmp_path, mains, level):
    wave = speaker(1, 110, 1.0, seconds=8.0)
    t = np.arange(len(wave)) / RATE
    hum = 10 ** (level / 20) * np.sqrt(2) * np.sin(2 * np.pi * mains * t)
    soundfile.write(tmp_path / "a.wav", wave + hum, RATE, "PCM_24")
    found = measure(tmp_path / "a.wav").hum
    assert found is not None
    assert abs(found[0] - level) < 3
    assert found[1] == mains


def test_hum_of_short_files_is_unknown():
    assert hum_in(np.zeros(8_000)) is None


def test_offset_hum_and_over_full_scale_are_reported_with_levels(tmp_path, capsys):
    wave = speaker(2, 130, 1.0)
    t = np.arange(len(wave)) / RATE
    spoilt = {
        "good": wave,
        "offset": wave + 0.1,
        "hum": wave + 0.06 * np.sin(2 * np.pi * 50 * t),
        "loud": 30 * wave,
        "integers": 32_768 * wave[: 3 * RATE],
    }
    for name, samples in spoilt.items():
        soundfile.write(tmp_path / f"{name}.wav", samples, RATE, "FLOAT")
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    problems = {name: " ".join(line for line in lines if line.startswith(f"{name}.wav")) for name in spoilt}
    assert not problems["good"]
    assert "mean of its samples is 0.1" in problems["offset"]
    assert "at 50 Hz" in problems["hum"]
    assert "over full scale" in problems["loud"]
    assert "integers stored as floats" in problems["integers"]
    assert any(line.startswith("levels: speech") for line in lines)
    assert any(line.startswith("greatest offset 0.1") and "offset.wav" in line for line in lines)
