"""The speaker probe: it finds what is there and not what is not, and is never asked about what it learned."""

from itertools import count

import pytest
import torch

from data.audio import save
from data.manifest import Row, write_manifest
from engine.user_error import UserError
from eval.leakage import SAMPLE_RATE, probe, speaker_leakage, summary, table, utterances

HERTZ = (700.0, 3_000.0, 6_000.0)


@pytest.fixture
def corpus(tmp_path):
    """Three speakers who are tones: four utterances to learn from, two held out; one is only there."""
    rows, time = [], torch.arange(6_400) / SAMPLE_RATE
    for speaker, hertz in enumerate(HERTZ):
        for number in range(6):
            path = tmp_path / f"{speaker}_{number}.wav"
            wave = 0.3 * torch.sin(2 * torch.pi * hertz * time + number) + 0.01 * torch.randn(6_400)
            save(path, wave[None, None], SAMPLE_RATE)
            rows.append(Row(path=path, speaker=f"s{speaker}", split="train" if number < 4 else "validation"))
    rows.append(Row(path=rows[0].path, speaker="stranger", split="validation"))
    write_manifest(tmp_path / "metadata.csv", rows)
    return tmp_path


def spectrum(wave):
    """Three bands of 10 ms frames."""
    power = torch.fft.rfft(wave[:, 0].unfold(-1, 160, 160)).abs()[..., :-9]
    return power.unflatten(-1, (3, 24)).mean(-1).transpose(1, 2)


def test_speakers_are_found_where_they_are_and_not_where_they_are_not(corpus):
    noise = count()

    def random(wave):
        return torch.randn(1, 4, 40, generator=torch.Generator().manual_seed(next(noise)))

    found = speaker_leakage(
        {"spectrum": (SAMPLE_RATE, spectrum), "noise": (SAMPLE_RATE, random)}, corpus, progress=False
    )
    assert found["spectrum"].linear == 1.0
    assert found["spectrum"].mlp > 0.5  # a dozen utterances teach it no better
    assert found["noise"].linear < 1.0
    assert found["noise"].chance == pytest.approx(1 / 3)
    assert (found["noise"].n_speakers, found["noise"].n_held_out) == (3, 6)
    assert "| spectrum | 1.000" in table(found)
    assert "| chance | 0.333" in table(found)


def test_nothing_that_is_asked_about_was_learned_from(corpus):
    told = utterances(corpus)
    assert not {row.path for row in told.train} & {row.path for row in told.held_out}
    assert {row.split for row in told.train} == {"train"}
    assert told.speakers == ["s0", "s1", "s2"]
    fewer = utterances(corpus, per_speaker=2)
    assert len(fewer.train) == 6
    assert fewer.held_out == told.held_out


def test_a_probe_is_the_same_every_time_and_leaves_the_generator_alone():
    x, y = torch.randn(30, 5), torch.arange(30) % 3
    before = torch.get_rng_state()
    answers = [probe(x, y, x, y, hidden=8, seed=1) for _ in range(2)]
    assert torch.equal(*answers)
    assert torch.equal(torch.get_rng_state(), before)


def test_pauses_do_not_count():
    time = torch.arange(8_000) / SAMPLE_RATE
    tone = 0.3 * torch.sin(2 * torch.pi * 500 * time)[None, None]
    padded = torch.cat([tone, torch.zeros(1, 1, 24_000)], dim=-1)
    alone, with_pause = (summary(spectrum, wave, SAMPLE_RATE) for wave in (tone, padded))
    mean = slice(0, 3)
    assert (alone - with_pause)[mean].norm() < 0.1 * alone[mean].norm()


def test_too_few_speakers_are_refused(tmp_path):
    write_manifest(tmp_path / "metadata.csv", [Row(path=tmp_path / "a.wav", speaker="a", split="train")])
    with pytest.raises(UserError, match="two speakers"):
        utterances(tmp_path)
