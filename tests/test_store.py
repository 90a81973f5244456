"""The file survives whatever happens to its writer, and gives back what it was given."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import h5py
import numpy as np
import pytest
import xarray as xr
from filelock import FileLock
from vtkmodules.util.numpy_support import vtk_to_numpy
from vtkmodules.vtkIOHDF import vtkHDFReader

import landscape.store as store
from landscape.errors import RequestError
from landscape.result import Result
from landscape.store import find, open_results, read, records, request_key, save

NAN_WITH_PAYLOAD = np.array(0x7FF8000000000005, np.uint64).view(np.float64)
PROVENANCE = {"parameters_fingerprint": "p1", "data_fingerprint": "d1", "loss": "mse"}
# Workers start from a server that has imported what they need: a plain `spawn` takes a second each,
# and a `fork` of a test process that runs threads can hang.
WORKERS = multiprocessing.get_context("forkserver")
WORKERS.set_forkserver_preload(["landscape.store", "pytest"])


@dataclass(frozen=True, kw_only=True, eq=False)
class Estimate(Result):
    """One number of each kind."""

    probe: ClassVar[str] = "trace"
    value: float = 1.5

    @property
    def status(self) -> str:
        return "converged"

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        described = {"units": "1/s", "long_name": "trace of the Hessian"}
        return xr.Dataset(
            {
                "value": ((), np.float64(self.value), described),
                "num_probes": ((), 7, {"units": "1", "long_name": "probes"}),
                "converged": ((), True, {"units": "1", "long_name": "whether it converged"}),
                "method": ((), "hutch++", {"units": "1", "long_name": "estimator"}),
            }
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Spectrum(Result):
    """Arrays with all that is hard to keep: NaN, -0, float32, bool, text, no element."""

    probe: ClassVar[str] = "eigenpairs"
    size: int = 4

    @property
    def status(self) -> str:
        return "2 of 4 converged"

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        values = np.linspace(1, 2, self.size)
        values[0], values[1] = NAN_WITH_PAYLOAD, -0.0
        described = {"units": "1", "long_name": "any"}
        return xr.Dataset(
            {
                "values": ("k", values, described),
                "residual_norms": ("k", np.array([1, np.nan, np.nan, 2], np.float32), described),
                "converged": ("k", np.array([True, False, False, True]), described),
                "kinds": ("k", ["", "largest", "größte", "a"], described),
                "elapsed": ("k", np.arange(4.0), {"units": "seconds", "long_name": "time"}),
                "none": (("nothing", "k"), np.zeros((0, 4)), described),
            },
            coords={"k": ("k", np.arange(4), {"units": "1", "long_name": "rank"})},
            attrs={"which": "LA", "deflated": False},
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Plane(Result):
    """loss = factor (a^2 + 10 b) on a grid of 3 x 2 points."""

    probe: ClassVar[str] = "plane"
    factor: float = 1.0
    a: tuple[float, ...] = (-1.0, 0.0, 1.0)

    @property
    def status(self) -> str:
        return "converged"

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        a, b = np.array(self.a), np.array([0.0, 2.0])
        loss = self.factor * (a[:, None] ** 2 + 10 * b)
        fields = {"loss": loss, "done": np.ones(loss.shape, bool)}
        described = {"units": "1", "long_name": "any"}
        return xr.Dataset(
            {name: (("a", "b"), values, described) for name, values in fields.items()},
            coords={"a": ("a", a, described), "b": ("b", b, described)},
        )


def estimate(**settings: Any) -> Estimate:
    return Estimate(settings=settings, provenance=PROVENANCE, wall_time=0.5, num_products=3)


def spectrum(**settings: Any) -> Spectrum:
    return Spectrum(settings=settings, provenance=PROVENANCE, notes=("one", "two"))


def visible_and_hidden(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


# --- what is kept


def test_a_round_trip_returns_the_bits(tmp_path):
    (group,) = save(tmp_path / "a.h5", spectrum(k=4))
    original, stored = spectrum(k=4).to_dataset(), read(tmp_path / "a.h5", group)
    assert set(stored.variables) == set(original.variables)
    for name, variable in original.variables.items():
        back = stored.variables[name]
        assert (back.dims, back.dtype) == (variable.dims, variable.dtype)
        assert back.to_numpy().tobytes() == variable.to_numpy().tobytes(), name
        assert back.attrs.items() >= variable.attrs.items()
    assert (stored.attrs["which"], stored.attrs["deflated"]) == ("LA", False)


def test_nan_is_counted_where_it_is_and_nowhere_else(tmp_path):
    (group,) = save(tmp_path / "a.h5", spectrum())
    counts = {
        name: variable.attrs.get("num_nan")
        for name, variable in read(tmp_path / "a.h5", group).variables.items()
    }
    assert {name: n for name, n in counts.items() if n} == {"values": 1, "residual_norms": 2}


def test_saving_leaves_the_result_as_it_was(tmp_path):
    dataset = spectrum().to_dataset()

    class Kept(Spectrum):
        def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
            return dataset

    save(tmp_path / "a.h5", Kept(settings={}))
    xr.testing.assert_identical(dataset, spectrum().to_dataset())


def test_a_record_carries_its_request_and_its_circumstances(tmp_path):
    (group,) = save(tmp_path / "a.h5", spectrum(k=4, seed=3, tol=np.float32(0.5)))
    kept = read(tmp_path / "a.h5", group).attrs
    assert json.loads(kept["settings"]) == {"k": 4, "seed": 3, "tol": 0.5}
    assert json.loads(kept["provenance"]) == PROVENANCE
    assert json.loads(kept["notes"]) == ["one", "two"]
    assert json.loads(kept["versions"])["numpy"] == np.__version__
    assert (kept["parameters_fingerprint"], kept["data_fingerprint"]) == ("p1", "d1")
    assert (kept["seed"], kept["schema_version"], kept["probe"]) == (3, 1, "eigenpairs")
    assert (kept["status"], kept["num_products"]) == ("2 of 4 converged", 0)


def test_a_seed_of_128_bits_is_kept(tmp_path):
    (group,) = save(tmp_path / "a.h5", estimate(seed=2**127))
    assert read(tmp_path / "a.h5", group).attrs["seed"] == str(2**127)


def test_h5py_alone_reads_a_record(tmp_path):
    (group,) = save(tmp_path / "a.h5", spectrum())
    with h5py.File(tmp_path / "a.h5") as file:
        values = file[group]["values"]
        assert values.attrs["units"] == "1"
        assert "_FillValue" not in values.attrs  # or NaN would mean "missing" to other readers
        assert values.dims[0][0].name == f"{group}/k"  # a dimension scale
        np.testing.assert_array_equal(values[()], spectrum().to_dataset()["values"])


def test_xarray_alone_reads_all_records(tmp_path):
    groups = save(tmp_path / "a.h5", [spectrum(), estimate()], attributes={"name": "one"})
    with xr.open_datatree(tmp_path / "a.h5", engine="h5netcdf") as tree:
        assert tree.attrs["name"] == "one"
        assert tree[groups[0]]["converged"].dtype == bool
        assert tree[groups[1]]["value"].item() == 1.5


# --- which records there are


def test_the_key_depends_on_the_request_alone():
    key = request_key("trace", {"a": 1, "b": (2, 3)}, {"c": np.float64(0.5)})
    assert key == request_key("trace", {"b": [np.int64(2), 3], "a": 1}, {"c": 0.5})
    assert len(key) == 12
    assert set(key) <= set("0123456789abcdef")
    others = [
        request_key("density", {"a": 1, "b": (2, 3)}, {"c": 0.5}),
        request_key("trace", {"a": 1, "b": (2, 4)}, {"c": 0.5}),
        request_key("trace", {"a": 1, "b": (2, 3)}, {"c": 0.25}),
    ]
    assert len({key, *others}) == 4


def test_a_setting_that_json_cannot_hold_is_refused_before_a_file_is_made(tmp_path):
    with pytest.raises(RequestError, match="JSON"):
        save(tmp_path / "a.h5", estimate(rule=object()))
    assert visible_and_hidden(tmp_path) == []


def test_a_second_save_leaves_the_file_alone(tmp_path):
    path = tmp_path / "a.h5"
    first = save(path, [estimate(), spectrum()], attributes={"name": "one", "lr": float("nan")})
    before, inode = path.read_bytes(), path.stat().st_ino
    again = save(path, [estimate(), spectrum()], attributes={"name": "one", "lr": float("nan")})
    assert again == first
    assert (path.read_bytes(), path.stat().st_ino) == (before, inode)


def test_force_replaces_one_record_and_keeps_the_bits_of_the_others(tmp_path):
    path = tmp_path / "a.h5"
    kept, replaced = save(path, [spectrum(), estimate()])
    before = read(path, kept)
    old = Estimate(settings={}, provenance=PROVENANCE, value=9.0)
    assert save(path, old) == [replaced]
    assert read(path, replaced)["value"].item() == 1.5
    save(path, old, force=True)
    assert read(path, replaced)["value"].item() == 9.0
    after = read(path, kept)
    xr.testing.assert_identical(after, before)
    assert after["values"].to_numpy().tobytes() == before["values"].to_numpy().tobytes()


def test_replacing_a_large_record_again_and_again_does_not_grow_the_file(tmp_path):
    class Large(Estimate):
        def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
            return xr.Dataset({"vector": ("n", np.zeros(30_000))})

    sizes = []
    for index in range(6):
        # The small one keeps the large one from the end of the file, which HDF5 would cut off.
        save(tmp_path / "a.h5", [Large(settings={}), estimate(index=index)], force=True)
        sizes.append((tmp_path / "a.h5").stat().st_size)
    assert sizes[-1] < sizes[1] + 8 * 30_000  # one spare place, not one for each replacement


def test_different_settings_are_different_records(tmp_path):
    path = tmp_path / "a.h5"
    first, second = save(path, [estimate(seed=0), estimate(seed=1)])
    assert first != second
    assert [info.group for info in records(path)] == [first, second]  # oldest first
    assert [info.settings for info in records(path)] == [{"seed": 0}, {"seed": 1}]


def test_find_knows_what_is_there(tmp_path):
    path = tmp_path / "a.h5"
    assert find(path, "trace", {"seed": 0}, PROVENANCE) is None  # no file yet
    (group,) = save(path, estimate(seed=0))
    assert find(path, "trace", {"seed": 0}, PROVENANCE) == group
    assert find(path, "trace", {"seed": 1}, PROVENANCE) is None
    assert find(path, "trace", {"seed": 0}, {}) is None


def test_reading_what_is_not_there_lists_what_is(tmp_path):
    (group,) = save(tmp_path / "a.h5", estimate())
    with pytest.raises(RequestError, match=group):
        read(tmp_path / "a.h5", "/trace/000000000000")
    with pytest.raises(RequestError, match="missing"):
        records(tmp_path / "b.h5")


def test_attributes_are_merged_typed_and_taken_away_by_none(tmp_path):
    path = tmp_path / "a.h5"
    save(path, [], attributes={"name": "one", "seed": 3, "augment": True, "gone": 1})
    save(path, [], attributes={"seed": np.int64(4), "gone": None})
    row = open_results(path).table().iloc[0].to_dict()
    assert row == {"name": "one", "seed": 4, "augment": True}
    assert isinstance(row["augment"], bool | np.bool_)


@pytest.mark.parametrize("attributes", [{"schema_version": 2}, {"_x": 1}, {"lr": [1, 2]}])
def test_an_attribute_that_would_break_the_file_is_refused(tmp_path, attributes):
    with pytest.raises(RequestError, match=next(iter(attributes))):
        save(tmp_path / "a.h5", [], attributes=attributes)


# --- planes in ParaView


def plane(factor: float = 1.0, **settings: Any) -> Plane:
    return Plane(settings={"factor": factor, **settings}, factor=factor)


def losses_in_vtk(path: Path) -> list[float]:
    """What VTK's own reader finds in the result file, x first."""
    reader = vtkHDFReader()
    reader.SetFileName(str(path))
    reader.Update()
    image = reader.GetOutput()
    assert image.GetBounds() == (-1, 1, 0, 2, 0, 0)
    return list(vtk_to_numpy(image.GetPointData().GetArray("loss")))


