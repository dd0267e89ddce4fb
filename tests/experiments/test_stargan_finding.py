"""The measures of the StarGAN study, and the differences between its variants."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from data.audio.writing import save
from experiments.stargan.__main__ import COLUMNS, SIZES, larger, main, table, variants
from experiments.stargan.measures import (
    Judges,
    columns_after_merge,
    copied,
    gender_from,
    label_share,
    obeyed,
    reach,
    turns,
)
from w2w.baselines.stargan.labels import LabelGroup, LabelledBatch, LabelsConfig
from w2w.baselines.stargan.networks import DiscriminatorOutput, Generator
from w2w.baselines.stargan.spectrogram import Spectrogram, SpectrogramConfig, ToWave

LABELS = LabelsConfig(
    first=LabelGroup(column="speaker", size=3),
    second=LabelGroup(column=""),
    third=LabelGroup(column="gender", size=2),
)


def clips():
    spectrograms = torch.rand(4, 1, 8, 8)
    return spectrograms, [spectrograms.roll(turn, 0) for turn in turns(4)]


def test_turns_are_spread_evenly_and_never_zero():
    assert turns(4) == [1, 2, 3]
    assert turns(32) == [1, 6, 11, 16, 21, 26]


def test_copied_input_has_zero_distance():
    spectrograms, others = clips()
    found = copied(spectrograms, spectrograms, torch.stack([spectrograms] * 3), others)
    assert (found["moved"], found["copy"], found["kept"], found["way"]) == (0, 0, 0, 0)
    assert found["apart"] > 0.1


def test_full_and_half_conversion_measure_one_and_one_half():
    spectrograms, others = clips()
    whole = copied(spectrograms, spectrograms, torch.stack(others), others)
    assert (whole["copy"], whole["way"]) == pytest.approx((1.0, 1.0))
    middle = torch.stack([(other + spectrograms) / 2 for other in others])
    half = copied(spectrograms, spectrograms, middle, others)
    assert (half["copy"], half["way"]) == pytest.approx((0.5, 0.5))


def test_change_independent_of_labels_is_no_progress_to_the_target():
    spectrograms, others = clips()
    blurred = spectrograms.mean((1, 2, 3), keepdim=True).expand_as(spectrograms)
    found = copied(spectrograms, blurred, torch.stack([blurred] * 3), others)
    assert found["way"] == 0
    assert found["moved"] == found["kept"] > 0


def test_label_share_is_the_fraction_of_variance_due_to_labels():
    clip, label = torch.randn(1, 5, 1, 4, 4), torch.randn(6, 1, 1, 4, 4)
    assert label_share(clip.expand(6, -1, -1, -1, -1)) == 0
    assert label_share(label.expand(-1, 5, -1, -1, -1)) == pytest.approx(1)
    both = label_share(clip + label)
    of_label, of_clip = label.var(0, correction=0).sum(), clip.var(1, correction=0).sum()
    assert both == pytest.approx(float(of_label / (of_label + of_clip)), rel=1e-5)


class PixelClassifier(nn.Module):
    """A discriminator whose class head reads speaker and gender from a spectrogram's first two pixels."""

    def forward(self, spectrogram):
        speaker, gender = spectrogram[:, 0, 0, :2].long().clamp_min(0).unbind(1)
        logits = [nn.functional.one_hot(speaker, 3), nn.functional.one_hot(gender, 2)]
        return DiscriminatorOutput(spectrogram[:, :, :1, :1], 5.0 * torch.cat(logits, dim=1), [])


def test_obeyed_counts_only_targets_unlike_the_source():
    def spectrogram(labels):
        drawn = torch.zeros(len(labels), 1, 2, 2)
        drawn[:, 0, 0] = labels.float()
        return drawn

    own = torch.tensor([[0, 0], [1, 1], [2, 0]])
    target = torch.tensor([[1, 1], [1, 0], [0, -1]])  # the second keeps its speaker, the third has no gender
    found = obeyed(PixelClassifier(), spectrogram(own), own, spectrogram(target), target, LABELS)
    assert (found["speaker_real"], found["speaker_before"], found["speaker_obeyed"]) == (1, 0, 1)
    assert (found["gender_real"], found["gender_before"], found["gender_obeyed"]) == (1, 0, 1)
    assert found["speaker_pull"] == 5
    ignored = obeyed(PixelClassifier(), spectrogram(own), own, spectrogram(own), target, LABELS)
    assert (ignored["speaker_obeyed"], ignored["speaker_pull"]) == (0, 0)


@pytest.mark.parametrize(("size", "published", "remedied"), [("half", 32, 128), ("published", 64, 256)])
def test_receptive_field_after_the_merge(size, published, remedied):
    def columns(name):
        shape = variants(size)[name].stargan
        labels = LabelsConfig(first=LabelGroup(column="speaker", size=2))
        return columns_after_merge(replace(shape, labels=labels, n_channels=2))

    assert columns("published") == columns("instance_norm") == published
    assert columns("receptive") == columns("remedied") == remedied


