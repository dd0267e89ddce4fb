"""The synthetic world: disjoint splits, scenes as functions of their index, visible attributes."""

from itertools import combinations as pairs_of

import numpy as np
import pytest
import torch

from data.audio import load
from data.audiovisual.finding import scenes_from
from data.manifest import rows_from
from data.synthetic.world import (
    ATTRIBUTES,
    N_COMBINATIONS,
    N_SAID,
    World,
    combinations,
    describe,
    main,
    values_of,
    write,
)
from data.synthetic.world_pictures import N_DRAWN, draw
from data.synthetic.world_sounds import N_HEARD, SAMPLE_RATE, synthesise


def test_splits_share_no_combination_and_training_sees_every_pair_of_values():
    train, held_out = combinations("train"), combinations("held_out")
    assert len(held_out) == 345
    assert sorted([*train, *held_out]) == list(range(N_COMBINATIONS))
    values = values_of(train)
    for a, b in pairs_of(range(5), 2):
        seen = {tuple(pair) for pair in values[:, [a, b]].tolist()}
        assert len(seen) == len(ATTRIBUTES[a].values) * len(ATTRIBUTES[b].values)


def test_split_does_not_depend_on_the_scenes_seed():
    assert np.array_equal(World(0, "held_out").combinations, World(7, "held_out").combinations)


def test_scene_is_a_function_of_its_index():
    world = World(3, "held_out", draws=2)
    together, one = np.array([5, 400, 9]), 400
    assert torch.equal(world.pictures(together)[1], world.picture(one))
    assert torch.equal(world.waves(together)[1], world.wave(one))
    assert world.captions(together)[1] == World(3, "held_out").captions(np.array([one]))[0]


def test_draws_and_seeds_vary_scenes_of_the_same_values():
    world, n = World(0, "held_out"), 345
    assert np.array_equal(world.values(np.array([5])), world.values(np.array([5 + n])))
    for other_picture, other_wave in (
        (world.picture(5 + n), world.wave(5 + n)),
        (World(1, "held_out").picture(5), World(1, "held_out").wave(5)),
    ):
        assert not torch.equal(world.picture(5), other_picture)
        assert not torch.equal(world.wave(5), other_wave)


def test_captions_identify_the_combination():
    values = values_of(np.arange(N_COMBINATIONS))
    rng = np.random.default_rng(0)
    several = [describe(values), *(describe(values, rng.random((len(values), N_SAID))) for _ in range(3))]
    meaning: dict[str, int] = {}
    for captions in several:
        for number, caption in enumerate(captions):
            assert meaning.setdefault(caption, number) == number


def test_signals_are_in_range_and_never_silent():
    world = World(0, "held_out")
    waves, pictures = world.waves(np.arange(345)), world.pictures(np.arange(64))
    assert waves.shape == (345, 1, 16_000)
    assert waves.abs().amax() <= 1
    assert waves.square().mean(-1).sqrt().amin() > 1e-3
    assert (waves.abs() >= 1).float().mean() < 1e-4
    assert pictures.shape == (64, 3, 64, 64)


@pytest.mark.parametrize("which", range(5), ids=[attribute.name for attribute in ATTRIBUTES])
def test_each_attribute_changes_picture_and_sound(which):
    rng = np.random.default_rng(0)
    n_values = len(ATTRIBUTES[which].values)
    base = values_of(rng.integers(N_COMBINATIONS, size=6))
    values = np.repeat(base, n_values, axis=0)
    values[:, which] = np.tile(np.arange(n_values), 6)
    seen = np.repeat(rng.random((6, N_DRAWN)), n_values, axis=0)
    heard = np.repeat(rng.random((6, N_HEARD)), n_values, axis=0)
    pictures = torch.from_numpy(draw(values, seen)).float().flatten(1)
    spectra = log_spectra(torch.from_numpy(synthesise(values, heard)))
    for a, b in pairs_of(range(n_values), 2):
        rows = np.arange(6) * n_values
        assert (pictures[rows + a] - pictures[rows + b]).abs().mean(1).amin() > 0.3  # of 255, over all pixels
        assert (spectra[rows + a] - spectra[rows + b]).abs().mean(1).amin() > 0.02  # nepers


def test_linear_probe_recognises_attributes_of_held_out_combinations():
    train, held_out = World(0, "train"), World(0, "held_out")
    chosen = np.arange(0, len(train), 4)
    x, y = (probe_features(w.waves(i)) for w, i in ((train, chosen), (held_out, np.arange(345))))
    mean, spread = x.mean(0), x.std(0) + 1e-3
    x, y = ((torch.cat([(z - mean) / spread, torch.ones(len(z), 1)], 1)).double() for z in (x, y))
    inverse = torch.linalg.solve(x.T @ x + 30 * torch.eye(x.shape[1]), x.T)
    for which, attribute in enumerate(ATTRIBUTES):
        wanted = torch.from_numpy(train.values(chosen)[:, which])
        weights = inverse @ torch.nn.functional.one_hot(wanted, len(attribute.values)).double()
        found = (y @ weights).argmax(1).numpy()
        right = (found == held_out.values(np.arange(345))[:, which]).mean()
        assert right > 1.4 / len(attribute.values), f"{attribute.name}: {right:.2f}"


def log_spectra(wave: torch.Tensor) -> torch.Tensor:
    spectrum = torch.stft(wave, 512, 256, window=torch.hann_window(512), return_complex=True)
    return torch.log(spectrum.abs().square() + 1e-5).flatten(1)


def probe_features(waves: torch.Tensor) -> torch.Tensor:
    """Coarse, sorted levels over time of each band: which bands sound, and for how long."""
    level = log_spectra(waves[:, 0]).unflatten(1, (257, -1))[:, :256].unflatten(1, (64, 4)).mean(2)
    return level.sort(2).values[:, :, ::8].flatten(1)


def test_files_read_back_as_pairs(tmp_path):
    world = World(0, "held_out")
    world.combinations = world.combinations[:4]
    manifest = write(tmp_path / "world", [world])
    rows, scenes = rows_from(manifest), scenes_from(tmp_path / "world")
    assert [scene.caption for scene in scenes] == world.captions(np.arange(4))
    assert rows[2].extra["colour"] == ATTRIBUTES[1].values[world.values(np.array([2]))[0, 1]]
    assert rows[0].split == "held_out"
    assert load(rows[2].path, SAMPLE_RATE)[0].sub(world.wave(2)).abs().max() < 1e-4


def test_existing_world_is_not_overwritten(tmp_path, capsys):
    (tmp_path / "metadata.csv").write_text("path\n")
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path)])
    assert end.value.code == 2
    assert "name a new folder" in capsys.readouterr().err
