"""The record of a sweep: read by name, kept in a file to the bit, put together from shards."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
import xarray as xr
from oracles import MLP, network

from landscape import store
from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.slices.directions import random_directions
from landscape.slices.execution import Execution
from landscape.slices.options import SweepOptions
from landscape.slices.quadratic import Quadratic
from landscape.slices.sweep import AXES, Sweep, evident, merge
from landscape.slices.sweeping import grid, line, lines, plane

PAYLOAD = np.frombuffer(np.uint64(0x7FF8DEADBEEF0001).tobytes())[0]  # a NaN with a message
PLAIN = SweepOptions(execution=Execution("batched", chunk=4), caveats=False)
EVERY_FIELD = ("loss", "accuracy", "class_loss", "class_accuracy", "penalty", "gradient_norm")
EVERY_FIELD += ("slope",)

CURVATURE = np.array([[3.0, 0.5], [0.5, 1.0]])


def made(**changes):
    """A plane (3, 2) with values that a file could spoil, and everything else that there can be."""
    loss = np.array([[1.0, PAYLOAD], [np.inf, -0.0], [5e-324, 1 / 3]])
    return Sweep(
        **{
            "kind": "plane",
            "coordinates": (np.array([-1.0, 0.0, 1 / 3]), np.array([0.0, 2.0])),
            "fields": {
                "loss": loss,
                "standard_error": np.full((3, 2), np.nan),
                "class_loss": loss[..., None].repeat(4, axis=-1),
                "slope": np.arange(12.0).reshape(3, 2, 2),
            },
            "done": np.array([[True, True], [True, True], [False, True]]),
            "direction_names": ("random, seed 0, #1", "towards B"),
            "direction_norms": np.array([2.0, 0.5]),
            "cosines": np.array([[1.0, 0.25], [0.25, 1.0]]),
            "center_loss": 0.75,
            "center_error": 0.125,
            "caveats": {"stale_bn_gap": 0.5, "clipped_share": 1 / 6},
            "marks": {"A": (0.0, 0.0), "ein Ü": (1.0, -0.0)},
            "quadratic": Quadratic(0.75, np.array([1.0, -2.0]), CURVATURE, 1e-17),
            "vectors": torch.arange(10.0, dtype=torch.float64).view(2, 5),
            "recipes": ({"kind": "random", "seed": 0}, {"kind": "towards"}),
            "settings": {"num": [3, 2], "clip": 9.0, "seed": 3},
            "provenance": {"loss": "mse"},
            "notes": ("a note",),
            "wall_time": 1.5,
            "num_products": 2,
        }
        | changes
    )


def small_objective(**options):
    model, inputs, targets = network(MLP, num=12)
    return Objective(model, (inputs, targets), **options)


def same(first, second):
    """Equal to the bit, arrays and what holds them."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and first.tobytes() == second.tobytes()
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if dataclasses.is_dataclass(first):
        return all(same(getattr(first, f.name), getattr(second, f.name))
                   for f in dataclasses.fields(first))  # fmt: skip
    return first == second


# -- reading ------------------------------------------------------------------------------------


def test_fields_are_read_by_item_and_by_attribute():
    sweep = made()
    for name, values in sweep.fields.items():
        assert sweep[name] is values
        assert getattr(sweep, name) is values
    assert sweep.loss is sweep.fields["loss"]
    assert sweep.standard_error is sweep.fields["standard_error"]


def test_an_unknown_field_names_those_that_there_are():
    sweep = made()
    with pytest.raises(RequestError, match=r"'class_los'.* Did you mean 'class_loss'"):
        sweep["class_los"]
    with pytest.raises(AttributeError, match="no field 'lossy'; it has: loss, standard_error"):
        _ = sweep.lossy
    assert not hasattr(sweep, "__array__")


