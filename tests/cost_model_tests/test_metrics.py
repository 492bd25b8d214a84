"""Metrics on lists short enough to count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_model.metrics import by_task, pairwise_accuracy, peak_at_k, r2, recall_at_k, rmse

LABELS = np.array([1.0, 0.5, 0.25, 0.1])


def test_pairwise_accuracy_counts_ordered_pairs() -> None:
    assert pairwise_accuracy(np.array([4.0, 3.0, 1.0, 2.0]), LABELS) == pytest.approx(5 / 6)


def test_a_tied_score_is_half_right() -> None:
    assert pairwise_accuracy(np.zeros(4), LABELS) == 0.5


def test_equal_labels_cannot_be_ordered_wrongly() -> None:
    assert pairwise_accuracy(np.arange(3.0), np.ones(3)) == 1.0


def test_recall_counts_the_best_among_the_chosen() -> None:
    assert recall_at_k(np.array([0.0, 3.0, 2.0, 1.0]), LABELS, 2) == 0.5


def test_k_beyond_the_programs_is_all_of_them() -> None:
    assert recall_at_k(np.zeros(4), LABELS, 9) == 1.0


def test_peak_is_the_best_of_the_chosen() -> None:
    assert peak_at_k(np.array([0.0, 3.0, 2.0, 1.0]), LABELS * 0.5, 2) == 0.5


def test_peak_of_failures_alone_is_reached() -> None:
    assert peak_at_k(np.arange(2.0), np.zeros(2), 1) == 1.0


def test_errors_of_a_perfect_model() -> None:
    assert (rmse(LABELS, LABELS), r2(LABELS, LABELS)) == (0.0, 1.0)


def test_the_mean_explains_nothing() -> None:
    assert r2(np.full(4, LABELS.mean()), LABELS) == pytest.approx(0.0)


def test_tasks_count_alike_whatever_their_size() -> None:
    scores, labels = np.array([1.0, 2.0, 3.0, 2.0, 1.0]), np.array([1.0, 2.0, 3.0, 1.0, 2.0])
    tasks = np.array([0, 0, 0, 1, 1])
    assert by_task(pairwise_accuracy, scores, labels, tasks) == 0.5


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20, unique=True))
def test_the_labels_themselves_rank_perfectly(labels: list[float]) -> None:
    array = np.array(labels)
    assert pairwise_accuracy(array, array) == 1.0 and recall_at_k(array, array, 1) == 1.0
