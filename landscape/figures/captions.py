"""What the figures of slices say in words: their axes, what is missing, what to beware of.

How the values get their colours: `contours`.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from landscape.figures.canvas import GREY, LEGEND, SIZE, pretty, with_error

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

__all__ = ["along", "along_each", "caveats", "clip_name", "fields_over", "missing", "number"]
__all__ += ["spans_a_decade", "write_caption"]

_SMALL = SIZE - 2
_CAPTION_LETTERS, _LEGEND_LETTERS = 18, 16  # to an inch
_COLUMN = 12  # letters that a column of the legend takes beside its longest name
_DECADE = 9.99  # what spans as much, but for rounding, is drawn on a log scale
_ROUNDING = 1e-9  # what is less is none
_PERCENT_SIGN = "\N{NO-BREAK SPACE}%"  # goes with its number to the next line
_PERCENT = "{} % of the points "
_CAVEATS = {
    "max_cosine": "cosine between the directions {}",
    "stale_bn_gap": "recalculated BatchNorm statistics change the loss by up to {}",
    "rescaling_change": "rescaled neurons, the function being equal, change the loss by up to {}",
    "interpolated_share": _PERCENT + "filled in between measured ones",
}


def along(data: xr.Dataset, index: int, *, letters: int) -> str:
    """Label of an axis of the grid: its direction, and how long a step of 1 is."""
    norm = float(data["direction_norm"][index]) if "direction_norm" in data else math.nan
    length = f", ‖d‖ = {pretty(norm)}" if math.isfinite(norm) else ""
    return f"{textwrap.fill(_name_of(data, index), letters)}\n(units of d{length})"


def along_each(data: xr.Dataset) -> str:
    """Label of the axis of several lines: what the names of their directions have in common."""
    norms = data["direction_norm"].to_numpy()
    low, high = pretty(norms.min()), pretty(norms.max())
    size = f"‖d‖ = {low}" + (f" to {high}" if high != low else "")
    names = [_name_of(data, index) for index in range(len(norms))]
    words = zip(*(name.split() for name in names), strict=False)
    shared = " ".join(found[0] for found in takewhile(lambda one: len(set(one)) == 1, words))
    common = re.sub(r"(\W|\d|seed)*$", "", shared)
    return f"{number(len(norms), 'direction')}: {common or 'various'}\n(units of each d, {size})"


def _name_of(data: xr.Dataset, index: int) -> str:
    names = str(data.attrs.get("direction_names", "")).split("\n")
    name = names[index] if index < len(names) and names[index] else f"direction {index + 1}"
    return name.replace(" %", _PERCENT_SIGN)


def fields_over(data: xr.Dataset, kind: str, grid: tuple[str, ...]) -> list[str]:
    """The fields of a kind ("loss", "accuracy") over the grid: of the data, then of other data."""
    others = [str(name) for name in data.data_vars if str(name).endswith(f"_{kind}")]
    return [name for name in (kind, *others) if name in data and data[name].dims == grid]


def spans_a_decade(values: Array) -> bool:
    """Whether the finite values belong on a log scale: all positive, and far apart."""
    finite = values[np.isfinite(values)]
    return bool(len(finite) and finite.min() > 0 and finite.max() >= _DECADE * finite.min())


def clip_name(data: xr.Dataset) -> str:
    """What an infinite loss means in this record."""
    clip = json.loads(str(data.attrs.get("settings", "{}"))).get("clip")
    return "infinite" if clip is None else f"beyond the clip of {pretty(float(clip))}"


def missing(data: xr.Dataset) -> list[str]:
    """How many points have no loss to draw, by reason."""
    values = data["loss"].to_numpy()
    done = data["done"].to_numpy() if "done" in data else np.ones(values.shape, bool)
    absent = ~np.isfinite(values) & ~np.isposinf(values)
    counts = {
        "NaN": absent & done,
        "not measured": absent & ~done,
        clip_name(data): np.isposinf(values),
    }
    return [
        f"{number(int(found.sum()), 'point')} ({pretty(100 * found.mean(), 3)} %) {why}"
        for why, found in counts.items()
        if found.any()
    ]


def number(count: int, noun: str) -> str:
    """ "1 point", "2 points"."""
    return f"{count:,} {noun}{'s' if count != 1 else ''}"


def caveats(data: xr.Dataset) -> str:
    """In one paragraph: the loss at the center, what is missing, and how far to trust the rest."""
    found = []
    if "center_loss" in data:
        error = float(data["center_error"]) if "center_error" in data else math.nan
        found.append(f"loss at the center {with_error(float(data['center_loss']), error)}")
    if "standard_error" in data:
        errors = data["standard_error"].to_numpy()
        errors = errors[np.isfinite(errors)]
        if len(errors):
            largest = pretty(errors.max(), 2)
            found.append(f"standard error of a difference to it at most {largest}")
    if "loss" in data:
        found += missing(data)
    for name, words in _CAVEATS.items():
        value = float(data[name]) if name in data else math.nan
        if words.startswith(_PERCENT):
            value = 100 * value or math.nan  # none of them: nothing to beware of
        if math.isfinite(value):
            found.append(words.format(pretty(value if value > _ROUNDING else 0.0, 2)))
    text = "; ".join(found)
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def write_caption(figure: Figure, text: str, handles: Sequence[Artist]) -> Legend:
    """The legend beneath everything, under a paragraph in small type."""
    width = figure.get_figwidth()
    text = text.replace(" %", _PERCENT_SIGN)
    longest = max((len(str(handle.get_label())) for handle in handles), default=0)
    legend = figure.legend(
        handles=list(handles),
        loc="outside lower left",
        ncols=max(1, int(_LEGEND_LETTERS * width) // (longest + _COLUMN)),
        title=textwrap.fill(text, int(_CAPTION_LETTERS * width)),
        title_fontsize=_SMALL,
        alignment="left",
        **LEGEND,
    )
    legend.get_title().set_color(GREY)
    return legend
