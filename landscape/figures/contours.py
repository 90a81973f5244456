"""A field over a plane in colours: bands between levels, and what has no value.

The levels are made once for all that is to be compared: panels, frames, points of a trajectory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from landscape.errors import RequestError
from landscape.figures.canvas import GREY, INK, SIZE, label, pretty, widened
from landscape.figures.captions import along, clip_name, spans_a_decade

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.contour import ContourSet
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.patheffects import AbstractPathEffect
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["Levels", "absent", "coordinates_of", "draw_absent", "draw_bands", "draw_marks"]
__all__ += ["declutter", "filled", "frame", "halo", "proportion", "scale_note", "shade_bar"]

_MANTISSAS = ((1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8), (1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))
_MOST_BANDS = 16  # more cannot be told apart
_REACH = 1e6  # from the median: what is farther has the colour of the end
_FLAT = 1e-13  # of the value: differences that are rounding
_MOST_ASPECT = 3.0  # true lengths that differ more leave no room for a picture
_LETTERS, _FEWEST_LETTERS = 15, 16  # of a direction's name: to an inch, and on a line
_NAMED_TICKS = 12  # on a colour bar
_MAPS = {"loss": ("YlGnBu_r", 0.18, 1.0), "accuracy": ("YlOrBr", 0.0, 0.75)}
_CLIPPED, _ABSENT = "#F3F3EC", "#C9C9C9"
_MARKER = 9.0  # pixels around a point that belong to its marker
_LEVEL = "level"  # marks the names of levels among the texts of an axis


@dataclass(frozen=True, eq=False)
class Levels:
    """Bands of equal colour.

    Attributes:
        edges: (n + 1,) ascending: band i reaches from `edges[i]` to `edges[i + 1]`.
        is_log: whether they are even on a log scale, as nearly as round numbers are.
        quantity: names the colours: low losses are dark, low accuracies are light.
    """

    edges: Array
    is_log: bool
    quantity: Literal["loss", "accuracy"] = "loss"

    @classmethod
    def of(cls, values: Array, quantity: Literal["loss", "accuracy"] = "loss") -> Levels:
        """Round levels that hold all finite values; logarithmic where losses span a decade."""
        finite = values[np.isfinite(values)]
        if not len(finite):
            return cls(np.asarray([0.0, 1.0]), False, quantity)
        low, high = float(finite.min()), float(finite.max())
        if high - low <= _FLAT * max(abs(low), abs(high)):
            return cls(np.asarray(widened(low, high)), False, quantity)
        if quantity == "loss" and spans_a_decade(finite):
            middle = float(np.median(finite))
            return cls(
                _log_edges(max(low, middle / _REACH), min(high, middle * _REACH)), True, quantity
            )
        from matplotlib.ticker import MaxNLocator

        locator = MaxNLocator(14, steps=[1, 2, 2.5, 5, 10])
        return cls(np.asarray(locator.tick_values(low, high)), False, quantity)

    @property
    def colours(self) -> ListedColormap:
        """One colour a band."""
        from matplotlib import colormaps
        from matplotlib.colors import ListedColormap

        name, first, last = _MAPS[self.quantity]
        return ListedColormap(colormaps[name](np.linspace(first, last, len(self.edges) - 1)))

    @property
    def norm(self) -> BoundaryNorm:
        """From values to the band that they are in."""
        from matplotlib.colors import BoundaryNorm

        return BoundaryNorm(self.edges, len(self.edges) - 1)

    def named(self, value: float) -> str:
        """A level with the digits that tell it from its neighbours."""
        if self.is_log:
            return pretty(value, 3).removeprefix("1×")
        step, largest = np.diff(self.edges).min(), np.abs(self.edges).max()
        if abs(value) < step / 100:  # what is left of zero after rounding
            return "0"
        return pretty(value, max(3, 2 + math.floor(math.log10(largest)) - _exponent(step)))

    def inside(self, values: Array) -> Array:
        """The levels that the finite values cross."""
        finite = values[np.isfinite(values)]
        if not len(finite):
            return self.edges[:0]
        crossed: Array = self.edges[(self.edges > finite.min()) & (self.edges < finite.max())]
        return crossed


def _exponent(number: float) -> int:
    return math.floor(math.log10(number))


def _log_edges(low: float, high: float) -> Array:
    """Round numbers around [low, high], as dense as leaves the bands apart."""
    first, last = _exponent(low), _exponent(high)
    decades = [10.0**exponent for exponent in range(first, last + 2)]
    choices = (
        _around(low, high, [digit * decade for decade in decades for digit in mantissas])
        for mantissas in _MANTISSAS
    )
    return next(edges for edges in choices if len(edges) <= _MOST_BANDS + 1)


def _around(low: float, high: float, numbers: list[float]) -> Array:
    edges = np.asarray(numbers)
    first = int(np.searchsorted(edges, low, side="right")) - 1
    last = int(np.searchsorted(edges, high, side="left"))
    return edges[max(first, 0) : last + 1]


def coordinates_of(data: xr.Dataset) -> tuple[Array, Array]:
    """Both axes of a plane.

    Raises:
        RequestError: no plane, or one with a single point along an axis.
    """
    if not {"a", "b"} <= set(data.dims) or "c" in data.dims:
        raise RequestError(
            f"a plane has the axes a and b; this record has {', '.join(map(str, data.dims))}. Draw "
            "lines with `figures.line`, or measure a plane: landscape probe CKPT --probe plane."
        )
    if min(data.sizes["a"], data.sizes["b"]) < 2:
        raise RequestError(
            f"a plane of {data.sizes['a']} x {data.sizes['b']} points has no area to draw. "
            "Measure at least 2 x 2 points: num=(21, 21)."
        )
    return data["a"].to_numpy(), data["b"].to_numpy()


def filled(values: Array) -> Array:
    """Finite values to draw contours of: the nearest one for NaN, the largest beyond the clip.

    What is filled in is hidden by `draw_absent`, but for the half of a cell beside it.
    """
    from scipy.ndimage import distance_transform_edt

    finite = np.isfinite(values)
    if finite.all():
        return values
    nearest = distance_transform_edt(~finite, return_distances=False, return_indices=True)
    found: Array = values[tuple(nearest)]
    return np.where(np.isposinf(values), values[finite].max(), found)


def draw_bands(axis: Axes, data: xr.Dataset, values: Array, levels: Levels) -> ContourSet | None:
    """Filled contours with lines and their levels on them; None where no value is finite."""
    a, b = coordinates_of(data)
    if not np.isfinite(values).any():
        return None
    heights = filled(values).T  # rows are along y
    bands = axis.contourf(
        a, b, heights, levels.edges, cmap=levels.colours, norm=levels.norm, extend="both"
    )
    inside = levels.inside(heights)
    if len(inside):
        lines = axis.contour(a, b, heights, inside, colors=INK, linewidths=0.4, alpha=0.55)
        names = axis.clabel(lines, fmt=levels.named, fontsize=SIZE - 2.5, colors=INK, zorder=2.2)
        for name in names:
            name.set(path_effects=halo(1.2), alpha=1.0, gid=_LEVEL)
    return bands


def absent(data: xr.Dataset, values: Array) -> list[tuple[NDArray[np.bool_], Patch]]:
    """Which points have no value to draw, by reason, and how they are hatched."""
    from matplotlib.patches import Patch

    clipped = np.isposinf(values)
    kinds = (
        (~np.isfinite(values) & ~clipped, "NaN, or not measured", _ABSENT, "xxxx"),
        (clipped, clip_name(data), _CLIPPED, "////"),
    )
    return [
        (
            chosen,
            Patch(label=name, facecolor=colour, edgecolor=GREY, hatch=hatch, linewidth=0.0),
        )
        for chosen, name, colour, hatch in kinds
        if chosen.any()
    ]


def draw_absent(axis: Axes, data: xr.Dataset, values: Array) -> list[Patch]:
    """Hatch what is `absent`, each point half-way to its neighbours; what it means."""
    from matplotlib.patches import PathPatch

    a, b = coordinates_of(data)
    kinds = absent(data, values)
    for chosen, patch in kinds:
        found = axis.contourf(a, b, chosen.T.astype(float), [0.5, 1.5])
        for path in found.get_paths():
            cover = PathPatch(path)
            cover.update_from(patch)
            cover.set(zorder=2.4, transform=axis.transData)
            axis.add_patch(cover)
        found.remove()
    return [patch for _, patch in kinds]


def draw_marks(axis: Axes, data: xr.Dataset) -> Iterator[Artist]:
    """The center and the marked points by name; three points are joined to a triangle."""
    a, b = coordinates_of(data)
    places = data["mark_place"].to_numpy() if "mark_place" in data else np.empty((0, 2))
    names = [str(name) for name in data["mark"].to_numpy()] if len(places) else []
    if len(places) == 3:
        corners = np.concatenate([places, places[:1]])
        axis.plot(*corners.T, color=INK, linewidth=0.9, linestyle="--", zorder=2.6)
    if not (places == 0).all(axis=1).any():
        (center,) = axis.plot(
            [0],
            [0],
            linestyle="none",
            marker="+",
            markersize=8,
            markeredgewidth=1.6,
            color=INK,
            zorder=3,
            label="center",
            path_effects=halo(2.0),
        )
        yield center
    for index, (place, name) in enumerate(zip(places, names, strict=True)):
        axis.plot(
            *place[:, None],
            marker="o",
            markersize=5,
            color="white",
            markeredgecolor=INK,
            markeredgewidth=1.2,
            zorder=3,
        )
        right = place[0] > (a.min() + a.max()) / 2
        # Every other name beneath its point: two points at one height would share a line of text.
        beneath = index % 2 == 0 and len(places) > 1 and place[1] < (b.min() + b.max()) / 2
        axis.annotate(
            name,
            place,
            xytext=(-6 if right else 6, -5 if beneath else 5),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top" if beneath else "baseline",
            fontsize=SIZE - 1,
            color=INK,
            zorder=3.2,
            path_effects=halo(2.0),
            annotation_clip=True,
        )
    axis.set_xlim(a.min(), a.max())
    axis.set_ylim(b.min(), b.max())


def halo(width: float) -> list[AbstractPathEffect]:
    """A white rim, for ink that has to be seen on any band."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=width, foreground="white")]


