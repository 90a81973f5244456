"""What the figures share: an empty sheet in the house's look, axes for signed values, numbers.

Everything is set on the figure itself: neither pyplot nor matplotlib's global settings are touched.
matplotlib is imported where it is used, so that importing `landscape.figures` stays light.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from landscape.result import Result

__all__ = ["BLUE", "GREY", "INK", "LEGEND", "NOISE", "SIZE", "VERMILION", "asinh_axis", "described"]
__all__ += ["heading", "label", "log_axis", "pretty", "sheet", "unit_of", "widened", "with_error"]

# Okabe and Ito 2008, Color Universal Design: told apart with any kind of colour vision.
BLUE, VERMILION = "#0072B2", "#D55E00"
INK, GREY, NOISE = "#222222", "#6B6B6B", "#E3E3E3"
SIZE = 9.0  # of the text, in points, on a sheet as wide as a page: 7 inches
LEGEND: Mapping[str, Any] = {"fontsize": SIZE - 1, "frameon": False, "labelcolor": INK}

_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_FAR = 300  # times the least value: more are labelled as powers of ten
_TICK_GAP = 0.09  # of the axis: closer labels would touch


def described(record: Result | xr.Dataset) -> xr.Dataset:
    """A record as it is read from a file, of a result that was never in one."""
    from landscape.result import Result

    if not isinstance(record, Result):
        return record
    settings = json.dumps(dict(record.settings), default=str)
    attributes = {"settings": settings, "num_products": record.num_products}
    return record.to_dataset().assign_attrs(attributes)


def unit_of(variable: xr.DataArray) -> str:
    """Its unit, typeset."""
    return str(variable.attrs.get("units", "1")).replace("^2", "²")


def sheet(rows: int, columns: int, **layout: Any) -> tuple[Figure, NDArray[Any]]:
    """A figure of `height` and `width` in inches, and its axes (rows, columns)."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    size = (layout.pop("width", 7.0), layout.pop("height"))
    engine = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06, hspace=0.03, wspace=0.03)
    figure = Figure(figsize=size, layout=engine, facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False, **layout)
    for axis in axes.flat:
        axis.set_facecolor("white")
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(which="both", labelsize=SIZE - 1, colors=INK)
        axis.grid(True, axis="y", color="#E9E9E9", linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def heading(figure: Figure, title: str, num_products: object = None) -> None:
    """The figure's title, with what the measurement took, if it says."""
    if num_products:
        title += f", {num_products:,} products"
    figure.suptitle(title, x=0.012, ha="left", fontsize=SIZE + 2, fontweight="bold", color=INK)


def label(axis: Axes, *, x: str = "", y: str = "", title: str = "") -> None:
    """Labels in the house's type; the title at the left, where reading begins."""
    axis.set_xlabel(x, fontsize=SIZE, color=INK)
    axis.set_ylabel(y, fontsize=SIZE, color=INK)
    axis.set_title(title, loc="left", fontsize=SIZE, color=INK)


def widened(low: float, high: float, *, share: float = 0.06) -> tuple[float, float]:
    """Limits with a margin, also around values that are all equal, or none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return 0.0, 1.0
    margin = max(share * (high - low), 0.02 * max(abs(low), abs(high)))
    return (low - margin, high + margin) if margin > 0 else (-1.0, 1.0)


def asinh_axis(axis: Axes, low: float, high: float, width: float) -> None:
    """An x axis linear within +-`width` and logarithmic beyond, on both sides of zero."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter

    axis.set_xscale("asinh", linear_width=width)
    axis.set_xlim(low, high)

    def place(x: float) -> float:  # along the axis, from 0 to 1
        start, end = math.asinh(low / width), math.asinh(high / width)
        return (math.asinh(x / width) - start) / (end - start)

    def spread(ticks: Iterable[float]) -> list[float]:  # the first have precedence
        kept: list[float] = []
        for tick in ticks:
            clear = all(abs(place(tick) - place(other)) >= _TICK_GAP for other in kept)
            if low <= tick <= high and clear:
                kept.append(tick)
        return sorted(kept)

    first = math.ceil(math.log10(width))
    last = math.floor(math.log10(max(abs(low), abs(high))))
    decades = [10.0**exponent for exponent in range(last, first - 1, -1)]
    signed = [sign * decade for decade in decades for sign in (1, -1)]
    ticks = spread([0.0, *signed])
    if len(decades) < 2 or len(ticks) < 3:  # too short: as on a linear axis
        ticks = spread(sorted(MaxNLocator(8).tick_values(low, high), key=abs))
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: pretty(x)))
        signed = []
    else:
        axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: _power(x)))
    steps = range(1, 10) if len(decades) < 6 else (1,)
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(FixedLocator([tick * step for tick in signed for step in steps]))
    axis.xaxis.set_minor_formatter(NullFormatter())


def log_axis(axis: Axes, which: Literal["x", "y"], low: float, high: float) -> None:
    """A log axis for values from `low` to `high`, with plain numbers where that is not far."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set(**{f"{which}scale": "log"})
    scale = axis.xaxis if which == "x" else axis.yaxis
    scale.set_minor_formatter(NullFormatter())
    if high < _FAR * low:
        scale.set_major_locator(LogLocator(subs=(1, 2, 5) if which == "y" else (1, 3)))
        scale.set_major_formatter(FuncFormatter(lambda number, _: pretty(number)))


def pretty(number: float, digits: int = 4) -> str:
    """So many digits, with signs and powers as they are printed: "−1.5×10⁻⁸"."""
    mantissa, _, exponent = f"{number + 0.0:.{digits}g}".partition("e")  # no "-0"
    power = f"×10{str(int(exponent)).translate(_RAISED)}" if exponent else ""
    return mantissa.replace("-", "−") + power


def with_error(value: float, error: float) -> str:
    """Value and error with the digits that the error leaves: "12.35 ± 0.02"."""
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return pretty(value)
    decimals = -math.floor(math.log10(error))
    if 0 <= decimals <= 4:
        return f"{value:.{decimals}f} ± {error:.{decimals}f}".replace("-", "−")
    size = math.floor(math.log10(abs(value))) if value else 0
    digits = min(max(size + decimals + 1, 1), 6)
    return f"{pretty(value, digits)} ± {pretty(error, 1)}"


def _power(x: float) -> str:
    if x == 0:
        return "0"
    exponent = round(math.log10(abs(x)))
    return f"${'-' if x < 0 else ''}10^{{{exponent}}}$"