def test_a_standard_error_that_nobody_measured_is_nan():
    sweep = made(fields={"loss": np.zeros((3, 2))})
    assert sweep.standard_error.shape == (3, 2)
    assert np.isnan(sweep.standard_error).all()


@pytest.mark.parametrize(
    ("kind", "num_axes", "axes"),
    [
        ("line", 1, ("a",)),
        ("plane", 2, ("a", "b")),
        ("grid", 4, ("a", "b", "c", "d")),
        ("grid", 6, AXES),
        ("lines", 2, ("direction", "a")),
    ],
)
def test_axes_and_shape_follow_the_kind(kind, num_axes, axes):
    sweep = made(kind=kind, coordinates=tuple(np.zeros(n) for n in range(1, num_axes + 1)))
    assert sweep.axes == axes
    assert sweep.shape == tuple(range(1, num_axes + 1))
    assert sweep.probe == kind


def test_nan_is_counted_where_it_was_measured():
    assert made().num_nan == 1
    done = np.zeros((3, 2), dtype=bool)
    assert made(done=done).num_nan == 0


def test_the_status_says_what_is_missing():
    loss = np.array([[1.0, np.nan], [np.inf, np.nan], [np.nan, 2.0]])
    done = np.array([[True, True], [True, False], [False, False]])
    sweep = made(fields={"loss": loss}, done=done)
    assert sweep.status == "2 of 6 points missing"  # one is NaN and done, one is filled in
    assert made(fields={"loss": loss}, done=np.ones((3, 2), dtype=bool)).status == "converged"


def test_the_repr_is_one_short_line():
    loss = np.array([[0.5, np.nan], [np.inf, 12345.678], [1.0, 2.0]])
    assert repr(made(fields={"loss": loss})) == (
        "Sweep(plane, 3 x 2 points along random, seed 0, #1 and towards B: "
        "loss 0.5 to 1.235e+04, converged)"
    )
    nowhere = made(fields={"loss": np.full((3, 2), np.nan)})
    assert "nowhere finite" in repr(nowhere)
    objective = small_objective()
    many = lines(objective, random_directions(objective, 5), 3, options=PLAIN)
    assert len(repr(many)) < 180
    assert "\n" not in repr(many)
    assert "#2, ...: loss" in repr(many)
    assert "#3" not in repr(many)


# -- copies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda sweep: pickle.loads(pickle.dumps(sweep))]
)
def test_copies_are_the_same_to_the_bit(copied):
    sweep = made()
    other = copied(sweep)
    assert other is not sweep
    assert same(sweep, other)
    assert repr(other) == repr(sweep)
    with pytest.raises(AttributeError, match="no field"):
        _ = other.lossy


def test_a_deep_copy_shares_nothing():
    sweep = made()
    other = copy.deepcopy(sweep)
    other.loss[0, 0] = other.vectors[0, 0] = 77.0
    assert sweep.loss[0, 0] == 1.0
    assert sweep.vectors[0, 0] == 0.0


def test_a_measured_sweep_can_be_pickled():
    objective = small_objective()
    sweep = plane(objective, random_directions(objective, 2), (3, 2), options=PLAIN)
    assert same(sweep, pickle.loads(pickle.dumps(sweep)))


def test_it_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        made().kind = "line"
    with pytest.raises(dataclasses.FrozenInstanceError):
        made().loss = np.zeros(3)


# -- as a dataset -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    """A sweep of each kind, with every field, further data and a metric."""
    objective = small_objective()
    directions = random_directions(objective, 3)
    metrics = {"focal_loss": lambda output, target: output.square().mean(1)}
    options = dataclasses.replace(
        PLAIN,
        metrics=metrics,
        penalty=lambda theta: theta.square().sum(),
        stop_error=1e-9,
        quadratic=True,
        caveats=True,
    )
    other = {"also": {"test": small_objective()}, "fields": EVERY_FIELD, "options": options}
    return {
        "line": line(objective, directions[0], 3, **other),
        "lines": lines(objective, directions, 4, **other),
        "plane": plane(objective, directions[:2], (3, 2), **other),
        "grid": grid(objective, directions, (2, 3, 1), **other),
    }