SHOWN = [1.0, 0, 1, 21, 20, 21]


def test_a_result_file_with_a_plane_opens_in_vtk_and_everywhere_else_as_before(tmp_path):
    path = tmp_path / "a.h5"
    first, group = save(path, [estimate(), plane()], attributes={"name": "one"})
    assert losses_in_vtk(path) == SHOWN
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        assert tree.attrs["name"] == "one"
        assert tree[first]["value"].item() == 1.5
        np.testing.assert_array_equal(
            tree["VTKHDF/PointData/loss"].transpose("a", "b"), tree[group]["loss"]
        )
    assert [info.group for info in records(path)] == [first, group]
    assert set(open_results(path).tree()["a"].children) == {"trace", "plane"}
    with h5py.File(path) as file:
        assert file["VTKHDF"].attrs["source"] == group
        scales = [file[f"{holder}/{axis}"] for holder in ("VTKHDF", group) for axis in "ab"]
        ids = {int(scale.attrs["_Netcdf4Dimid"]) for scale in scales}
    assert len(ids) == 4  # else netCDF-C takes one dimension for another


def test_the_newest_plane_is_shown_and_other_records_leave_it_there(tmp_path):
    path = tmp_path / "a.h5"
    old, new = save(path, [plane(2.0), plane(3.0)])
    assert losses_in_vtk(path) == [3 * value for value in SHOWN]
    save(path, [plane(2.0), estimate()])  # the plane is there already
    assert losses_in_vtk(path) == [3 * value for value in SHOWN]
    save(path, plane(2.0), force=True)
    assert losses_in_vtk(path) == [2 * value for value in SHOWN]
    assert [read(path, group)["loss"].values.max() for group in (old, new)] == [42, 63]


