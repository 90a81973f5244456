"""The animation of a family: a frame a plane, on one scale, and a file that can be played."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from landscape import figures
from landscape.errors import RequestError

SHAPE = (7, 5)
BOWL = np.linspace(-1, 1, 7)[:, None] ** 2 + np.linspace(-1, 1, 5) ** 2


@pytest.fixture
def family(plane_sweep):
    return {
        f"step {step}": plane_sweep(loss=0.1 + step * BOWL, center_loss=0.1 * step)
        for step in (1, 3, 90)
    }


@pytest.fixture
def frames(monkeypatch):
    """What each frame shows when it is written: title, levels, colours, limits, place."""
    seen = []
    write = Figure.savefig

    def savefig(figure, *args, **options):
        (axis,) = figure.axes
        bands = next(
            (one for one in axis.collections if isinstance(one, ContourSet) and one.filled), None
        )
        write(figure, *args, **options)
        seen.append(
            {
                "title": axis.get_title("left"),
                "levels": None if bands is None else tuple(bands.levels),
                "limits": (axis.get_xlim(), axis.get_ylim()),
                "place": axis.get_position().bounds,
                "heading": figure._suptitle.get_position(),
                "ink": len(axis.get_children()),
                "patches": len(axis.patches),
                "label": axis.get_xlabel(),
            }
        )

    monkeypatch.setattr(Figure, "savefig", savefig)
    return seen


def pictures(path):
    with Image.open(path) as file:
        return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(file)]


def test_a_gif_has_a_frame_a_plane_in_order(family, frames, tmp_path):
    figures.animation(family, tmp_path / "family.gif")
    with Image.open(tmp_path / "family.gif") as file:
        assert file.n_frames == 3
        assert file.info["loop"] == 0  # for ever
        assert file.info["duration"] == 500
    assert [frame["title"] for frame in frames] == [
        "step 1: 0.1 at the center",
        "step 3: 0.3 at the center",
        "step 90: 9 at the center",
    ]
    first, second, third = pictures(tmp_path / "family.gif")
    assert first.shape == second.shape == third.shape
    assert (first != second).any()
    assert (second != third).any()


def test_all_frames_have_one_scale_and_one_place(family, frames, tmp_path):
    figures.animation(family, tmp_path / "family.gif")
    for name in ("levels", "limits", "place", "heading"):
        assert len({frame[name] for frame in frames}) == 1, name
    levels = frames[0]["levels"]
    assert levels[0] <= 0.1
    assert levels[-1] >= 180


def test_a_frame_keeps_nothing_of_the_one_before(family, frames, plane_sweep, tmp_path):
    loss = 0.1 + BOWL
    loss[0, 0] = np.inf
    planes = {
        "clipped": plane_sweep(loss=loss, marks={"other": (0.5, 0.5)}),
        "not": family["step 1"],
    }
    figures.animation(planes, tmp_path / "one.gif")
    figures.animation({"not": family["step 1"]}, tmp_path / "other.gif")
    clipped, after, alone = frames
    assert (clipped["patches"], after["patches"]) == (1, 0)
    assert after["ink"] == alone["ink"]


def test_planes_of_other_extents_share_the_widest_limits(plane_sweep, frames, tmp_path):
    wide = plane_sweep(a=np.linspace(-2, 3, 7), norms=[5.0, 5.0])
    figures.animation({"narrow": plane_sweep(), "wide": wide}, tmp_path / "family.gif")
    assert {frame["limits"] for frame in frames} == {((-2, 3), (-1, 1))}
    assert [frame["label"] for frame in frames] == [
        "along here\n(units of d, ‖d‖ = 2)",
        "along here\n(units of d, ‖d‖ = 5)",
    ]


def test_a_plane_without_values_is_a_frame_too(plane_sweep, family, frames, tmp_path):
    diverged = plane_sweep(loss=np.full(SHAPE, np.nan), center_loss=np.nan)
    figures.animation({**family, "diverged": diverged}, tmp_path / "family.gif")
    assert len(pictures(tmp_path / "family.gif")) == 4
    assert frames[-1]["levels"] is None
    assert frames[-1]["patches"] == 1


def test_mp4_without_ffmpeg_says_what_is_lacking(family, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RequestError, match=r"ffmpeg.*family\.gif"):
        figures.animation(family, tmp_path / "family.mp4")


def test_mp4_is_written_by_ffmpeg(family, tmp_path, monkeypatch):
    # One that keeps what it is given: raw frames, as many and as large as it was told.
    program = tmp_path / "ffmpeg"
    program.write_text(
        '#!/bin/sh\nfor last; do :; done\necho "$@" > "$last.words"\nexec /bin/cat > "$last"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    target = tmp_path / "family.mp4"
    figures.animation(family, target)
    words = (tmp_path / "family.mp4.words").read_text().split()
    width, height = map(int, words[words.index("-s") + 1].split("x"))
    assert width % 2 == height % 2 == 0  # h264 takes no others
    assert target.stat().st_size == 3 * 4 * width * height


def test_another_kind_of_file_gets_the_nearest_right_one(family, tmp_path):
    with pytest.raises(RequestError, match=r"'\.gfi'.*'\.gif'"):
        figures.animation(family, tmp_path / "family.gfi")


def test_a_folder_that_is_not_there_is_named(family, tmp_path):
    with pytest.raises(RequestError, match=r"cannot write .*missing/family\.gif"):
        figures.animation(family, tmp_path / "missing" / "family.gif")


def test_no_planes_or_other_records_are_refused(line_sweep, tmp_path):
    with pytest.raises(RequestError, match="--probe plane"):
        figures.animation({}, tmp_path / "family.gif")
    with pytest.raises(RequestError, match=r"figures\.line"):
        figures.animation({"line": line_sweep()}, tmp_path / "family.gif")
    assert not list(tmp_path.iterdir())
