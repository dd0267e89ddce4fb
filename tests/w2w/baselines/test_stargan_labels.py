"""Label groups: inputs and targets of the networks, names from manifests, refused rows."""

from pathlib import Path

import pytest
import torch

from data.manifest import Row
from engine.user_error import UserError
from w2w.baselines.stargan.labels import (
    LabelGroup,
    LabelsConfig,
    input_label,
    labels_of,
    named_voice,
    output_label,
    value_of,
    with_names,
)

SMALL = LabelsConfig(
    first=LabelGroup(column="speaker", names=("ann", "bob", "cyd"), size=3),
    second=LabelGroup(column="accent", names=("scots", "irish"), size=2),
    third=LabelGroup(column="gender", names=("F", "M"), size=2),
)
OPEN = LabelsConfig(
    first=LabelGroup(column="speaker"), second=LabelGroup(column="accent"), third=LabelGroup(column="gender")
)


def row(name="a.wav", speaker=None, gender=None, **extra):
    return Row(path=Path(name), speaker=speaker, gender=gender, extra=extra)


def test_published_widths():
    config = LabelsConfig()
    assert config.sizes == [1421, 53, 2]
    assert (config.n_out, config.n_in) == (1476, 1479)
    indices = torch.tensor([[1420, -1, 1]])
    assert input_label(indices, config).shape == (1, 1479)
    assert output_label(indices, config).shape == (1, 1476)


def test_labels_of_a_clip_with_an_unknown_group():
    indices = torch.tensor([[1, -1, 0]])
    assert input_label(indices, SMALL).tolist() == [[0, 1, 0, 0, 0, 1, 0, 1, 0, 1]]
    assert output_label(indices, SMALL).tolist() == [[0, 1, 0, -1, -1, 1, 0]]


def test_names_and_sizes_are_filled_in_from_the_data():
    rows = [
        row(speaker="bob", accent="irish"),
        row(speaker="ann", gender="F"),
        row(gender="M", accent="scots"),
    ]
    config = with_names(OPEN, rows)
    assert config.first.names == ("ann", "bob")
    assert config.sizes == [2, 2, 2]
    assert labels_of(rows, config).tolist() == [[1, 0, -1], [0, -1, 0], [-1, 1, 1]]
    assert with_names(config, [*rows, row(speaker="zoe")]) == config


def test_group_may_be_larger_than_its_names():
    group = LabelGroup(column="speaker", size=5)
    config = with_names(
        LabelsConfig(first=group, second=LabelGroup(column=""), third=LabelGroup(column="")),
        [row(speaker="x")],
    )
    assert config.sizes == [5]
    assert config.first.names == ("x",)
    assert input_label(torch.tensor([[0]]), config).tolist() == [[1, 0, 0, 0, 0, 1]]


def test_columns_may_be_given_by_alias():
    one = row(speaker="ann", gender="F", corpus="VCTK", accent="")
    assert [value_of(one, c) for c in ("speaker_id", "sex", "corpus", "accent", "age")] == [
        "ann",
        "F",
        "VCTK",
        None,
        None,
    ]


def test_unknown_label_is_refused_with_its_row():
    with pytest.raises(UserError, match=r"b\.wav: speaker 'dan' is not in its label group"):
        labels_of([row(speaker="ann"), row("b.wav", speaker="dan")], SMALL)
    tight = with_names(
        LabelsConfig(first=LabelGroup(column="speaker", size=1)), [row(speaker="x"), row(speaker="y")]
    )
    with pytest.raises(UserError, match="which has 1 labels"):
        labels_of([row(speaker="x"), row(speaker="y")], tight)


def test_unlabelled_row_is_refused():
    with pytest.raises(UserError, match=r"mute\.wav has no label at all in speaker, accent, gender"):
        labels_of([row(speaker="ann"), row("mute.wav", corpus="VCTK")], SMALL)


def test_voice_by_name_is_that_label_alone_and_a_misspelt_name_is_refused():
    assert named_voice("cyd", SMALL).equal(input_label(torch.tensor([[2, -1, -1]]), SMALL))
    with pytest.raises(UserError, match="did you mean bob"):
        named_voice("bobb", SMALL)


def test_more_names_than_the_groups_size_are_refused():
    with pytest.raises(UserError, match="exceed"):
        LabelGroup(column="gender", size=1, names=("F", "M"))
