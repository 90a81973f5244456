"""The figures' table of contents: light to import, one function a record, nothing left behind."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from oracles import symmetric_matrix

import landscape as ls
from landscape import figures


@pytest.fixture(scope="module")
def results():
    operator = ls.MatrixOperator(symmetric_matrix(np.linspace(-1, 3, 20)))
    return [
        ls.eigsh(operator, 4, which="BE", seed=0),
        ls.spectral_density(operator, deflate=3, num_steps=8, seed=0),
        ls.trace(operator, seed=0),
    ]


def test_importing_it_does_not_import_matplotlib():
    code = "import landscape.figures, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"matplotlib", "torch", "xarray", "pandas"} & set(done.stdout.split())


def test_a_record_gets_the_figures_of_its_probe(results):
    drawn = [figures.for_record(result.probe, result) for result in results]
    assert [list(found) for found in drawn] == [["eigenvalues"], ["density"], []]
    assert drawn[0]["eigenvalues"].get_suptitle().startswith("4 extreme eigenvalues")
    assert drawn[1]["density"].get_suptitle().startswith("Spectral density of 20")


def test_a_plane_has_two_figures_and_several_lines_have_their_own_name(plane_sweep, lines_sweep):
    assert list(figures.for_record("plane", plane_sweep())) == ["plane", "surface"]
    assert list(figures.for_record("lines", lines_sweep())) == ["lines"]


@pytest.mark.parametrize("name", sorted(set(figures.__all__) - {"PROBES", "for_record"}))
def test_a_function_is_not_hidden_by_its_module(name):
    importlib.import_module(f"landscape.figures.{name}")
    assert callable(getattr(figures, name))


def test_matplotlib_is_left_as_it_was(tmp_path):
    # In a process of its own: other tests may have loaded pyplot.
    code = """
import sys, numpy as np, torch, xarray as xr, landscape as ls, matplotlib as mpl
from landscape import figures
names = set(mpl.rcParams) - {"backend"}  # to ask for that one loads pyplot
before = {name: mpl.rcParams[name] for name in names}
operator = ls.MatrixOperator(torch.diag(torch.linspace(-1, 3, 20, dtype=torch.float64)))
figures.eigenvalues(ls.eigsh(operator, 4, which="BE", seed=0)).savefig(sys.argv[1])
figures.density(ls.spectral_density(operator, deflate=3, seed=0)).savefig(sys.argv[1])
axes = {"a": np.arange(3.0), "b": np.arange(4.0), "direction": np.arange(2)}
loss = (("a", "b"), 1 + np.arange(12.0).reshape(3, 4))
plane = xr.Dataset({"loss": loss, "direction_norm": ("direction", [1, 1])}, coords=axes)
figures.plane(plane).savefig(sys.argv[1])
figures.surface(plane).savefig(sys.argv[1])
figures.line(plane.isel(b=0, drop=True)).savefig(sys.argv[1])
figures.animation({"one": plane}, sys.argv[1].replace("png", "gif"))
assert "matplotlib.pyplot" not in sys.modules
assert {name: mpl.rcParams[name] for name in names} == before
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "figure.png"], check=True)


def test_no_text_leaves_the_sheet(results, tmp_path):
    for result in results[:2]:
        (figure,) = figures.for_record(result.probe, result).values()
        assert isinstance(figure, Figure)
        figure.savefig(tmp_path / "figure.png")
        sheet = figure.bbox.padded(1)
        (legend,) = figure.legends
        texts = [*legend.get_texts(), *figure.texts]
        for axis in figure.axes:
            texts += [axis.xaxis.label, axis.yaxis.label, *axis.get_children()]
        for text in texts:
            if isinstance(text, Text) and text.get_text():
                box = text.get_window_extent()
                assert sheet.x0 <= box.x0 <= box.x1 <= sheet.x1, text.get_text()
                assert sheet.y0 <= box.y0 <= box.y1 <= sheet.y1, text.get_text()