@pytest.mark.parametrize(("name", "least", "most"), [("published", 0.95, 1.0), ("receptive", 0.2, 0.8)])
def test_reach_is_near_one_for_the_published_form_and_lower_with_dilation(name, least, most):
    torch.manual_seed(0)
    labels = LabelsConfig(first=LabelGroup(column="speaker", size=2))
    shape = replace(variants("published")[name].stargan, labels=labels, n_channels=2)
    generator = Generator(shape).eval()
    for parameter in generator.parameters():  # all ReLUs pass, and the sigmoid is not saturated
        parameter.data = 3 * parameter.data.abs() / parameter[0].numel() ** 0.9
    generator.out.weight.data *= 1e-9
    found = reach(generator, torch.rand(1, 1, 256, 256), torch.zeros(1, 3).long(), shape)
    assert least < found <= most


def test_gender_judge_classifies_and_counts_only_changed_genders():
    """One gender has its power in the lower half of the bins, the other in the upper."""
    torch.manual_seed(0)

    def drawn(genders):
        low = (torch.arange(16) < 8)[None, :, None] == (genders == 0)[:, None, None]
        return (0.3 * torch.rand(len(genders), 16, 16) + 0.6 * low)[:, None]

    learned = torch.arange(40) % 2
    judge = gender_from(drawn(learned), learned)
    assert torch.equal(judge(drawn(1 - learned)), 1 - learned)
    own = torch.tensor([0, 1, 1, -1])  # rolled by 1: 0 → -1, 1 → 0, 1 → 1, -1 → 1; only the second counts
    shape = SpectrogramConfig(n_fft=64, hop=16, n_bins=16, n_frames=16)
    clips = LabelledBatch(torch.rand(4, 1, shape.crop_samples), own[:, None])
    judges = Judges(judge, RoughnessEmbedding(), ToWave(shape))
    kept = judges(drawn(own), drawn(own), clips, 1)
    assert (kept["judged_real"], kept["judged_before"], kept["judged_obeyed"]) == (1, 0, 0)
    assert judges(drawn(own), drawn(own.roll(1)), clips, 1)["judged_obeyed"] == 1


class RoughnessEmbedding:
    """A stand-in for Resemblyzer: high or low frequency, in two dimensions."""

    def __call__(self, wave):
        rough = wave.diff().square().mean() / wave.square().mean()
        return {"embedding": torch.stack([rough, 1 - rough.clamp_max(1)]).numpy()}


def test_nearer_is_one_for_targets_and_zero_for_copies():
    shape = SpectrogramConfig(n_fft=256, hop=64, n_bins=128, n_frames=64)
    at = torch.arange(shape.crop_samples)
    waves = torch.stack([torch.sin(at * pitch) for pitch in (0.1, 1.5)])[:, None]
    clips = LabelledBatch(waves, torch.tensor([[0], [1]]))
    spectrogram = Spectrogram(shape)(waves)
    judges = Judges(None, RoughnessEmbedding(), ToWave(shape))
    copy, turned = (
        judges(spectrogram, spectrogram, clips, 1),
        judges(spectrogram, spectrogram.roll(1, 0), clips, 1),
    )
    assert (copy["nearer"], copy["nearer_before"], turned["nearer"], turned["nearer_before"]) == (0, 0, 1, 0)
    assert copy["to_source"] == pytest.approx(turned["to_target"])
    assert copy["to_source"] > 0.95


@pytest.mark.parametrize("size", SIZES)
def test_variants_differ_only_in_what_they_name(size):
    configs = variants(size)
    base = configs["published"]
    for name, config in configs.items():
        shape = replace(
            config.stargan,
            dilations=base.stargan.dilations,
            norm=base.stargan.norm,
            norm_of_merge=base.stargan.norm_of_merge,
        )
        if name == "own":
            assert (config.task.losses, base.task.losses) == ("own", "experiment")
            assert config.stargan.spectrogram.maximum == 0
            continue
        assert replace(config, stargan=shape, data=base.data) == base
        assert (config.stargan.dilations != base.stargan.dilations) == (name in ("receptive", "remedied"))
        assert (config.stargan.norm == "instance") == (name in ("instance_norm", "remedied"))
        assert (config.data.batch > base.data.batch) == (name in ("batch", "remedied"))
    assert larger(base).data.batch == 4 * base.data.batch


def test_command_trains_variants_and_reuses_finished_runs(tmp_path, capsys):
    """One seed of two variants on four voices, run twice."""
    rng, lines = torch.Generator().manual_seed(0), ["path,speaker,gender"]
    for number in range(4):
        noise = 0.1 * torch.randn(1, 1, 20_000, generator=rng)
        save(tmp_path / f"{number}.wav", noise, 16_000)
        lines.append(f"{number}.wav,{number},{'FM'[number % 2]}")
    (tmp_path / "speech.csv").write_text("\n".join(lines) + "\n")
    command = ["--data", str(tmp_path / "speech.csv"), "--out", str(tmp_path / "out"), "--size", "tiny"]
    command += ["--steps", "2", "--seeds", "1", "--clips", "3", "--variants", "published", "batch"]
    main(command)
    first = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in first.splitlines()[-2:]] == ["published", "batch"]
    assert (tmp_path / "out/published/0/curve.jsonl").is_file()
    main(command)
    assert capsys.readouterr().out == first


def test_table_has_means_over_seeds_and_only_measured_columns():
    run = {"variant": "published", "batch": 2, "columns": 8, "frames": 64, "seconds": 3.0}
    text = table([{**run, "copy": copy} for copy in (0.2, 0.4)], "A title")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    assert cells[2] == ["published", "8 of 64", "2", "0.300 ± 0.141", "2", "3"]
    assert cells[0][3] == COLUMNS["copy"]
