"""`landscape plot` with slices: each kind of record is drawn, and the planes of a family move."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
from PIL import Image

import landscape as ls
from landscape.slices.quadratic import Quadratic
from landscape.slices.sweep import Sweep
from landscape.slices.topology import topology


def sweep(kind, *counts, scale=1.0):
    axes = [np.linspace(-1, 1, count) for count in counts]
    squares = [axis**2 for axis in axes]
    if kind == "lines":
        axes[0] = np.arange(float(counts[0]))
        squares[0] = axes[0]
    loss = scale * (1 + sum(np.meshgrid(*squares, indexing="ij")))
    k = counts[0] if kind == "lines" else len(counts)
    return Sweep(
        kind=kind,
        settings={"scale": scale},
        coordinates=tuple(axes),
        fields={"loss": loss},
        done=np.ones(loss.shape, bool),
        direction_names=tuple(f"direction {index}" for index in range(k)),
        direction_norms=np.ones(k),
        cosines=np.eye(k),
        center_loss=scale,
        quadratic=Quadratic(scale, np.zeros(k), 2 * scale * np.eye(k)),
    )


@pytest.fixture
def family(tmp_path, monkeypatch):
    """Files of planes, whose learning rates are not in the order of their names."""
    monkeypatch.chdir(tmp_path)
    for name, rate in (("a", 2.0), ("b", 0.1), ("c", 10.0)):
        described = {"recipe.learning_rate": rate, "seed": 1}
        ls.save(f"{name}.h5", sweep("plane", 5, 4, scale=rate), attributes=described)
    return ["a.h5", "b.h5", "c.h5"]


@pytest.fixture
def titles(monkeypatch):
    """Titles of the frames of an animation, instead of a file."""
    seen = []
    monkeypatch.setattr(
        "landscape.figures.animation", lambda planes, path: seen.append((list(planes), str(path)))
    )
    return seen


def test_every_kind_of_slice_is_drawn(run, tmp_path):
    results = [sweep("line", 7), sweep("lines", 3, 7), sweep("plane", 5, 4)]
    ls.save(tmp_path / "r.h5", [*results, topology(results[2])])
    done = run("plot", tmp_path / "r.h5", "--out", tmp_path / "figures")
    assert done.code == 0
    names = ["line", "lines", "plane", "surface", "topology"]
    assert done.out.split() == [str(tmp_path / "figures" / f"r-{name}.png") for name in names]
    for path in done.out.split():
        assert matplotlib.image.imread(path)[..., :3].std() > 0.01  # not an empty sheet


def test_the_newest_record_of_a_kind_is_drawn(run, tmp_path):
    ls.save(tmp_path / "r.h5", sweep("plane", 5, 4))
    ls.save(tmp_path / "r.h5", sweep("plane", 6, 4, scale=2.0))
    done = run("plot", tmp_path / "r.h5", "--format", "svg")
    drawn = {path.name: path.read_text() for path in tmp_path.glob("*.svg")}
    assert set(drawn) == {"r-plane.svg", "r-surface.svg"}
    assert "Loss over a plane of 6 × 4 points" in drawn["r-plane.svg"]
    assert done.code == 0


def test_a_grid_alone_is_sent_to_export(run, tmp_path):
    ls.save(tmp_path / "r.h5", sweep("grid", 3, 3, 3))
    done = run("plot", tmp_path / "r.h5")
    assert done.code == 2
    assert f"landscape export {tmp_path / 'r.h5'} --format vtkhdf" in done.err
    ls.save(tmp_path / "r.h5", sweep("line", 5))
    done = run("plot", tmp_path / "r.h5")  # beside another record it is not passed over in silence
    assert done.code == 0
    assert "landscape export" in done.err


def test_slices_of_a_family_need_no_comparison(run, family):
    done = run("plot", *family, "--out", "figures")
    assert done.code == 0
    assert "comparison" not in done.out
    assert run("plot", *family, "--by", "seed").code == 2  # who asks for one is told


def test_an_animation_is_one_file_and_nothing_else(run, family, tmp_path):
    done = run("plot", *family, "--animate", "family.gif")
    assert done.code == 0
    assert done.out.split() == ["family.gif"]
    with Image.open(tmp_path / "family.gif") as file:
        assert file.n_frames == 3
    assert not list(tmp_path.glob("*.png"))


def test_frames_follow_the_column_in_which_the_files_differ(run, family, titles):
    run("plot", *family, "--animate", "family.gif", "--out", "figures")
    assert titles == [
        (["learning rate 0.1", "learning rate 2", "learning rate 10"], "figures/family.gif")
    ]


def test_a_column_of_names_and_numbers_is_in_the_order_of_its_letters(run, family, titles):
    for path, name in zip(family, ("sgd", 3, "adam"), strict=True):
        ls.save(path, sweep("line", 5), attributes={"recipe.kind": name})
    run("plot", *family, "--animate", "family.gif", "--by", "recipe.kind")
    assert titles[0][0] == ["kind 3", "kind adam", "kind sgd"]


def test_files_that_do_not_differ_there_are_named(run, family, titles):
    run("plot", *family, "--animate", "family.gif", "--by", "seed")
    assert titles[0][0] == ["a", "b", "c"]


def test_equal_names_are_told_apart_by_their_folders(run, tmp_path, monkeypatch, titles):
    monkeypatch.chdir(tmp_path)
    for folder in ("one", "two"):
        ls.save(f"{folder}/r.h5", sweep("plane", 5, 4))
    run("plot", "one", "two", "--animate", "family.gif")
    assert titles[0][0] == ["one/r", "two/r"]


def test_what_cannot_be_animated_says_why(run, family, tmp_path):
    done = run("plot", *family, "--animate", "family.gif", "--by", "recipe.lerning_rate")
    assert done.code == 2
    assert "recipe.learning_rate" in done.err
    assert run("plot", *family, "--animate", "family.avi").code == 2
    ls.save(tmp_path / "line.h5", sweep("line", 5))
    done = run("plot", tmp_path / "line.h5", "--animate", "family.gif")
    assert done.code == 2
    assert "--probe plane" in done.err
    assert not list(tmp_path.glob("*.gif"))
