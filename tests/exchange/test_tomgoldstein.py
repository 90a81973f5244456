"""Surfaces as loss-landscape's own loops fill them come out with each value at its coordinates."""

from __future__ import annotations

import subprocess
import sys

import h5py
import numpy as np
import pytest
from exchange.surfaces import NAME, X, Y, crunch, exact, write_directions

from landscape import store
from landscape.errors import RequestError
from landscape.exchange.tomgoldstein import read_surface

# --- where the values stand


@pytest.mark.parametrize(("x", "y"), [(X, Y), (Y, X), (X, X + 3), (X, Y[:1])])
def test_a_plane_has_each_value_at_its_coordinates(tmp_path, x, y):
    sweep = read_surface(crunch(tmp_path / "surface.h5", x, y))
    assert (sweep.kind, sweep.shape) == ("plane", (len(x), len(y)))
    np.testing.assert_array_equal(sweep.coordinates[0], x)
    np.testing.assert_array_equal(sweep.coordinates[1], y)
    np.testing.assert_array_equal(sweep.loss, exact(x, y))
    np.testing.assert_allclose(sweep.accuracy, (50 + 10 * x[:, None] + y) / 100, rtol=1e-15)
    assert sweep.done.all()
    assert sweep.status == "converged"


def test_the_shape_that_an_array_claims_does_not_matter(tmp_path):
    path = crunch(tmp_path / "surface.h5", X, Y)
    with h5py.File(path, "a") as file:
        turned = file["train_loss"][()].reshape(len(Y), len(X))
        del file["train_loss"]
        file["train_loss"] = turned
    np.testing.assert_array_equal(read_surface(path).loss, exact(X, Y))


def test_axes_that_fall_are_turned_with_their_values(tmp_path):
    sweep = read_surface(crunch(tmp_path / "surface.h5", X[::-1].copy(), Y[::-1].copy()))
    np.testing.assert_array_equal(sweep.coordinates[0], X)
    np.testing.assert_array_equal(sweep.loss, exact(X, Y))


def test_a_file_with_x_alone_is_a_line(tmp_path):
    sweep = read_surface(crunch(tmp_path / "surface.h5", X))
    assert (sweep.kind, sweep.axes, sweep.shape) == ("line", ("a",), (5,))
    np.testing.assert_array_equal(sweep.loss, X**2)
    assert sweep.center_loss == 0.0


def test_the_loss_at_the_center_is_known_where_a_point_is_there(tmp_path):
    moved = crunch(tmp_path / "moved.h5", X, np.array([-1.0, 0, 2]), scale=2.0)
    assert read_surface(moved).center_loss == 0.0
    beside = crunch(tmp_path / "beside.h5", X, np.array([-1.0, 0.5, 2]))
    assert np.isnan(read_surface(beside).center_loss)


# --- what was not computed, and what came out as NaN


def test_points_that_were_left_at_minus_one_are_missing_and_nan_is_a_result(tmp_path):
    path = crunch(tmp_path / "surface.h5", X, Y, skip=(3, 7))
    with h5py.File(path, "a") as file:
        file["train_loss"][0, 0] = np.nan
    sweep = read_surface(path)
    missing = [(3, 0), (2, 1)]  # flat indices 3 and 7, x fastest
    assert sorted(zip(*np.nonzero(~sweep.done), strict=True)) == sorted(missing)
    for point in missing:
        assert np.isnan(sweep.loss[point])
        assert np.isnan(sweep.accuracy[point])
    assert np.isnan(sweep.loss[0, 0])
    assert sweep.num_nan == 1
    assert sweep.status == "2 of 20 points missing"
    assert any("2 of 20" in note for note in sweep.notes)


def test_test_data_come_as_fields_of_their_own_with_their_own_gaps(tmp_path):
    path = crunch(tmp_path / "surface.h5", X, Y)
    crunch(path, X, Y, data="test", scale=3.0, skip=(0,))
    sweep = read_surface(path)
    assert set(sweep.fields) == {
        "loss",
        "accuracy",
        "test_loss",
        "test_accuracy",
        "standard_error",
    }
    assert sweep.done.all()
    assert np.isnan(sweep.test_loss[0, 0])
    np.testing.assert_array_equal(sweep.test_loss[1:], 3 * exact(X, Y)[1:])
    assert float(np.nanmax(sweep.test_accuracy)) < 1
    assert np.isnan(sweep.standard_error).all()


def test_a_surface_of_the_test_data_alone_is_the_loss(tmp_path):
    sweep = read_surface(crunch(tmp_path / "surface.h5", X, Y, data="test"))
    np.testing.assert_array_equal(sweep.loss, exact(X, Y))
    assert sweep.provenance["data"] == "test"
    assert set(sweep.fields) == {"loss", "accuracy", "standard_error"}


# --- what lies beside it


def test_without_the_directions_norms_are_unknown_and_named(tmp_path):
    sweep = read_surface(crunch(tmp_path / "surface.h5", X, Y))
    assert np.isnan(sweep.direction_norms).all()
    np.testing.assert_array_equal(sweep.cosines, [[1, np.nan], [np.nan, 1]])
    assert sweep.direction_names == (f"xdirection of {NAME}", f"ydirection of {NAME}")
    assert any("unknown" in note for note in sweep.notes)
    assert sweep.caveats == {}


