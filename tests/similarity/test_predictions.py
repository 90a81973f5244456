"""Predictions: every measure by counting, by closed form and in the extremes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import cohen_kappa_score

from landscape.errors import RequestError
from landscape.losses import Term, resolve_loss
from landscape.similarity import predictions as page
from landscape.similarity.bootstrap import wilson
from landscape.similarity.predictions import (
    MEASURES,
    PredictionSums,
    js_divergence,
    kl_divergence,
)

LOSSES = {name: resolve_loss(name, device=torch.device("cpu")) for name in ("cross_entropy", "bce")}
LOSSES["mse"] = resolve_loss("mse", device=torch.device("cpu"))
ZERO = torch.zeros(())


def measured(outputs, target, loss="cross_entropy", sizes=None):
    """Measures of networks with these outputs, in batches of some sizes."""
    sums = PredictionSums(LOSSES[loss], len(outputs))
    for start, stop in sizes or [(0, len(target))]:
        rows = slice(start, stop)
        sums.update([Term(ZERO, 1.0, output[rows], target[rows]) for output in outputs])
    return sums.intervals()


def classifiers(n=300, classes=4, networks=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(classes, (n,), generator=generator)
    common = 1.5 * torch.nn.functional.one_hot(target, classes)
    outputs = [
        common + torch.randn(n, classes, generator=generator, dtype=torch.float64)
        for _ in range(networks)
    ]
    return outputs, target


def calibration_error(logits, target):
    probabilities = logits.softmax(-1).numpy()
    confidence, right = probabilities.max(1), probabilities.argmax(1) == target.numpy()
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            total += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return total


def test_measures_are_what_counting_gives():
    outputs, target = classifiers()
    found = measured(outputs, target)
    assert set(found) == set(MEASURES)
    predicted = [output.argmax(1).numpy() for output in outputs]
    wrong = [classes != target.numpy() for classes in predicted]
    p, q = (output.softmax(-1).numpy() for output in (outputs[0], outputs[2]))
    disagreement = np.mean(predicted[0] != predicted[2])
    logits = [(o - o.mean(1, keepdim=True)).numpy().ravel() for o in outputs]
    expected = {
        "disagreement": disagreement,
        "normalized_disagreement": disagreement / np.mean([wrong[0].mean(), wrong[2].mean()]),
        "error_overlap": np.mean(wrong[0] & wrong[2]) / np.mean(wrong[0] | wrong[2]),
        "error_kappa": cohen_kappa_score(wrong[0], wrong[2]),
        "js_divergence": np.mean(jensenshannon(p, q, axis=1) ** 2),
        "kl_divergence": np.mean((p * np.log(p / q)).sum(1)),
        "output_correlation": np.corrcoef(logits[0], logits[2])[0, 1],
    }
    errors = [calibration_error(output, target) for output in outputs]
    expected["calibration_difference"] = errors[2] - errors[0]
    for name, value in expected.items():
        assert found[name].value[0, 2] == pytest.approx(value, abs=1e-12), name
    assert found["accuracy"].value == pytest.approx([1 - w.mean() for w in wrong])
    assert found["calibration_error"].value == pytest.approx(errors)
    reverse = np.mean((q * np.log(q / p)).sum(1))
    assert found["kl_divergence"].value[2, 0] == pytest.approx(reverse)
    assert found["calibration_difference"].value[2, 0] == pytest.approx(errors[0] - errors[2])


def test_matrices_are_symmetric_where_the_measure_is():
    found = measured(*classifiers())
    for name in ("disagreement", "error_overlap", "error_kappa", "js_divergence"):
        value = found[name].value
        assert np.array_equal(value, value.T)


def test_identical_networks_do_not_differ_at_all():
    outputs, target = classifiers(networks=1)
    found = measured([outputs[0], outputs[0].clone()], target)
    for name in ("disagreement", "normalized_disagreement", "js_divergence", "kl_divergence"):
        assert not found[name].value.any(), name
    for name in ("error_overlap", "error_kappa", "output_correlation"):
        assert found[name].value == pytest.approx(np.ones((2, 2)), abs=1e-12), name
    assert not found["calibration_difference"].value.any()
    assert not found["js_divergence"].high.any()


def test_networks_without_errors_have_no_overlap_of_them():
    target = torch.arange(12) % 3
    outputs = [scale * torch.nn.functional.one_hot(target, 3).double() for scale in (5, 9)]
    found = measured(outputs, target)
    assert found["disagreement"].value[0, 1] == 0
    for name in ("normalized_disagreement", "error_overlap", "error_kappa"):
        assert np.isnan(found[name].value[0, 1]), name


def test_independent_errors_have_kappa_zero():
    right = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]]).repeat(1, 10)
    target = torch.zeros(40, dtype=torch.long)
    outputs = [torch.stack([hits, 1 - hits], 1).double() for hits in right]
    assert measured(outputs, target)["error_kappa"].value[0, 1] == pytest.approx(0, abs=1e-15)


@pytest.mark.parametrize("sizes", [[(0, 100), (100, 300)], [(0, 1), (1, 299), (299, 300)]])
def test_any_split_into_batches_gives_the_same(sizes):
    outputs, target = classifiers()
    whole, split = measured(outputs, target), measured(outputs, target, sizes=sizes)
    for name in MEASURES:
        np.testing.assert_allclose(split[name].value, whole[name].value, atol=1e-13)
        np.testing.assert_allclose(split[name].low, whole[name].low, atol=1e-13)


def test_shares_have_wilsons_intervals_and_others_lie_around_the_value():
    outputs, target = classifiers()
    found = measured(outputs, target)
    hits = found["disagreement"].value * 300
    np.testing.assert_allclose(found["disagreement"].low, wilson(hits, 300).low, atol=1e-12)
    for name in ("error_overlap", "error_kappa", "js_divergence", "output_correlation"):
        one = found[name]
        assert one.low[0, 1] < one.value[0, 1] < one.high[0, 1], name


def test_the_bootstrap_of_a_mean_has_its_standard_error():
    outputs, target = classifiers()
    found = measured(outputs, target)["js_divergence"]
    log_p, log_q = (output.log_softmax(-1) for output in outputs[:2])
    each = js_divergence(log_p, log_q).numpy()
    half = (found.high[0, 1] - found.low[0, 1]) / 2
    assert half == pytest.approx(1.96 * each.std() / np.sqrt(300), rel=0.1)


def test_elements_left_out_do_not_count():
    outputs, target = classifiers()
    ignored = target.clone()
    ignored[::3] = -100
    kept = ignored != -100
    found = measured(outputs, ignored)
    alone = measured([output[kept] for output in outputs], target[kept])
    for name in MEASURES:
        np.testing.assert_allclose(found[name].value, alone[name].value, atol=1e-12)


def test_tokens_are_elements_of_their_text_and_drawn_with_it():
    outputs, target = classifiers()
    texts = [output.view(60, 5, 4).transpose(1, 2) for output in outputs]  # classes second
    found = measured(texts, target.view(60, 5))
    alone = measured(outputs, target)
    for name in MEASURES:
        np.testing.assert_allclose(found[name].value, alone[name].value, atol=1e-12)
    same = [output[:60, None].expand(60, 5, 4).transpose(1, 2) for output in outputs]
    repeated = measured(same, target[:60, None].expand(60, 5))["disagreement"]
    once = measured([output[:60] for output in outputs], target[:60])["js_divergence"]
    width = repeated.high[0, 1] - repeated.low[0, 1]
    share = repeated.value[0, 1]
    assert width == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 60), rel=0.2)
    assert once.value[0, 1] > 0


def test_binary_outputs_are_two_classes():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    target = torch.randint(2, (50,), generator=generator)
    found = measured(list(logits), target.double(), loss="bce")
    two = [torch.stack([torch.zeros(50), one], 1) for one in logits]
    expected = measured(two, target)
    for name in MEASURES.keys() - {"output_correlation"}:
        np.testing.assert_allclose(found[name].value, expected[name].value, atol=1e-12)
    correlation = np.corrcoef(logits.numpy())[0, 1]
    assert found["output_correlation"].value[0, 1] == pytest.approx(correlation)


def test_probabilities_of_zero_and_one_are_taken():
    loss = resolve_loss(torch.nn.BCELoss(), device=torch.device("cpu"))
    sums = PredictionSums(loss, 2)
    target = torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    given = [torch.tensor(p, dtype=torch.float64) for p in ([0, 1, 1, 0.5], [1, 0, 1, 0.5])]
    sums.update([Term(ZERO, 1.0, output, target) for output in given])
    found = sums.intervals()
    assert found["js_divergence"].value[0, 1] == pytest.approx(math.log(2) / 2)
    assert found["kl_divergence"].value[0, 1] == math.inf
    assert np.isnan(found["kl_divergence"].low[0, 1])
    assert found["kl_divergence"].value[0, 0] == 0


def test_of_other_outputs_only_the_correlation_is_known():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(2, 40, 3, generator=generator, dtype=torch.float64)
    found = measured(list(outputs), torch.zeros(40, 3), loss="mse")
    assert set(found) == {"output_correlation"}
    expected = np.corrcoef(outputs.flatten(1).numpy())[0, 1]
    assert found["output_correlation"].value[0, 1] == pytest.approx(expected)
    constant = [outputs[0], torch.full((40, 3), 0.1, dtype=torch.float64)]
    found = measured(constant, torch.zeros(40, 3), loss="mse")
    assert np.isnan(found["output_correlation"].value[0, 1])


def test_rounding_does_not_lift_a_correlation_above_one():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    scaled = [scale * outputs + scale for scale in np.linspace(0.1, 3, 12)]
    found = measured(scaled, torch.zeros(40, 3), loss="mse")["output_correlation"]
    assert found.value.max() == found.high.max() == 1.0


def test_without_outputs_there_is_nothing():
    sums = PredictionSums(LOSSES["mse"], 2)
    sums.update([Term(ZERO, 1.0)] * 2)
    assert sums.intervals() == {}


def test_too_many_pairs_are_said_before_memory_is_taken(monkeypatch):
    monkeypatch.setattr(page, "available_bytes", lambda device: 1000)
    outputs, target = classifiers()
    with pytest.raises(RequestError, match="6 pairs of networks need"):
        measured(outputs, target)


# -- divergences --------------------------------------------------------------------------------


def logs(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


def test_divergences_of_two_coins():
    p, q = logs(0.5, 0.5), logs(0.75, 0.25)
    assert float(kl_divergence(p, q)) == pytest.approx(0.5 * math.log(4 / 3))
    mean = np.array([0.625, 0.375])
    expected = sum(0.5 * (np.exp(x.numpy()) * (x.numpy() - np.log(mean))).sum() for x in (p, q))
    assert float(js_divergence(p, q)) == pytest.approx(expected)


def test_certain_opposites_are_log_two_apart_and_infinitely_divergent():
    p, q = logs(1.0, 0.0, 0.0), logs(0.0, 1.0, 0.0)
    assert float(js_divergence(p, q)) == pytest.approx(math.log(2))
    assert float(kl_divergence(p, q)) == math.inf
    assert float(kl_divergence(p, p)) == float(js_divergence(p, p)) == 0


def test_probabilities_below_the_smallest_number_keep_their_divergence():
    p, q = torch.tensor([[0.0, -2000.0], [-2000.0, 0.0]], dtype=torch.float64)
    assert float(js_divergence(p, q)) == pytest.approx(math.log(2))
    assert float(kl_divergence(p, q)) == pytest.approx(2000)


def test_of_near_ones_it_is_an_eighth_of_the_squared_distance():
    p = torch.tensor([0.1, -0.4, 0.3], dtype=torch.float64).log_softmax(-1)
    step = 1e-4 * torch.tensor([1.0, 0.5, -2.0], dtype=torch.float64)
    q = (p + step).log_softmax(-1)
    fisher = float((p.exp() * (q - p) ** 2).sum())
    assert float(js_divergence(p, q)) == pytest.approx(fisher / 8, rel=1e-3)
