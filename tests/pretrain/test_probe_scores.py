"""Scores of the probes against published implementations and closed forms."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from engine.user_error import UserError
from pretrain.clip.losses import neighbour_scores, rank_scores, ranks
from pretrain.probe.classification import macro_f1, multi_label_scores, single_label_scores
from pretrain.probe.results import (
    FILE,
    interval,
    mean_interval,
    read_results,
    report,
    results_of,
    results_table,
)
from pretrain.probe.retrieval import Scenes, cross_scores


def test_macro_f1_equals_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    for _ in range(5):
        predicted, truth = rng.integers(5, size=30), rng.integers(4, size=30)
        theirs = metrics.f1_score(truth, predicted, average="macro", zero_division=0)
        assert macro_f1(predicted, truth, 5) == pytest.approx(theirs)


def test_intervals_contain_the_value_and_are_wider_for_dependent_clips():
    values = np.repeat(np.random.default_rng(0).integers(2, size=20), 5).astype(float)
    alone = mean_interval(values, [str(i) for i in range(100)])
    together = mean_interval(values, [str(i // 5) for i in range(100)])
    assert alone[1] < alone[0] == together[0] < alone[2]
    assert together[2] - together[1] > 1.5 * (alone[2] - alone[1])
    assert interval(lambda i: float(values[i].mean()), [str(i) for i in range(100)]) == alone


def test_perfect_predictions_score_one_despite_absent_classes():
    logits, groups = 9 * torch.eye(3), ["a", "b", "c"]
    scores = single_label_scores([logits, logits], torch.arange(3), groups)
    assert scores["accuracy"] == (1.0, 1.0, 1.0)
    assert scores["macro F1"][0] == 1.0
    pytest.importorskip("torchmetrics")
    truth = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 0]])  # the third label does not occur
    scores = multi_label_scores([truth * 8 - 4], truth, groups, n_resamples=5)
    assert scores["mAP"][0] == scores["macro AUC"][0] == 1.0


def test_neighbour_scores_equal_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.retrieval")
    vectors, labels = torch.randn(12, 4), torch.randint(3, (12,))
    same, other = labels[:, None] == labels, ~torch.eye(12, dtype=torch.bool)
    ours = neighbour_scores(vectors, same, other)
    unit = torch.nn.functional.normalize(vectors, dim=-1)
    for i in range(12):
        # Plus 2: torchmetrics ignores answers with negative scores.
        nearness, right = 2 + (unit @ unit.T)[i][other[i]], same[i][other[i]]
        if right.any():
            assert_close(ours["mAP"][i], functional.retrieval_average_precision(nearness, right))
            assert_close(ours["R@5"][i], functional.retrieval_hit_rate(nearness, right, top_k=5))
        else:
            assert ours["mAP"][i].isnan()


def test_neighbour_scores_ignore_pairs_that_are_not_compared():
    vectors, labels = torch.randn(8, 4), torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    same, other = labels[:, None] == labels, torch.ones(8, 8, dtype=torch.bool)
    full = neighbour_scores(vectors, same, other)
    copies = torch.cat([vectors, vectors])  # a take of each clip's own recording, which is left out
    twice = torch.arange(16) % 8
    again = neighbour_scores(copies, same.repeat(2, 2), twice[:, None] != twice)
    assert (again["R@1"][:8] >= full["R@1"]).all()
    assert_close(again["R@1"][:8], full["R@1"])


def test_ranks_count_equally_near_wrong_answers():
    queries, answers = torch.tensor([[1.0, 0], [0, 1.0]]), torch.tensor([[1.0, 0], [1.0, 0]])
    assert ranks(queries, answers).tolist() == [2, 2]
    scores = rank_scores(torch.tensor([1, 2, 20]))
    assert_close(scores["MRR"].mean(), torch.tensor((1 + 0.5 + 0.05) / 3))
    assert scores["R@1"].tolist() == [1, 0, 0]
    assert scores["R@10"].tolist() == [1, 1, 0]


def test_all_scenes_with_a_caption_are_correct_answers_for_it():
    sounds = torch.tensor([[1.0, 0, 0], [0.9, 0.1, 0], [0, 0, 1.0]])
    texts = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]])
    scores = cross_scores(Scenes(sounds, None, ["a dog", "a dog", "rain"]), texts)
    assert all(value[0] == 1.0 for value in scores.values())
    scores = cross_scores(Scenes(sounds, sounds[[2, 1, 0]], []), None)
    assert scores["sound to picture R@1"][0] == pytest.approx(1 / 3)
    assert len(scores) == 8


def test_results_of_all_tasks_are_stored_in_one_file(tmp_path, capsys):
    known = {"task": "t", "data": "d", "n": 4}
    report(results_of({"accuracy": (0.5, 0.4, 0.6)}, **known, encoder="a", trained_on="x, y"), tmp_path)
    report(results_of({"accuracy": (0.1, 0.1, 0.1)}, **known | {"task": "u"}, encoder="a"), tmp_path)
    for value in (0.1, 0.75):
        report(results_of({"accuracy": (value, 0.7, 0.8)}, **known, encoder="b"), tmp_path)
    stored = read_results(tmp_path)
    assert [(r.task, r.encoder, r.value) for r in stored] == [
        ("t", "a", 0.5),
        ("u", "a", 0.1),
        ("t", "b", 0.75),
    ]
    assert stored[0].trained_on == "x, y"
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in printed[-5:-2]] == ["", "a", "b"]
    assert printed[-3].endswith("0.750 [0.700, 0.800]")
    assert results_table(stored[:2]).splitlines()[1].startswith("accuracy")
    (tmp_path / FILE).write_text("task,data\nx,y\n")
    with pytest.raises(UserError, match="has no results of probes"):
        read_results(tmp_path)