def test_a_plane_that_is_no_image_is_saved_and_not_shown(tmp_path):
    path = tmp_path / "a.h5"
    uneven = Plane(settings={}, a=(0.0, 1.0, 5.0))
    (group,) = save(path, uneven)
    assert read(path, group)["a"].values.tolist() == [0, 1, 5]
    with h5py.File(path) as file:
        assert list(file) == ["plane"]
    save(path, plane())
    save(path, uneven, force=True)
    assert losses_in_vtk(path) == SHOWN


def test_a_line_does_not_take_the_place_of_a_plane(tmp_path):
    class Line(Plane):
        def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
            return super().to_dataset().isel(b=0, drop=True)

    save(tmp_path / "a.h5", [plane(), Line(settings={"line": True})])
    assert losses_in_vtk(tmp_path / "a.h5") == SHOWN


def test_showing_a_large_plane_again_and_again_does_not_grow_the_file(tmp_path):
    axis = tuple(np.linspace(-1, 1, 15_000))
    sizes = []
    for index in range(6):
        # As above: the small one keeps the large ones from the end of the file.
        shown = Plane(settings={"index": index % 2}, a=axis)
        save(tmp_path / "a.h5", [shown, estimate(index=index)], force=True)
        sizes.append((tmp_path / "a.h5").stat().st_size)
    one_plane = 2 * 15_000 * (8 + 1 + 4)  # loss, done and half the coordinates
    assert sizes[-1] < sizes[2] + one_plane