def test_every_variable_has_a_unit_and_a_meaning_and_the_axes_of_the_grid(measured):
    for sweep in (made(), *measured.values()):
        dataset = sweep.to_dataset(vectors=True)
        for name, variable in dataset.variables.items():
            assert isinstance(variable.attrs["units"], str), name
            assert variable.attrs["units"], name
            assert variable.attrs["long_name"], name
            assert len(set(variable.dims)) == len(variable.dims), name
        assert dataset["loss"].dims == dataset["done"].dims == sweep.axes
        for name, values in sweep.fields.items():
            assert dataset[name].dims[: len(sweep.axes)] == sweep.axes
            np.testing.assert_array_equal(dataset[name], values)
        for name, values in zip(sweep.axes, sweep.coordinates, strict=True):
            np.testing.assert_array_equal(dataset[name], values)
        assert dataset.sizes["parameter"] == sweep.vectors.shape[1]
        assert "direction_vector" not in sweep.to_dataset()


def test_dimensions_say_what_a_field_has_a_value_for(measured):
    one, several, two, three = (sweep.to_dataset() for sweep in measured.values())
    for prefix in ("", "test_"):
        assert two[f"{prefix}class_loss"].dims == ("a", "b", "class")
        assert two[f"{prefix}class_accuracy"].dims == ("a", "b", "class")
        assert two[f"{prefix}slope"].dims == ("a", "b", "direction")
        assert two[f"{prefix}focal_loss"].dims == ("a", "b")
        assert one[f"{prefix}slope"].dims == ("a", "direction")
        assert three[f"{prefix}slope"].dims == ("a", "b", "c", "direction")
        assert several[f"{prefix}slope"].dims == ("direction", "a", "other_direction")
        assert several[f"{prefix}class_loss"].dims == ("direction", "a", "class")
    assert two.sizes["class"] == 3
    assert one.sizes["direction"] == 1
    assert several["cosine"].dims == several["center_curvature"].dims
    assert several["cosine"].dims == ("direction", "other_direction")


def test_units_and_meanings_are_those_of_the_field_and_its_data(measured):
    dataset = measured["plane"].to_dataset()
    units = {name: variable.attrs["units"] for name, variable in dataset.variables.items()}
    words = {name: variable.attrs["long_name"] for name, variable in dataset.variables.items()}
    for name in ("loss", "standard_error", "subset_error", "class_loss", "penalty", "slope"):
        assert units[name] == units[f"test_{name}"] == "loss"
        assert words[f"test_{name}"] == f"{words[name]} (test)"
        assert "(" not in words[name]
    for name in ("accuracy", "class_accuracy", "num_examples"):
        assert units[name] == units[f"test_{name}"] == "1"
    assert units["gradient_norm"] == "loss / parameter"
    assert words["class_loss"] == "loss of the examples of a class"
    for name in ("focal_loss", "test_focal_loss"):  # a metric, whatever it is called
        assert (units[name], words[name]) == ("1", name.replace("_", " "))
    for name in ("center_loss", "center_error", "smallest_loss", "largest_loss"):
        assert units[name] == "loss"
    assert units["nan_points"] == units["clipped_share"] == units["max_cosine"] == "1"
    assert (units["a"], units["b"]) == ("d1", "d2")
    assert words["b"].startswith("along random, filter-normalised, seed 0, #2 (||d|| = ")


def test_the_axis_of_several_lines_is_in_units_of_each_direction(measured):
    dataset = measured["lines"].to_dataset()
    assert dataset["a"].attrs["units"] == "d"
    assert dataset["a"].attrs["long_name"] == "along each direction d"
    assert dataset["direction"].values.tolist() == [0, 1, 2]


