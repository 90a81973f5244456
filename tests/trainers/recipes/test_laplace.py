import numpy as np
import pytest

from landscape.trainers.execution import train
from landscape.trainers.recipes.laplace import GRID

SHORT = {"pretrain_epochs": 1, "epochs": 4, "num_examples": 40, "num_members": 3, "num_scratch": 0}


@pytest.fixture(scope="module", autouse=True)
def _no_recording():
    # To trace a graph takes longer than the few steps of these tests.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landscape.trainers.gradients._recorded", lambda *_: (None, 0))
        yield


def test_the_prior_of_the_greatest_evidence_is_taken(tmp_path):
    family = train("laplace", tmp_path / "out", **SHORT)
    evidence = family.group("evidence")["log_evidence"]
    np.testing.assert_allclose(evidence["prior_precision"], GRID)
    values = evidence.values
    best = int(values.argmax())
    assert 0 < best < len(GRID) - 1
    # It rises to its maximum, and falls behind it.
    assert (np.diff(values[: best + 1]) > 0).all()
    assert (np.diff(values[best:]) < 0).all()
    given = train("laplace", tmp_path / "given", prior_precision=GRID[best], **SHORT)
    distances = [one.group("ensemble")["distance"].values for one in (family, given)]
    np.testing.assert_array_equal(*distances)


def test_a_given_prior_is_taken_and_a_hundred_times_the_precision_is_a_tenth_as_far(tmp_path):
    distances = []
    for precision in (1e8, 1e10):  # far above the curvature, so that the prior alone decides
        family = train("laplace", tmp_path / f"{precision}", prior_precision=precision, **SHORT)
        assert len(family.group("evidence")["log_evidence"]) == 1
        distances.append(family.group("ensemble")["distance"].values[1:3])
    np.testing.assert_allclose(distances[0], 10 * distances[1], rtol=0.01)


@pytest.mark.slow
def test_the_headers_numbers_hold(tmp_path):
    cold = train("laplace", tmp_path / "cold").group("ensemble")
    true = train("laplace", tmp_path / "true", temperature=1).group("ensemble")
    assert float(cold["ensemble_test_accuracy"]) > 0.92
    assert float(true["test_accuracy"][1:-1].mean()) < 0.6