# --- families


@pytest.fixture
def family(tmp_path) -> Path:
    save(tmp_path / "x" / "ckpt.h5", [estimate(), spectrum()], attributes={"name": "x", "lr": 0.1})
    save(tmp_path / "y" / "ckpt.h5", estimate(), attributes={"name": "y"})
    newer = Estimate(settings={"seed": 1}, provenance=PROVENANCE, value=2.5)
    save(tmp_path / "y" / "ckpt.h5", newer)
    return tmp_path


def test_a_table_has_one_row_a_file_with_its_newest_scalars(family):
    table = open_results(family).table()
    assert list(table.index) == [str(family / "x" / "ckpt.h5"), str(family / "y" / "ckpt.h5")]
    assert table.index.name == "file"
    assert list(table["name"]) == ["x", "y"]
    assert np.isnan(table["lr"].iloc[1])
    assert list(table["trace.value"]) == [1.5, 2.5]
    assert list(table["trace.converged"]) == [True, True]
    assert list(table["trace.method"]) == ["hutch++", "hutch++"]
    assert not [name for name in table.columns if name.startswith("eigenpairs.")]


def test_the_records_of_a_family_are_rows(family):
    frame = open_results(family).records()
    assert list(frame.columns) == (
        "file probe key status created wall_time num_products settings".split()  # noqa: SIM905
    )
    assert list(frame["probe"]) == ["trace", "eigenpairs", "trace", "trace"]
    assert list(frame["settings"]) == ["{}", "{}", "{}", '{"seed":1}']
    assert list(frame["wall_time"]) == [0.5, 0.0, 0.5, 0.0]