def test_scalars_are_what_they_say():
    dataset = made().to_dataset()
    wanted = {
        "center_loss": 0.75,
        "center_error": 0.125,
        "smallest_loss": 0.0,
        "largest_loss": 1.0,
        "nan_points": 1.0,
        "stale_bn_gap": 0.5,
        "clipped_share": 1 / 6,
    }
    scalars = {name: float(variable) for name, variable in dataset.items() if not variable.dims}
    assert scalars == wanted
    np.testing.assert_array_equal(dataset["center_slope"], [1.0, -2.0])
    np.testing.assert_array_equal(dataset["center_curvature"], [[3.0, 0.5], [0.5, 1.0]])
    assert dataset["center_curvature"].attrs["asymmetry"] == 1e-17
    nowhere = made(fields={"loss": np.full((3, 2), np.inf)}).to_dataset()
    assert np.isnan(nowhere["smallest_loss"])
    assert np.isnan(nowhere["largest_loss"])


def test_marks_and_directions_are_named():
    dataset = made().to_dataset()
    assert dataset["mark"].values.tolist() == ["A", "ein Ü"]
    np.testing.assert_array_equal(dataset["mark_place"].sel(mark="ein Ü"), [1.0, 0.0])
    assert dataset.attrs["direction_names"].split("\n") == ["random, seed 0, #1", "towards B"]
    assert dataset["a"].attrs["long_name"] == "along random, seed 0, #1 (||d|| = 2)"
    assert dataset["b"].attrs["long_name"] == "along towards B (||d|| = 0.5)"
    bare = made(marks={}, quadratic=None).to_dataset()
    assert not {"mark", "mark_place", "center_slope", "center_curvature"} & set(bare.variables)


def test_vectors_narrower_than_float32_are_kept_as_float32():
    narrow = made(vectors=torch.ones(2, 5, dtype=torch.bfloat16)).to_dataset(vectors=True)
    assert narrow["direction_vector"].dtype == np.float32
    assert made().to_dataset(vectors=True)["direction_vector"].dtype == np.float64
    assert "direction_vector" not in made(vectors=None).to_dataset(vectors=True)


# -- in a file ----------------------------------------------------------------------------------


def test_a_file_gives_back_every_bit(tmp_path, measured):
    for sweep in (made(), measured["plane"], measured["lines"]):
        path = tmp_path / "results.h5"
        (group,) = store.save(path, sweep, vectors=True)
        read, wanted = store.read(path, group), sweep.to_dataset(vectors=True)
        assert set(read.variables) == set(wanted.variables)
        for name, variable in wanted.variables.items():
            found = read.variables[name]
            assert found.dims == variable.dims
            if variable.dtype.kind in "fb":
                assert found.dtype == variable.dtype, name
                assert found.values.tobytes() == variable.values.tobytes(), name
            else:
                assert found.values.tolist() == variable.values.tolist(), name
            for attribute, value in variable.attrs.items():
                assert found.attrs[attribute] == value
        assert read.attrs["direction_names"] == wanted.attrs["direction_names"]
        assert read.attrs["status"] == sweep.status


def test_the_file_counts_nan_and_holds_no_vectors_unless_asked(tmp_path):
    (group,) = store.save(tmp_path / "a.h5", made())
    read = store.read(tmp_path / "a.h5", group)
    assert group.startswith("/plane/")
    assert "direction_vector" not in read
    assert read["loss"].attrs["num_nan"] == 1
    assert read["done"].dtype == bool


def test_xarray_alone_opens_the_record(tmp_path):
    (group,) = store.save(tmp_path / "a.h5", made())
    with xr.open_dataset(tmp_path / "a.h5", group=group, engine="h5netcdf") as read:
        np.testing.assert_array_equal(read["loss"], made().loss)
        assert read["loss"].dims == ("a", "b")


# -- what it shows by itself --------------------------------------------------------------------