def declutter(figure: Figure) -> None:
    """Hide names of levels that leave their axes or touch a mark, its name or each other."""
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    for axis in figure.axes:
        inside = axis.get_window_extent().padded(-1)
        others = [text for text in axis.texts if text.get_gid() != _LEVEL]
        taken = [text.get_window_extent().padded(4) for text in others]
        taken += [
            Bbox([point, point]).padded(_MARKER)
            for line in axis.lines
            if line.get_marker() not in ("None", "", None)
            for point in line.get_transform().transform(line.get_xydata())
        ]
        paths = [line.get_path().transformed(line.get_transform()) for line in axis.lines]
        for name in [text for text in axis.texts if text.get_gid() == _LEVEL]:
            box = name.get_window_extent()
            fits = inside.x0 <= box.x0 <= box.x1 <= inside.x1
            fits = fits and inside.y0 <= box.y0 <= box.y1 <= inside.y1
            fits = fits and not any(box.overlaps(other) for other in taken)
            if fits and not any(path.intersects_bbox(box, filled=False) for path in paths):
                taken.append(box)
            else:
                name.set_visible(False)


def proportion(data: xr.Dataset, a: Array, b: Array) -> float | None:
    """A step of 1 along b over one along a, in true lengths; None where no picture would be left.

    Args:
        a, b: what is to be seen along either axis.
    """
    norms = data["direction_norm"].to_numpy()
    ratio = float(norms[1] / norms[0]) if norms[0] > 0 else math.nan
    shape = ratio * float(np.ptp(b)) / (float(np.ptp(a)) or math.nan)
    return ratio if 1 / _MOST_ASPECT <= shape <= _MOST_ASPECT else None