def test_a_tree_holds_every_record_also_of_files_with_one_name(family):
    tree = open_results(family).tree()
    assert set(tree.children) == {"ckpt", "ckpt_2"}
    assert tree["ckpt_2"].attrs == {"name": "y", "file": str(family / "y" / "ckpt.h5")}
    assert len(tree["ckpt_2/trace"].children) == 2
    assert tree[f"ckpt/eigenpairs/{next(iter(tree['ckpt/eigenpairs'].children))}/k"].size == 4


def test_a_dataset_is_the_newest_record_of_each_file_that_has_one(family):
    results = open_results(family)
    assert [data["value"].item() for _, data in results.dataset("trace")] == [1.5, 2.5]
    assert [path for path, _ in results.dataset("eigenpairs")] == [family / "x" / "ckpt.h5"]


def test_files_folders_and_patterns_lead_to_the_same_files(family):
    files = [family / "x" / "ckpt.h5", family / "y" / "ckpt.h5"]
    (family / "notes.txt").touch()
    (family / ".hidden.h5").touch()
    for wanted in (family, str(family / "*" / "*.h5"), files, [family, *files], [str(family)]):
        assert open_results(wanted).paths == tuple(files)


def test_a_name_with_brackets_is_a_file_before_it_is_a_pattern(tmp_path):
    save(tmp_path / "run[1].h5", estimate())
    assert open_results(tmp_path / "run[1].h5").paths == (tmp_path / "run[1].h5",)


@pytest.mark.parametrize("missing", ["nothing.h5", "*/nothing*.h5"])
def test_what_leads_to_no_file_is_refused_even_beside_what_does(family, missing):
    with pytest.raises(RequestError, match="nothing"):
        open_results([family, str(family / missing)])
    with pytest.raises(RequestError, match="no files"):
        open_results([])


# --- what is refused


def foreign_text(path: Path) -> None:
    path.write_text("step,loss\n0,1.0\n")


