import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.probes.copies.copies import Copies
from landscape.probes.copies.matching import first_time_above, match_times


def with_counts(rows, copies=10, **named):
    """Copies of which the first `rows[t][k]` are right on object k at time t."""
    counts = np.asarray(rows)
    return Copies(np.arange(copies)[None, :, None] < counts[:, None], **named)


def growing(shares, objects=4):
    return with_counts([[10 * s] * objects for s in shares], times=np.arange(len(shares)) * 2.0)


def test_a_shifted_curve_is_matched_at_the_shifted_times():
    curve = [0.1, 0.2, 0.4, 0.5, 0.8, 0.9]
    matching = match_times(growing(curve), growing([0.0, 0.0, *curve]))
    assert matching.indices.tolist() == [2, 3, 4, 5, 6, 7]
    assert matching.times.tolist() == [0, 2, 4, 6, 8, 10]
    assert matching.matched.tolist() == [4, 6, 8, 10, 12, 14]
    assert matching.mismatch.tolist() == [0] * 6
    assert matching.distance.tolist() == [0] * 6


def test_what_has_no_equal_keeps_its_mismatch_with_its_sign():
    matching = match_times(growing([0.1, 0.5, 0.9]), growing([0.2, 0.6]))
    assert matching.indices.tolist() == [0, 1, 1]
    np.testing.assert_allclose(matching.mismatch, [0.1, 0.1, -0.3], atol=1e-12)
    np.testing.assert_allclose(matching.distance, [0.1, 0.1, 0.3], atol=1e-12)


def test_of_several_nearest_times_the_first_is_taken():
    assert match_times(growing([0.5]), growing([0.4, 0.4, 0.6, 0.6])).indices.tolist() == [0]


def test_equal_means_may_be_of_unequal_curves():
    equal, split = with_counts([[5, 5, 5, 5]]), with_counts([[10, 0, 10, 0]])
    matching = match_times(equal, split)
    assert matching.mismatch[0] == 0
    assert matching.distance[0] == pytest.approx(0.5)


def test_the_distance_is_that_of_the_sorted_curves_and_takes_other_numbers_of_objects():
    rng = np.random.default_rng(0)
    a, b = (Copies(rng.random((1, 7, 30, 3)) < p) for p in (0.3, 0.4))
    expected = np.abs(np.sort(a.learnability[0]) - np.sort(b.learnability[0])).mean()
    assert match_times(a, b).distance[0] == pytest.approx(expected, rel=1e-12)
    twice = Copies(np.concatenate([b.correct, b.correct], axis=2))
    assert match_times(a, twice).distance[0] == pytest.approx(expected, rel=1e-12)


def test_the_first_time_above_a_level_is_strictly_above_it():
    copies = growing([0.2, 0.5, 0.4, 0.6, 0.9])
    found = first_time_above(copies, [0.25, 0.5, 0.75, 0.9])
    np.testing.assert_array_equal(found, [2, 6, 8, np.nan])
    np.testing.assert_array_equal(first_time_above(copies), [2, 6, 8])


def test_a_level_that_is_no_share_is_refused():
    with pytest.raises(RequestError, match="levels"):
        first_time_above(growing([0.2]), [25])