def frame(
    axis: Axes, data: xr.Dataset, ratio: float | None, *, width: float, height: float
) -> None:
    """Labels with units, and a step along b that is `ratio` times as long as one along a.

    Args:
        width, height: of the axis in inches, about: longer names of directions are broken.
    """
    if ratio is not None:
        axis.set_aspect(ratio)
    axis.grid(False)
    axis.spines[["top", "right"]].set_visible(True)
    axis.locator_params(nbins=6)
    letters = [max(_FEWEST_LETTERS, int(_LETTERS * size)) for size in (width, height)]
    label(axis, x=along(data, 0, letters=letters[0]), y=along(data, 1, letters=letters[1]))


def scale_note(axis: Axes) -> str:
    """A sentence for the reader where lengths along the two axes cannot be compared."""
    return " The axes have different scales." if axis.get_aspect() == "auto" else ""


def shade_bar(axis: Axes, levels: Levels) -> None:
    """The colours beside an axis, with round numbers at the ends of bands."""
    from matplotlib.cm import ScalarMappable

    shades = ScalarMappable(levels.norm, levels.colours)
    ticks = levels.edges[:: math.ceil(len(levels.edges) / _NAMED_TICKS)]
    # An inset is as high as its axes, whatever their proportion.
    bar = axis.figure.colorbar(shades, cax=axis.inset_axes((1.03, 0, 0.045, 1)), ticks=ticks)
    bar.ax.set_yticklabels([levels.named(tick) for tick in ticks])
    bar.ax.tick_params(which="both", labelsize=SIZE - 1.5, colors=INK, length=2)
    bar.ax.minorticks_off()
    bar.outline.set_linewidth(0.6)
