"""The figure of a comparison: each number in its place, with its interval, for two and for more."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.collections import LineCollection, QuadMesh

import landscape as ls
from landscape import figures, store
from landscape.errors import RequestError
from landscape.similarity.bootstrap import Intervals
from landscape.similarity.comparison import Similarity
from landscape.similarity.distances import WeightDistances

LAYERS = ("conv", "fc")
CROSS = np.array([[0.9, 0.2], [0.3, 0.8]])


def intervals(values, radius=0.05):
    values = np.asarray(values, float)
    return Intervals(values, values - radius, values + radius)


def symmetric(count, *entries):
    """(count, count, len(entries)): entry + number of the pair / 100; 0 on the diagonal."""
    found = np.zeros((count, count, len(entries)))
    for number, (i, j) in enumerate(zip(*np.triu_indices(count, 1), strict=True)):
        found[i, j] = found[j, i] = np.asarray(entries) + number / 100
    return found


def make(count=2, *, answers=True, layers=LAYERS, groups=("(all)", "conv", "fc")):
    cka = symmetric(count, *np.linspace(0.9, 0.8, len(layers)))
    cka[np.arange(count), np.arange(count)] = 1.0
    angle = symmetric(count, *np.pi * np.linspace(0.5, 0.3, len(groups)))
    weights = WeightDistances(
        groups, angle, np.cos(angle), symmetric(count, *[3.0] * len(groups)),
        symmetric(count, *[1.25] * len(groups)),
    )  # fmt: skip
    predictions = {
        "accuracy": intervals(np.linspace(0.9, 0.8, count), 0.01),
        "disagreement": intervals(symmetric(count, 0.2)[..., 0]),
        "error_kappa": intervals(symmetric(count, -0.1)[..., 0]),
        "js_divergence": intervals(symmetric(count, 0.3)[..., 0], 0.1),
    }
    return Similarity(
        settings={},
        networks=tuple("abcdefgh"[:count]),
        layers=layers,
        cka=intervals(cka),
        cross_layer_cka=(CROSS.copy() if len(layers) == 2 else np.eye(len(layers)))
        if count == 2
        else None,
        weights=weights,
        scale_invariant_angle=None,
        predictions=predictions if answers else {},
    )


def panel(figure, title):
    (found,) = [one for one in figure.axes if one.get_title("left") == title]
    return found


def cells(axis):
    (mesh,) = [one for one in axis.collections if isinstance(one, QuadMesh)]
    return np.asarray(mesh.get_array().filled(np.nan))


def dots(axis, marker="o"):
    return [one.get_xydata().tolist() for one in axis.lines if one.get_marker() == marker]


def bars(axis):
    return [
        segment[:, 0].tolist()
        for one in axis.collections
        if isinstance(one, LineCollection)
        for segment in one.get_segments()
    ]


def rows(axis):
    return [text.get_text() for text in axis.get_yticklabels()]


def caption(figure):
    return figure.legends[0].get_title().get_text().replace("\n", " ").replace("\xa0", " ")


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_of_two_networks_every_layer_is_held_against_every_other(fits_its_sheet):
    figure = figures.similarity(make())
    axis = panel(figure, "CKA between layers")
    np.testing.assert_array_equal(cells(axis), CROSS)
    assert rows(axis) == list(LAYERS)
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("layer of b", "layer of a")
    assert {text.get_position(): text.get_text() for text in axis.texts}[1.5, 0.5] == "0.2"
    assert figure.get_suptitle() == "Similarity of a and b"
    fits_its_sheet(figure)


def test_of_more_networks_pairs_are_held_against_each_other(fits_its_sheet):
    figure = figures.similarity(make(3))
    values = cells(panel(figure, "CKA, mean over the layers"))
    np.testing.assert_allclose(values[[0, 0, 1], [1, 2, 2]], [0.85, 0.86, 0.87])
    np.testing.assert_allclose(np.diag(values), 1)
    assert figure.get_suptitle() == "Similarity of 3 networks"
    fits_its_sheet(figure)


def test_the_same_layer_has_its_cka_with_an_interval():
    axis = panel(figures.similarity(make()), "same layer of both")
    np.testing.assert_allclose(dots(axis), [[[0.9, 0]], [[0.8, 1]]])
    np.testing.assert_allclose(bars(axis), [[0.85, 0.95], [0.75, 0.85]])
    assert rows(axis) == list(LAYERS)


def test_answers_have_intervals_and_divergences_an_axis_of_their_own():
    figure = figures.similarity(make())
    axis = panel(figure, "answers")
    assert rows(axis) == ["accuracy of a", "accuracy of b", "disagreement", "kappa of errors"]
    np.testing.assert_allclose(dots(axis), [[[0.9, 0]], [[0.8, 1]], [[0.2, 2]], [[-0.1, 3]]])
    wanted = [[0.89, 0.91], [0.79, 0.81], [0.15, 0.25], [-0.15, -0.05]]
    np.testing.assert_allclose(bars(axis), wanted)
    assert axis.get_xlim()[0] < -0.15
    nats = panel(figure, "divergence of the probabilities")
    assert (nats.get_xlabel(), rows(nats)) == ("nat", ["Jensen-Shannon"])
    np.testing.assert_allclose(dots(nats), [[[0.3, 0]]])
    np.testing.assert_allclose(bars(nats), [[0.2, 0.4]])
    assert "95 % interval" in [name.replace("\xa0", " ") for name in legend(figure)]


def test_weights_have_angles_and_distances_group_by_group():
    axis = panel(figures.similarity(make()), "weights")
    assert rows(axis) == ["all weights", "conv", "fc"]
    np.testing.assert_allclose(dots(axis, "o"), [[[0.5, 0]], [[0.4, 1]], [[0.3, 2]]])
    np.testing.assert_allclose(dots(axis, "D"), [[[1.25, 0]], [[1.25, 1]], [[1.25, 2]]])


def test_every_pair_of_several_networks_has_a_dot_and_all_a_mean():
    figure = figures.similarity(make(3))
    axis = panel(figure, "answers")
    assert rows(axis) == ["accuracy", "disagreement", "kappa of errors"]
    places = dict(zip(rows(axis), dots(axis), strict=True))
    np.testing.assert_allclose(places["disagreement"], [[0.2, 1], [0.21, 1], [0.22, 1]])
    means = dict(zip(rows(axis), dots(axis, "|"), strict=True))
    np.testing.assert_allclose(means["disagreement"], [[0.21, 1]])
    assert not bars(axis)
    assert "mean over the pairs" in legend(figure)


def test_the_headline_is_in_words():
    text = caption(figures.similarity(make()))
    assert "mean over the layers 0.85; disagreement 0.2; angle between all weights 0.5 π" in text
    assert "distance 3. Intervals" in text


@pytest.mark.parametrize("count", [2, 3])
def test_without_classes_there_are_no_answers(count, fits_its_sheet):
    figure = figures.similarity(make(count, answers=False))
    assert "answers" not in [one.get_title("left") for one in figure.axes]
    assert panel(figure, "weights").get_subplotspec().colspan.stop == 2
    assert "disagreement" not in caption(figure)
    fits_its_sheet(figure)


@pytest.mark.parametrize("count", [2, 5])
def test_a_deep_network_fits(count, fits_its_sheet):
    layers = tuple(f"layer{index // 8}.{index % 8}.conv" for index in range(60))
    fits_its_sheet(figures.similarity(make(count, layers=layers, groups=("(all)", *layers))))


def test_what_has_no_value_is_hatched_or_left_out(tmp_path):
    record = make()
    for held in (record.cka.value, record.cka.low, record.cka.high):
        held[..., 1] = np.nan
    record.cross_layer_cka[1] = np.nan
    record.weights.angle[..., 2] = np.nan
    figure = figures.similarity(record)
    figure.savefig(tmp_path / "figure.png")
    assert "no finite value" in legend(figure)
    hatched = [one for one in panel(figure, "CKA between layers").patches if one.get_hatch()]
    assert len(hatched) == 2


@pytest.mark.parametrize("count", [2, 3])
def test_a_stored_comparison_gives_the_same_figure(count, tmp_path):
    (group,) = ls.save(tmp_path / "r.h5", make(count))
    direct = figures.similarity(make(count))
    stored = figures.similarity(store.read(tmp_path / "r.h5", group))
    assert (legend(direct), caption(direct)) == (legend(stored), caption(stored))
    assert dots(panel(direct, "answers")) == dots(panel(stored, "answers"))


def test_a_line_compares_no_networks(line_sweep):
    with pytest.raises(RequestError, match="--probe similarity"):
        figures.similarity(line_sweep())
