"""Task vectors: arithmetic in closed form, cosines, exact ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.merging.task_vectors import combined, cosines, task_arithmetic, task_vector
from landscape.objective import Objective


def regression(dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs, targets = (
        torch.randn(shape, generator=generator, dtype=dtype) for shape in [(20, 4), (20, 1)]
    )
    return Objective(nn.Linear(4, 1, bias=False, dtype=dtype), (inputs, targets), "mse")


def points(k, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(k, 4, generator=generator, dtype=torch.float64).to(dtype)


def test_a_task_that_is_added_to_its_base_gives_its_network_back():
    base, theta = points(2, torch.float32)
    assert torch.equal(combined(base, [task_vector(theta, base)], [1]), theta)
    assert torch.equal(combined(base, [task_vector(theta, base)], [0]), base)


def test_combinations_are_weighted_sums():
    base, one, other = points(3)
    vectors = [task_vector(one, base), task_vector(other, base)]
    expected = base - 0.5 * (one - base) + 2 * (other - base)
    torch.testing.assert_close(combined(base, vectors, [-0.5, 2]), expected)


def test_cosines_are_those_of_the_vectors():
    vectors = torch.tensor([[3.0, 4.0], [4.0, -3.0], [-6.0, -8.0], [0.0, 0.0]])
    expected = [[1, 0, -1], [0, 1, 0], [-1, 0, 1]]
    np.testing.assert_allclose(cosines(vectors)[:3, :3], expected, atol=1e-15)
    assert np.isnan(cosines(vectors)[3]).all()


def test_losses_of_a_quadratic_are_a_parabola_in_the_coefficient():
    objective = regression()
    base, *thetas = points(3)
    scales = np.linspace(-1, 1, 5)
    found = task_arithmetic(objective, base, thetas, scales)
    assert np.allclose(np.diff(found.losses, 3), 0, atol=1e-12)
    step = (thetas[0] + thetas[1] - 2 * base).double()
    expected = objective.losses(torch.stack([base + c * step for c in scales]))
    np.testing.assert_allclose(found.losses, expected, rtol=1e-12)
    np.testing.assert_array_equal(found.coefficients, np.stack([scales, scales], 1))


def test_ends_are_exact_and_errors_paired():
    objective, test = regression(torch.float32), regression(torch.float32, seed=4)
    base, *thetas = points(3, torch.float32)
    found = task_arithmetic(objective, base, thetas, [[1, 0], [0, 1]], also={"test": test})
    for index, theta in enumerate(thetas):
        assert found.losses[index] == pytest.approx(objective.loss(theta), rel=1e-6)
        assert found["test"].losses[index] == pytest.approx(test.loss(theta), rel=1e-6)
        difference = (objective.per_example(theta) - objective.per_example(base)).double()
        error = float(difference.std()) / math.sqrt(20)
        assert found[""].errors[index] == pytest.approx(error, rel=1e-5)
    assert found[""].base_loss == pytest.approx(objective.loss(base), rel=1e-6)
    np.testing.assert_allclose(
        found.norms, [(t.double() - base.double()).norm() for t in thetas], rtol=1e-12
    )


def test_the_record_runs_along_combinations_and_tasks():
    objective = regression()
    base, *thetas = points(3)
    found = task_arithmetic(objective, base, thetas, [0.5, 1], also={"kept": regression(seed=2)})
    dataset = found.to_dataset()
    assert dataset["kept_loss"].dims == ("combination",)
    assert dataset["cosine"].shape == (2, 2)
    assert float(dataset["base_loss"]) == pytest.approx(objective.loss(base))
    assert all({"units", "long_name"} <= set(one.attrs) for one in dataset.data_vars.values())
    assert found.status == "converged"


def test_what_does_not_fit_is_refused():
    objective = regression()
    base, *thetas = points(3)
    with pytest.raises(RequestError, match=r"\(P, 2\)"):
        task_arithmetic(objective, base, thetas, [[1, 2, 3]])
    with pytest.raises(RequestError, match="not finite"):
        task_arithmetic(objective, base, thetas, [math.nan])
    with pytest.raises(RequestError, match="one network"):
        task_vector(base, base[:3])
    with pytest.raises(RequestError, match="1 coefficients for 2"):
        combined(base, thetas, [1])
