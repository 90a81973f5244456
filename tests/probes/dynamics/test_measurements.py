"""What is measured of an answer, against sums written out, at the ends of the number range."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from landscape.probes.dynamics.measurements import MEASUREMENTS, measurements


def measured(logits, labels, dtype=torch.float64):
    found = measurements(torch.tensor(logits, dtype=dtype), torch.tensor(labels))
    return {name: found[..., place].numpy() for place, name in enumerate(MEASUREMENTS)}


def drawn(n=40, classes=5, scale=3.0):
    generator = torch.Generator().manual_seed(0)
    logits = scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(classes, (n,), generator=generator)


def test_they_are_their_definitions():
    logits, labels = drawn()
    found = measurements(logits, labels).numpy()
    for row, z, y in zip(found, logits.tolist(), labels.tolist(), strict=True):
        others = [value for j, value in enumerate(z) if j != y]
        total = sum(math.exp(value) for value in z)
        p = [math.exp(value) / total for value in z]
        rest = [value for j, value in enumerate(p) if j != y]
        norm = math.sqrt(sum(value**2 for value in rest) + (1 - p[y]) ** 2)
        expected = [z[y] - max(others), p[y] - max(rest), math.log(p[y]) - math.log(sum(rest))]
        expected += [p[y], norm, -math.log(p[y]), float(z.index(max(z)) == y), z.index(max(z))]
        np.testing.assert_allclose(row, expected, rtol=1e-12, atol=1e-14)


def test_the_loss_is_cross_entropy_of_the_example():
    logits, labels = drawn()
    column = measurements(logits, labels)[:, MEASUREMENTS.index("loss")]
    torch.testing.assert_close(column, F.cross_entropy(logits, labels, reduction="none"))


def test_margins_of_negative_logits_are_those_of_the_logits():
    found = measured([[-3.0, -1.0, -7.0]], [0])
    assert found["margin"] == -2.0
    assert measured([[-3.0, -1.0, -7.0]], [1])["margin"] == 2.0


def test_el2n_of_a_uniform_answer_and_of_the_worst_one():
    assert measured([[0.0] * 4], [1])["el2n"] == pytest.approx(math.sqrt(1 - 1 / 4))
    assert measured([[800.0, 0.0, 0.0]], [1])["el2n"] == pytest.approx(math.sqrt(2))


def test_log_odds_loss_and_el2n_keep_their_digits_where_the_probability_is_1():
    found = measured([[60.0, 0.0, 0.0]], [0])
    assert found["probability"] == 1.0
    assert found["log_odds"] == pytest.approx(60 - math.log(2))
    assert found["loss"] == pytest.approx(2 * math.exp(-60), rel=1e-12, abs=0)
    others = math.exp(-60)
    norm = math.sqrt((2 * others) ** 2 + 2 * others**2)
    assert found["el2n"] == pytest.approx(norm, rel=1e-12, abs=0)


def test_huge_losses_are_finite():
    found = measured([[-5000.0, 0.0]], [0])
    assert found["loss"] == 5000.0
    assert found["log_odds"] == -5000.0


@pytest.mark.parametrize("bad", [[math.nan, 0, 1], [math.inf, 0, 1], [-math.inf] * 3])
def test_what_is_no_answer_is_wrong_and_no_number(bad):
    found = measured([bad, [5.0, 0.0, 1.0]], [0, 0])
    assert found["correct"].tolist() == [0, 1]
    assert found["prediction"].tolist() == [-1, 0]
    for name in MEASUREMENTS[:6]:
        assert np.isnan(found[name]).tolist() == [True, False]


def test_a_class_that_is_masked_out_is_an_answer():
    found = measured([[2.0, -math.inf, 1.0]], [0])
    assert found["correct"] == 1
    assert found["margin"] == 1.0
    assert found["loss"] == pytest.approx(math.log1p(math.exp(-1)))


def test_half_precision_is_measured_in_double():
    found = measurements(torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16), torch.tensor([1]))
    assert found.dtype == torch.float64
    assert found[0, MEASUREMENTS.index("loss")] == pytest.approx(
        math.log1p(math.exp(-1)), rel=1e-14
    )


def test_more_dimensions_are_more_examples():
    logits, labels = drawn(6)
    whole = measurements(logits.reshape(2, 3, 5), labels.reshape(2, 3))
    torch.testing.assert_close(whole.reshape(6, -1), measurements(logits, labels))


def test_no_graph_is_kept():
    logits, labels = drawn()
    assert not measurements(logits.requires_grad_(), labels).requires_grad
