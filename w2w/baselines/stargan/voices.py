"""StarGAN's voices: input labels, of names that it was trained on or as its discriminator hears them.

A voice is what the generator reads beside a picture: the one-hots of all groups and their presence bits. The
generator adds a label's weights where it merges, so a mean of voices adds the mean of theirs: of several
clips it is a vote, by the shares of what they were heard as, and a blend of two speakers lies between the two
as the generator knows them. A speaker it was not trained on has no label, and gets that of the most like.
"""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress

import torch
from jaxtyping import Float
from torch import Tensor

from data.manifest import Row
from engine.json_config import nearest
from engine.user_error import UserError
from w2w.baselines.stargan.labels import LabelsConfig, input_label, labels_of

Companions = tuple[tuple[int, ...], ...]
"""For each name of the first group, its labels in all groups, −1 where it has none."""


def companions(rows: Iterable[Row], labels: LabelsConfig) -> Companions:
    """Which labels of the other groups go with each name of the first, by most of its clips.

    In training a speaker comes with the labels that its clips have, so it does in use.
    """
    found = labels_of(rows, labels).tolist()
    return tuple(
        tuple(_usual(column) for column in zip(*own)) if own else _alone(index, labels)
        for index in range(len(labels.groups[0].names) if labels.groups else 0)
        for own in [[clip for clip in found if clip[0] == index]]
    )


def _usual(column: Iterable[int]) -> int:
    told = Counter(index for index in column if index >= 0)
    return told.most_common(1)[0][0] if told else -1


def _alone(index: int, labels: LabelsConfig) -> tuple[int, ...]:
    return (index, *(-1 for _ in labels.groups[1:]))


def named_voice(name: str, labels: LabelsConfig, known: Companions = ()) -> Float[Tensor, "1 n_in"]:
    """The voice of a name in any group, the first group's with the labels that go with it."""
    for place, group in enumerate(labels.groups):
        if name in group.names:
            index = group.names.index(name)
            if place == 0 and known:
                return input_label(torch.tensor([known[index]]), labels)
            return input_label(labels.indices({group.column: name}), labels)
    names = [name for group in labels.groups for name in group.names]
    raise UserError(
        f"this converter knows no voice {name!r}{nearest(name, names)}: it was trained on {len(names)} "
        f"labels, such as {', '.join(names[:5])}; take the voice from a clip (--reference)"
    )


def heard_voice(logits: Float[Tensor, "batch n_out"], labels: LabelsConfig) -> Float[Tensor, "batch n_in"]:
    """The voices that the discriminator's class head hears: in each group the likeliest name."""
    heard = []
    for group, column in zip(labels.groups, logits.split(labels.sizes, dim=1), strict=True):
        # Labels that no clip bore were never taught anything but to be absent; without names, all may be.
        column = column[:, : len(group.names) or None]
        absent = column.new_full((len(column),), -1, dtype=torch.long)
        heard.append(column.argmax(1) if column.shape[1] else absent)
    return input_label(torch.stack(heard, dim=1), labels)


def companions_if_there(rows: Iterable[Row], labels: LabelsConfig) -> Companions:
    """As ``companions``, and empty where rows and labels do not belong together any more."""
    with suppress(UserError):
        return companions(rows, labels)
    return ()