def foreign_hdf5(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["weights"] = np.arange(3.0)


def cut_short(path: Path) -> None:
    save(path, spectrum())
    path.write_bytes(path.read_bytes()[:-200])


def of_a_newer_version(path: Path) -> None:
    save(path, spectrum())
    with h5py.File(path, "a") as file:
        file.attrs["schema_version"] = store.SCHEMA_VERSION + 1


def index_of_a_family(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["written_by"] = "landscape"


@pytest.mark.parametrize(
    "spoil", [foreign_text, foreign_hdf5, cut_short, of_a_newer_version, index_of_a_family]
)
def test_a_file_that_is_not_ours_is_refused_and_not_touched(tmp_path, spoil):
    path = tmp_path / "a.h5"
    spoil(path)
    before = path.read_bytes()
    for attempt in (
        lambda: save(path, estimate()),
        lambda: save(path, estimate(), force=True),
        lambda: find(path, "trace", {}, {}),
        lambda: records(path),
        lambda: open_results(path).table(),
    ):
        with pytest.raises(RequestError, match=r"a\.h5"):
            attempt()
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_made_is_a_wrong_request(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match=r"cannot write .*a\.h5"):
        save(tmp_path / "file" / "a.h5", estimate())


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes to read-only folders")
def test_a_read_only_folder_is_a_wrong_request(tmp_path):
    save(tmp_path / "a.h5", estimate(seed=0))
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(RequestError, match=r"cannot write .*a\.h5"):
            save(tmp_path / "a.h5", estimate(seed=1))
    finally:
        tmp_path.chmod(0o700)
    assert len(records(tmp_path / "a.h5")) == 1


def test_a_full_disk_is_a_wrong_request_and_leaves_the_old_file(tmp_path):
    save(tmp_path / "a.h5", estimate())
    program = """
import os, resource, sys, numpy as np, xarray as xr
from pathlib import Path
from landscape.errors import RequestError
from landscape.store import save
sys.path.insert(0, sys.argv[1])
from test_store import Estimate
class Large(Estimate):
    def to_dataset(self, *, vectors=False):
        return xr.Dataset({"vector": ("n", np.ones(100_000))})
before = Path(sys.argv[2]).read_bytes()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
try:
    save(sys.argv[2], Large(settings={"large": True}))
except RequestError as error:
    print("refused:", error)
    print(Path(sys.argv[2]).read_bytes() == before, sorted(os.listdir(Path(sys.argv[2]).parent)))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
save(sys.argv[2], Large(settings={"large": True}))
"""
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(tmp_path / "a.h5")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "refused: cannot write" in done.stdout, done.stderr
    assert "True ['.a.h5.lock', 'a.h5']" in done.stdout
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / "a.h5")) == 2  # once there is room, the same process can save


def test_a_lock_that_is_not_given_back_is_reported_with_its_holder(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "LOCK_TIMEOUT", 0.05)
    (tmp_path / ".a.h5.4321.tmp").touch()
    with FileLock(tmp_path / ".a.h5.lock"), pytest.raises(RequestError, match="4321"):
        save(tmp_path / "a.h5", estimate())


# --- the transaction


def test_a_save_that_fails_half_way_changes_nothing(tmp_path):
    class Broken(Estimate):
        def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
            return xr.Dataset({"value": ((), 1.0, {"units": {}})})  # an attribute is no dict

    path = tmp_path / "a.h5"
    save(path, estimate(seed=0))
    before = path.read_bytes()
    with pytest.raises(TypeError):
        save(path, [estimate(seed=1), Broken(settings={})])
    assert path.read_bytes() == before
    assert visible_and_hidden(tmp_path) == [".a.h5.lock", "a.h5"]


