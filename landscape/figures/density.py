"""The spectral density: its distribution function with a band, and the density for the eye.

The numbers are those of `curvature.density`; only the lower panel smooths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from landscape.figures.canvas import (
    BLUE,
    LEGEND,
    NOISE,
    VERMILION,
    asinh_axis,
    described,
    heading,
    label,
    pretty,
    sheet,
    unit_of,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landscape.curvature.density import SpectralDensity

    Array = NDArray[np.float64]

__all__ = ["density"]

_MAX_DECADES = 6  # between the width of the linear part of the axis and the largest eigenvalue
_MARGIN = 0.03  # of the axis, beyond what holds the spectrum
_OVERLAP = 0.7  # bandwidth over the gap between nodes: even nodes give an even density
_BANDWIDTHS = (0.06, 1.0)  # narrowest and widest, in units of u


def density(record: xr.Dataset | SpectralDensity) -> Figure:
    """Distribution function with its 95 % band, above the density with the deflated eigenvalues.

    The axis is linear within a width s around 0, which holds half of the bulk, and logarithmic
    beyond. The density is that of u = asinh(eigenvalue / s): there each quadrature node is as wide
    as the gap to its neighbours, so a far outlier does not blur the bulk.
    """
    from landscape.curvature.density import SpectralDensity

    data = described(record)
    found = record if isinstance(record, SpectralDensity) else SpectralDensity.from_dataset(data)
    support = np.concatenate([found.outliers, found.nodes[found.weights > 0]])
    width = _linear_width(found)
    ends = np.concatenate([support, found.edges])
    ends = np.arcsinh(ends[np.isfinite(ends)] / width)
    margin = max(_MARGIN * (ends.max() - ends.min()), 4 * _BANDWIDTHS[0])
    low, high = width * np.sinh([ends.min() - margin, ends.max() + margin])
    figure, axes = sheet(2, 1, height=5.6, sharex=True)
    top, bottom = axes[:, 0]
    floor = found.noise_floor
    for axis, name in ((top, f"rounding noise, |λ| < {pretty(floor, 2)}"), (bottom, None)):
        # The line is to be seen where the floor is thinner than that.
        axis.axvspan(-floor, floor, color=NOISE, linewidth=1.5, zorder=0, label=name)
    _draw_distribution(top, found, np.unique([low, *support, *found.edges, high]))
    _draw_density(bottom, found, width, np.arcsinh(np.asarray([low, high]) / width))
    asinh_axis(bottom, low, high, width)
    label(top, y="share of eigenvalues ≤ λ", title=_facts(found))
    label(bottom, x=f"eigenvalue λ ({unit_of(data['node'])})", y="share of eigenvalues")
    figure.align_ylabels([top, bottom])
    handles = [*top.get_legend_handles_labels()[0], *bottom.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, **LEGEND)
    heading(figure, f"Spectral density of {found.size:,} eigenvalues", found.num_products)
    return figure


def _linear_width(found: SpectralDensity) -> float:
    """The magnitude that half of the bulk stays below, as far as the noise and the axis allow."""
    largest = float(np.abs([*found.edges, *found.outliers]).max())
    magnitudes, weights = np.abs(found.nodes).ravel(), found.weights.ravel()
    order = np.argsort(magnitudes)
    shares = np.cumsum(weights[order])
    half = 0.0
    if len(shares) and shares[-1] > 0:
        half = float(magnitudes[order][np.searchsorted(shares, shares[-1] / 2)])
    return max(half, found.noise_floor, largest / 10**_MAX_DECADES) or 1.0


def _facts(found: SpectralDensity) -> str:
    """What there is to read, in numbers."""
    floor = found.noise_floor
    below = np.nextafter(-floor, -np.inf)  # without what lies on the floor, if that is 0
    shares = np.stack([found.cdf(below), *found.cdf_band(below), found.mass(below, floor)])
    negative, low, high, near = (pretty(round(100 * share, 4), 3) for share in shares.tolist())
    first, last = found.quantile([0.05, 0.95])
    return (
        f"{negative} % negative (95 % band: {low} to {high} %), {near} % within the noise\n"
        f"90 % between {pretty(first, 2)} and {pretty(last, 2)}; W1 distance to the truth: at most "
        f"{pretty(found.wasserstein_error(), 2)}"
    )


def _draw_distribution(axis: Axes, found: SpectralDensity, points: Array) -> None:
    low, high = found.cdf_band(points)
    # F and its band are constant between two points: nodes, outliers and edges.
    axis.fill_between(
        points, low, high, step="post", color=BLUE, alpha=0.22, linewidth=0, label="95 % band"
    )
    axis.plot(
        points,
        found.cdf(points),
        drawstyle="steps-post",
        color=BLUE,
        linewidth=1.4,
        label="distribution function",
    )
    axis.set_ylim(-0.03, 1.03)


def _draw_density(axis: Axes, found: SpectralDensity, width: float, ends: Array) -> None:
    unit_mass = 1 / found.size
    grid = np.linspace(ends[0], ends[1], 2000)
    heights = _smoothed(found, np.arcsinh(found.nodes / width), grid)
    bottom = unit_mass / 5
    axis.fill_between(width * np.sinh(grid), bottom, heights, color=BLUE, alpha=0.22, linewidth=0)
    axis.plot(
        width * np.sinh(grid),
        heights,
        color=BLUE,
        linewidth=1.4,
        label=f"the others: share per unit of asinh(λ / {pretty(width, 2)})",
    )
    if len(found.outliers):
        axis.vlines(found.outliers, bottom, unit_mass, color=VERMILION, linewidth=1.2)
        axis.plot(
            found.outliers,
            np.full(len(found.outliers), unit_mass),
            linestyle="none",
            marker="o",
            markersize=4,
            color=VERMILION,
            label=f"{len(found.outliers)} deflated eigenvalues: share 1/{found.size:,} each",
        )
    axis.set_yscale("log")
    axis.set_ylim(bottom, 4 * max(heights.max(), unit_mass))


def _smoothed(found: SpectralDensity, nodes: Array, grid: Array) -> Array:
    """(len(grid),) the density at `grid`, all in u: a Gaussian for each node (p, m) of a probe."""
    density = np.zeros_like(grid)
    for row, weights, exact in zip(nodes, found.weights, found.is_exact, strict=True):
        held = weights > 0
        places, shares = row[held], weights[held]
        gaps = np.diff(places)
        nearest = np.minimum(np.append(gaps, np.inf), np.insert(gaps, 0, np.inf))
        # The nodes of an invariant space are eigenvalues: nothing lies between them.
        gaps = np.where(exact, 0.0, _OVERLAP * nearest)
        widths = np.clip(gaps, *_BANDWIDTHS)
        distances = (grid[:, None] - places) / widths
        kernels = np.exp(-(distances**2) / 2) / (widths * np.sqrt(2 * np.pi))
        density += kernels @ shares / len(nodes)
    return np.asarray(density * (found.size - len(found.outliers)) / found.size)