def test_the_directions_beside_it_give_norms_and_cosine(tmp_path):
    one = [np.array([[3.0, 0]]), np.array([4.0]), np.float64(7)]  # the last counts batches
    two = [np.array([[0.0, 1]]), np.array([1.0]), np.float64(7)]
    write_directions(tmp_path, one, two)
    sweep = read_surface(crunch(tmp_path / "surface.h5", X, Y))
    np.testing.assert_allclose(sweep.direction_norms, [5, np.sqrt(2)])
    np.testing.assert_allclose(sweep.cosines[0, 1], 4 / (5 * np.sqrt(2)))
    assert sweep.caveats == {"max_cosine": pytest.approx(4 / (5 * np.sqrt(2)))}
    write_directions(tmp_path, one)
    line = read_surface(crunch(tmp_path / "line.h5", X))
    np.testing.assert_allclose(line.direction_norms, [5])


def test_directions_that_do_not_fit_each_other_are_as_good_as_none(tmp_path):
    write_directions(tmp_path, [np.ones(3)], [np.ones(4)])
    sweep = read_surface(crunch(tmp_path / "surface.h5", X, Y))
    assert np.isnan(sweep.direction_norms).all()


@pytest.mark.parametrize("method", ["cos", "lstsq"])
def test_a_projected_path_is_marked_in_the_units_of_the_surface(tmp_path, method):
    generator = np.random.default_rng(0)
    one, two = generator.standard_normal((2, 6)) * [[3], [0.5]]  # of any norms and angle
    wanted = np.array([[1.0, -0.5], [0.25, 0.5], [0, 0]])
    moves = wanted @ [one, two]
    if method == "cos":
        places = moves @ np.stack([one / np.linalg.norm(one), two / np.linalg.norm(two)], 1)
    else:
        places = np.linalg.lstsq(np.stack([one, two], 1), moves.T)[0].T
    write_directions(tmp_path, [one], [two])
    with h5py.File(tmp_path / f"{NAME}_proj_{method}.h5", "w") as file:
        file["proj_xcoord"], file["proj_ycoord"] = places.T
    sweep = read_surface(crunch(tmp_path / "surface.h5", X, Y))
    assert list(sweep.marks) == ["checkpoint 0", "checkpoint 1", "checkpoint 2"]
    np.testing.assert_allclose(list(sweep.marks.values()), wanted, atol=1e-14)


def test_a_path_whose_units_nobody_knows_is_marked_with_a_warning(tmp_path):
    with h5py.File(tmp_path / f"{NAME}_proj_cos.h5", "w") as file:
        file["proj_xcoord"], file["proj_ycoord"] = [0.5, 0.0], [2.0, 0.0]
    sweep = read_surface(crunch(tmp_path / "surface.h5", X, Y))
    assert sweep.marks["checkpoint 0"] == (0.5, 2.0)
    assert any("only if the norms are 1" in note for note in sweep.notes)


# --- the file


def test_the_sweep_is_stored_and_comes_back(tmp_path):
    path = crunch(tmp_path / "surface.h5", X, Y, skip=(3,))
    sweep = read_surface(path)
    (group,) = store.save(tmp_path / "a.h5", sweep)
    record = store.read(tmp_path / "a.h5", group)
    np.testing.assert_array_equal(record["loss"], sweep.loss)
    assert store.records(tmp_path / "a.h5")[0].status == "1 of 20 points missing"
    assert sweep.provenance["imported_from"] == "surface.h5"
    assert store.save(tmp_path / "a.h5", read_surface(path)) == [group]  # nothing new
    with h5py.File(path, "a") as file:
        file["train_loss"][0, 3] = 1.0  # it went on
    assert store.save(tmp_path / "a.h5", read_surface(path)) != [group]


def test_a_file_under_lock_by_its_job_is_read(tmp_path):
    path = crunch(tmp_path / "surface.h5", X, Y)
    with h5py.File(path, "r+", locking=True) as job:
        job.flush()
        code = (
            "import sys; from landscape.exchange.tomgoldstein import read_surface; "
            "print(read_surface(sys.argv[1]).shape)"
        )
        command = [sys.executable, "-c", code, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(5, 4)", done.stderr


@pytest.mark.parametrize("kind", [bytes, np.bytes_])
def test_the_name_of_the_directions_may_be_bytes_as_old_pythons_wrote_it(tmp_path, kind):
    path = crunch(tmp_path / "surface.h5", X, Y)
    with h5py.File(path, "a") as file:
        del file["dir_file"]
        file["dir_file"] = kind(f"C:\\nets\\{NAME}".encode())
    assert read_surface(path).direction_names[0] == f"xdirection of {NAME}"


def spoiled(path, name, values):
    with h5py.File(path, "a") as file:
        file.pop(name, None)
        if values is not None:
            file[name] = values
    return path


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("xcoordinates", None, "needs xcoordinates"),
        ("train_loss", None, "needs xcoordinates"),
        ("train_loss", np.ones(7), r"7 values.*\(5, 4\)"),
        ("train_acc", [b"gAN9cQAu"], "train_acc is no array of numbers"),
        ("train_acc", 0.5, "train_acc is no array of numbers"),
        ("ycoordinates", np.ones((2, 2)), r"shape \(2, 2\)"),
        ("ycoordinates", [0, 1, 2, np.nan], "finite"),
    ],
)
def test_a_file_that_holds_no_surface_is_refused_with_what_it_lacks(tmp_path, name, values, said):
    path = spoiled(crunch(tmp_path / "surface.h5", X, Y), name, values)
    with pytest.raises(RequestError, match=rf"surface\.h5.*{said}"):
        read_surface(path)


def test_what_is_no_hdf5_is_refused(tmp_path):
    (tmp_path / "surface.h5").write_text("step,loss\n")
    for path in (tmp_path / "surface.h5", tmp_path / "missing.h5"):
        with pytest.raises(RequestError, match=path.name):
            read_surface(path)