def test_a_plane_that_cannot_be_shown_half_way_changes_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    save(path, plane(1.0))
    before = path.read_bytes()
    write = store.vtkhdf.write_image

    def interrupted(file, dataset, source):
        write(file, dataset, source)
        raise KeyboardInterrupt

    monkeypatch.setattr(store.vtkhdf, "write_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(path, plane(2.0))
    assert path.read_bytes() == before
    assert visible_and_hidden(tmp_path) == [".a.h5.lock", "a.h5"]


def test_what_a_dead_writer_left_is_removed_and_nothing_else(tmp_path):
    for name in (".a.h5.123.tmp", ".b.h5.123.tmp", ".a.h5.x.tmp", "a.h5.123.tmp"):
        (tmp_path / name).touch()
    save(tmp_path / "a.h5", estimate())
    kept = [".a.h5.lock", ".a.h5.x.tmp", ".b.h5.123.tmp", "a.h5", "a.h5.123.tmp"]
    assert visible_and_hidden(tmp_path) == kept


def test_a_link_stays_a_link(tmp_path):
    save(tmp_path / "real" / "a.h5", estimate(seed=0))
    (tmp_path / "link.h5").symlink_to(tmp_path / "real" / "a.h5")
    save(tmp_path / "link.h5", estimate(seed=1))
    assert (tmp_path / "link.h5").is_symlink()
    assert len(records(tmp_path / "real" / "a.h5")) == 2


def test_a_reader_that_keeps_the_file_open_hinders_nobody(tmp_path):
    path = tmp_path / "a.h5"
    (old,) = save(path, estimate(seed=0))
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        (new,) = save(path, estimate(seed=1))
        assert read(path, new)["value"].item() == 1.5
        assert len(records(path)) == 2
        assert tree[old]["value"].item() == 1.5


def save_some(path: Path, worker: int, number: int) -> None:
    for index in range(number):
        save(path, estimate(worker=worker, index=index))


def test_writers_at_the_same_time_lose_nothing(tmp_path):
    path = tmp_path / "a.h5"
    workers = [WORKERS.Process(target=save_some, args=(path, worker, 4)) for worker in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    found = {(info.settings["worker"], info.settings["index"]) for info in records(path)}
    assert found == {(worker, index) for worker in range(3) for index in range(4)}


def save_for_ever(path: Path, log: Path, life: int) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for index in count():
        (group,) = save(path, estimate(life=life, index=index))
        os.write(descriptor, f"{group}\n".encode())


def test_a_kill_at_any_moment_loses_no_record_that_was_reported(tmp_path):
    path, log = tmp_path / "runs" / "a.h5", tmp_path / "log"
    generator = np.random.default_rng(0)
    interrupted = 0
    log.touch()
    for life in range(10):
        before = log.stat().st_size
        writer = WORKERS.Process(target=save_for_ever, args=(path, log, life))
        writer.start()
        while log.stat().st_size == before:
            assert writer.is_alive()
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.1))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        held = [info.group for info in records(path)]
        assert set(held) >= set(log.read_text().split())
        assert read(path, held[-1])["value"].item() == 1.5
        with h5py.File(path) as file:  # also what was saved but not reported is whole
            assert all(file[group]["value"][()] == 1.5 for group in held)
        temporaries = [name for name in visible_and_hidden(path.parent) if name.endswith(".tmp")]
        assert len(temporaries) <= 1
        interrupted += len(temporaries)
    assert interrupted >= 1  # else no kill hit a save, and nothing was tested
    save(path, estimate())
    assert visible_and_hidden(path.parent) == [".a.h5.lock", "a.h5"]


def save_planes_for_ever(path: Path, life: int) -> None:
    for index in count():
        save(path, plane(float(index + 1), life=life))


def test_a_kill_at_any_moment_leaves_the_newest_plane_shown(tmp_path):
    path = tmp_path / "a.h5"
    generator = np.random.default_rng(0)
    save(path, plane())
    for life in range(4):
        writer = WORKERS.Process(target=save_planes_for_ever, args=(path, life))
        before = path.stat().st_ino
        writer.start()
        while path.stat().st_ino == before:
            assert writer.is_alive()
            time.sleep(0.001)
        time.sleep(generator.uniform(0, 0.1))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        newest = records(path)[-1]
        assert newest.settings["life"] == life
        with h5py.File(path) as file:
            assert file["VTKHDF"].attrs["source"] == newest.group
        assert losses_in_vtk(path) == [newest.settings["factor"] * value for value in SHOWN]


def test_the_store_does_not_import_torch():
    program = "import sys, landscape.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