def test_a_plain_sweep_has_nothing_to_say():
    loss = np.ones((3, 2))
    sweep = made(fields={"loss": loss}, done=loss > 0, cosines=np.eye(2))
    assert evident(sweep) == ({"max_cosine": 0.0, "clipped_share": 0.0}, ())


def test_directions_that_are_not_orthogonal_are_told():
    loss = np.ones((3, 2))
    for cosine, is_told in [(0.1, False), (0.11, True), (-0.11, True), (-0.1, False)]:
        cosines = np.array([[1.0, cosine], [cosine, 1.0]])
        caveats, notes = evident(made(fields={"loss": loss}, done=loss > 0, cosines=cosines))
        assert caveats["max_cosine"] == abs(cosine)
        assert bool(notes) == is_told
        if is_told:
            assert "not orthogonal: |cosine| up to 0.11" in notes[0]


@pytest.mark.parametrize("changes", [{"kind": "lines"}, {"cosines": np.eye(1)}])
def test_directions_that_span_no_plane_have_no_angle(changes):
    cosines = np.array([[1.0, 0.9], [0.9, 1.0]])
    caveats, notes = evident(made(**({"cosines": cosines} | changes)))
    assert "max_cosine" not in caveats
    assert not any("orthogonal" in note for note in notes)


def test_infinite_losses_are_counted_and_the_reason_given():
    caveats, notes = evident(made())
    # Six points: one was not measured and is filled in, one is infinite.
    assert caveats["clipped_share"] == 1 / 6
    assert "the loss is beyond the clip of 9 at 1 of 6 points" in notes
    _, notes = evident(made(settings={}))
    assert "the loss is infinite at 1 of 6 points" in notes
    below = made(fields={"loss": -made().loss})
    assert evident(below)[0]["clipped_share"] == 0.0


def test_nan_is_counted_among_the_points_that_are_known():
    loss = np.array([[np.nan, 1.0], [np.nan, np.nan], [np.nan, np.nan]])
    done = np.array([[True, True], [True, False], [False, False]])
    _, notes = evident(made(fields={"loss": loss}, done=done, cosines=np.eye(2)))
    assert notes == ("the loss is NaN at 2 of 3 points: kept as NaN",)


def test_filled_points_are_counted():
    loss = np.ones((3, 2))
    done = np.array([[True, True], [True, False], [True, False]])
    caveats, notes = evident(made(fields={"loss": loss}, done=done, cosines=np.eye(2)))
    assert caveats["interpolated_share"] == 1 / 3
    assert len(notes) == 1
    assert notes[0].startswith("33.3% of the points were filled in")


# -- shards -------------------------------------------------------------------------------------


def shards(count, num=(5, 3), **changes):
    objective = small_objective()
    directions = random_directions(objective, 2)
    options = [dataclasses.replace(PLAIN, shard=(i, count), **changes) for i in range(count)]
    fields = ("loss", "accuracy", "class_loss")
    parts = [plane(objective, directions, num, 2.0, fields=fields, options=o) for o in options]
    whole = plane(
        objective,
        directions,
        num,
        2.0,
        fields=fields,
        options=dataclasses.replace(PLAIN, **changes),
    )
    return parts, whole


@pytest.mark.parametrize("count", [1, 2, 4, 15])
def test_shards_are_disjoint_and_make_the_whole(count):
    parts, whole = shards(count)
    assert sum(part.done.sum() for part in parts) == whole.done.size
    merged = merge(parts)
    assert merged.done.all()
    assert merged.status == "converged"
    assert merged.settings == whole.settings
    assert store.request_key("plane", merged.settings, merged.provenance) == store.request_key(
        "plane", whole.settings, whole.provenance
    )
    for name, values in whole.fields.items():
        # Other chunks round otherwise.
        np.testing.assert_allclose(merged[name], values, rtol=1e-13, atol=1e-15)


