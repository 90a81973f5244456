import numpy as np
import pytest
from oracles_nearest_neighbour import correct_of, exact_memorization, ranking, uniform_masks
from scipy import stats

from landscape.errors import RequestError
from landscape.probes.subsets.c_score import c_score
from landscape.probes.subsets.memorization import memorization
from landscape.probes.subsets.subset_runs import SubsetRuns


def nearest_runs(size, num_models=60, n=50, **given):
    generator = np.random.default_rng(0)
    points, labels = generator.normal(size=(n, 2)), generator.integers(0, 3, n)
    masks = uniform_masks(np.random.default_rng(size), num_models, n, size)
    runs = SubsetRuns(masks, correct_of(ranking(points), labels, labels, masks), **given)
    return runs, exact_memorization(points, labels, size)


def test_memorization_and_c_score_add_up_to_the_accuracy_on_what_was_seen():
    runs, _ = nearest_runs(25)
    memory, score = memorization(runs), c_score({0.5: runs})
    np.testing.assert_allclose(memory.value + score.value[0], memory.accuracy_in, atol=1e-15)
    np.testing.assert_array_equal(score.integrated, score.value[0])
    np.testing.assert_allclose(score.integrated_lower, score.lower[0])


def test_intervals_cover_the_exact_score_of_the_nearest_neighbour_rule():
    sizes = {0.2: 10, 0.5: 25, 0.8: 40}
    runs, exact = {}, []
    for ratio, size in sizes.items():
        runs[ratio], memory = nearest_runs(size, 300)
        exact.append(1 - memory)
    found = c_score(runs)
    covered = (found.lower <= exact) & (exact <= found.upper)
    assert 0.92 < covered.mean() < 0.99
    mean = np.mean(exact, axis=0)
    inside = (found.integrated_lower <= mean) & (mean <= found.integrated_upper)
    assert 0.9 < inside.mean() <= 1
    assert found.ratios.tolist() == [0.2, 0.5, 0.8]
    assert found.num_out.mean(1) == pytest.approx([240, 150, 60])


def test_the_integrated_interval_covers_as_often_as_it_says():
    chances, counts = np.array([0.9, 0.6, 0.97]), np.array([30, 20, 10])
    generator = np.random.default_rng(0)
    runs = {}
    for ratio, chance, count in zip((0.25, 0.5, 0.75), chances, counts, strict=True):
        masks = np.zeros((40, 3000), dtype=bool)
        masks[: 40 - count] = True
        # Ratios of these masks are 1/4, 1/2, 3/4.
        runs[ratio] = SubsetRuns(masks, generator.random((40, 3000)) < chance)
    found = c_score(runs)
    covered = (found.integrated_lower <= chances.mean()) & (
        chances.mean() <= found.integrated_upper
    )
    assert 0.94 < covered.mean() < 0.98
    width = (found.integrated_upper - found.integrated_lower).mean()
    normal = 2 * stats.norm.ppf(0.975) * np.sqrt((chances * (1 - chances) / counts).sum()) / 3
    assert width == pytest.approx(normal, rel=0.25)


def test_an_example_that_was_never_left_out_has_no_score():
    runs = SubsetRuns([[1, 0], [1, 0]], [[1, 1], [1, 0]])
    found = c_score({0.5: runs})
    assert np.isnan(found.value[0]).tolist() == [True, False]
    assert np.isnan(found.integrated_upper).tolist() == [True, False]
    assert found.value[0, 1] == 0.5


def test_wrong_requests_are_refused():
    runs, _ = nearest_runs(25)
    with pytest.raises(RequestError, match="there are no runs"):
        c_score({})
    with pytest.raises(RequestError, match="10 examples, the first have 50"):
        c_score({0.2: nearest_runs(10)[0], 0.5: runs.select(examples=range(10))})
    with pytest.raises(RequestError, match=r"saw 0\.5 of the examples"):
        c_score({0.7: runs})
    one, _ = nearest_runs(10, provenance={"example_hash": "a"})
    two, _ = nearest_runs(25, provenance={"example_hash": "b"})
    with pytest.raises(RequestError, match="another example_hash"):
        c_score({0.2: one, 0.5: two})
