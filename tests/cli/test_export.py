"""Slices leave a result file in every format, and surfaces of loss-landscape come in."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from exchange.surfaces import X, Y, crunch, exact
from exchange.sweeps import asymmetric_sweep, image_of, point_fields

from landscape import store
from landscape.cli.export import FORMATS
from landscape.result import Result


class Other(Result):
    """A record without a grid."""

    probe = "trace"
    status = "converged"

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        return xr.Dataset({"value": ((), 1.5, {"units": "1", "long_name": "trace"})})


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A line, two planes, the newer one last, and what is no sweep at all."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "ckpt.h5"
    planes = [asymmetric_sweep(settings={"seed": seed}) for seed in (0, 1)]
    planes[1].fields["loss"][:] *= 2
    store.save(path, [asymmetric_sweep(1), *planes, Other(settings={})])
    return path


def groups_of(path):
    return [info.group for info in store.records(path)]


@pytest.mark.parametrize("format_", FORMATS)
def test_the_newest_sweep_goes_beside_the_file_by_default(run, file, format_):
    done = run("export", file, "--format", format_, "--json")
    assert done.code == 0
    target = file.with_name(f"ckpt-plane.{format_}")
    assert done.json["written"] == str(target)
    assert done.json["record"] == groups_of(file)[2]
    assert groups_of(file)[0] in done.json["notes"][0]  # the others are named
    assert target.stat().st_size > 100


def test_what_is_written_is_the_record_that_was_named(run, file):
    line, older, newer, _ = groups_of(file)
    for group, factor in ((older, 1), (newer, 2)):
        run("export", file, "--format", "csv", "--record", group, "--out", f"{factor}.csv")
        table = pd.read_csv(f"{factor}.csv")
        np.testing.assert_allclose(
            table["loss"], factor * (table["a"] ** 2 + 10 * table["b"]), rtol=1e-14
        )
    done = run("export", file, "--format", "vtkhdf", "--record", "line", "--json")
    assert done.json["record"] == line
    assert "Warp By Scalar" in done.json["notes"][-1]
    assert point_fields(image_of(file.with_name("ckpt-line.vtkhdf")))["loss"].shape == (5, 1, 1)
    assert run("export", file, "--format", "npz", "--record", older.strip("/")).code == 0


def test_a_person_reads_the_path_and_what_to_know(run, file):
    lines = run("export", file, "--format", "vts").out.splitlines()
    assert lines[0] == str(file.with_name("ckpt-plane.vts"))
    assert "--record" in lines[1]


def test_a_name_that_fits_several_sweeps_lists_them(run, file):
    done = run("export", file, "--format", "csv", "--record", "plane")
    assert done.code == 2
    assert "fits 2" in done.err
    for group in groups_of(file)[1:3]:
        assert group in done.err
    assert groups_of(file)[0] not in done.err
    missing = run("export", file, "--format", "csv", "--record", "trace")
    assert missing.code == 2
    assert groups_of(file)[0] in missing.err


def test_a_file_that_is_there_is_replaced_on_demand_only(run, file):
    words = ("export", file, "--format", "csv", "--out", "a.csv")
    assert run(*words).code == 0
    before = Path("a.csv").read_text()
    refused = run(*words, "--record", "line")
    assert refused.code == 2
    assert "--force" in refused.err
    assert Path("a.csv").read_text() == before
    assert run(*words, "--record", "line", "--force").code == 0
    assert list(pd.read_csv("a.csv").columns)[:2] == ["a", "loss"]


def test_the_result_file_is_never_the_target(run, file):
    before = file.read_bytes()
    done = run("export", file, "--format", "vtkhdf", "--out", "ckpt.h5", "--force")
    assert done.code == 2
    assert "ckpt.h5" in done.err
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ckpt.h5", "--format", "vtx"), "Did you mean 'vts'?"),
        (("ckpt.h5",), "--format"),
        (("nowhere.h5", "--format", "csv"), "nowhere.h5"),
        (("foreign.h5", "--format", "csv"), "no result file"),
        (("empty.h5", "--format", "csv"), "landscape probe"),
        (("ckpt.h5", "--format", "csv", "--out", "no/folder/a.csv"), "cannot write"),
        (("uneven.h5", "--format", "vtkhdf"), "vts"),
    ],
)
def test_a_wrong_request_says_what_to_type_and_writes_nothing(run, file, words, said):
    with h5py.File("foreign.h5", "w") as foreign:
        foreign["weights"] = np.arange(3.0)
    store.save("empty.h5", Other(settings={}))
    coordinates = (np.array([0, 1, 3.0]), np.arange(2.0))
    store.save("uneven.h5", asymmetric_sweep(coordinates=coordinates))
    before = sorted(path.name for path in file.parent.iterdir())
    done = run("export", *words)
    assert done.code == 2
    assert said in done.err
    assert sorted(path.name for path in file.parent.iterdir()) == before


def test_an_imported_surface_is_a_result_file_that_goes_out_again(run, tmp_path):
    surface = crunch(tmp_path / "net_[-1.0,1.0,5]x[-0.5,1.0,4].h5", X, Y, skip=(3,))
    done = run("import", surface, "--json")
    assert done.code == 0
    target = tmp_path / "net_[-1.0,1.0,5]x[-0.5,1.0,4]-imported.h5"
    assert done.json["written"] == str(target)
    assert (done.json["shape"], done.json["status"]) == ([5, 4], "1 of 20 points missing")
    expected = exact(X, Y)
    expected[3, 0] = np.nan
    np.testing.assert_array_equal(store.read(target, done.json["record"])["loss"], expected)
    image = point_fields(image_of(target))["loss"][..., 0]  # the result file itself
    np.testing.assert_array_equal(image, expected)
    assert run("export", target, "--format", "csv", "--out", tmp_path / "a.csv").code == 0
    table = pd.read_csv(tmp_path / "a.csv")
    np.testing.assert_array_equal(table["loss"], expected.ravel())


def test_an_import_joins_the_records_of_a_result_file(run, file):
    surface = crunch(file.with_name("surface.h5"), X)
    held = groups_of(file)
    done = run("import", surface, "--out", file)
    assert done.out.splitlines()[0] == str(file)
    assert "5 points" in done.out.splitlines()[1]
    assert any("BatchNorm" in line for line in done.out.splitlines())
    assert groups_of(file)[:4] == held
    again = run("import", surface, "--out", file)
    assert again.code == 0
    assert len(groups_of(file)) == 5


def test_an_import_never_writes_to_the_surface_nor_to_a_foreign_file(run, tmp_path):
    surface = crunch(tmp_path / "surface.h5", X, Y)
    other = crunch(tmp_path / "other.h5", X)
    before = surface.read_bytes(), other.read_bytes()
    for out in (surface, other):
        done = run("import", surface, "--out", out)
        assert done.code == 2
        assert out.name in done.err
    assert (surface.read_bytes(), other.read_bytes()) == before
    assert run("import", tmp_path / "missing.h5").code == 2