def test_a_shard_alone_says_how_much_is_missing():
    parts, _ = shards(4)
    assert [part.status for part in parts] == [
        *["11 of 15 points missing"] * 3,
        "12 of 15 points missing",
    ]
    assert merge(parts[:2]).status == "7 of 15 points missing"


def test_the_order_of_shards_does_not_matter():
    parts, _ = shards(3)
    parts = [dataclasses.replace(part, wall_time=0.1 * 3**i) for i, part in enumerate(parts)]
    merged = merge(parts)
    for order in itertools.permutations(parts):
        assert same(merge(order), merged)
    assert merged.wall_time == math.fsum(part.wall_time for part in parts)


@pytest.mark.parametrize("shard", [lambda i, m: [i, m], lambda i, m: f"{i + 1}/{m}"])
def test_of_overlapping_shards_the_earlier_counts_whatever_their_order(shard):
    def part(index, count, value, done):
        loss = np.where(done, value, np.nan)
        settings = {"shard": shard(index, count)}  # as sweeps have it, and the command line
        return made(fields={"loss": loss}, done=np.array(done), settings=settings)

    first = part(0, 2, 1.0, [[True, True], [True, False], [False, False]])
    second = part(1, 2, 2.0, [[False, False], [True, True], [True, True]])
    third = part(1, 3, 3.0, [[False, True], [True, True], [False, False]])
    for order in itertools.permutations([first, second, third]):
        np.testing.assert_array_equal(merge(order).loss, [[1, 1], [1, 3], [2, 2]])
    for order in ([third, second], [second, third]):
        merged = merge(order)
        np.testing.assert_array_equal(merged.loss, [[np.nan, 3], [3, 3], [2, 2]])
        assert merged.done.tolist() == [[False, True], [True, True], [True, True]]


def test_merging_changes_no_shard():
    parts, _ = shards(2)
    before = copy.deepcopy(parts)
    merge(parts)
    assert all(map(same, parts, before))


def test_caveats_and_sentences_of_a_merged_sweep_are_those_of_the_whole():
    parts, whole = shards(3, clip=1.3)
    share = np.isinf(whole.loss).mean()
    assert 0 < share < 1
    merged = merge(parts)
    assert merged.caveats == whole.caveats
    assert merged.caveats["clipped_share"] == share
    clipped = [note for note in merged.notes if "clip" in note]
    assert clipped == [note for note in whole.notes if "clip" in note]
    assert clipped == [f"the loss is beyond the clip of 1.3 at {np.isinf(whole.loss).sum()} of 15 "
                       "points"]  # fmt: skip


def test_work_is_added_up_and_notes_are_said_once():
    parts, _ = shards(3, quadratic=True)
    merged = merge(parts)
    assert merged.num_products == 6
    assert merged.quadratic.value == parts[0].quadratic.value
    assert len(set(merged.notes)) == len(merged.notes)


def test_a_whole_sweep_merges_to_itself():
    sweep = made()
    merged = merge([sweep])
    assert same(merged.fields, sweep.fields)
    assert merged.caveats == {**sweep.caveats, **evident(sweep)[0]}
    assert merged.notes == ("a note", *evident(sweep)[1])
    assert same(merge([merged]), merged)


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "grid"},
        {"provenance": {"loss": "bce"}},
        {"settings": {"num": [3, 2], "clip": 8.0, "seed": 3}},
        {"coordinates": (np.array([-1.0, 0.0, 0.5]), np.array([0.0, 2.0]))},
        {"fields": {"loss": np.zeros((3, 2))}},
    ],
)
def test_shards_of_different_requests_are_refused(changes):
    with pytest.raises(RequestError, match=r"different requests.*must agree"):
        merge([made(), made(**changes)])
    with pytest.raises(RequestError, match="different requests"):
        merge([made(**changes), made()])


def test_nothing_to_merge_is_refused():
    with pytest.raises(RequestError, match="no sweeps"):
        merge([])
