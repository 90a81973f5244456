"""Slices with fields in closed form, and what every figure of them has to obey."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axis import Tick
from matplotlib.text import Text

from landscape.slices.quadratic import Quadratic
from landscape.slices.sweep import Sweep


def _sweep(kind, coordinates, names, loss, **options):
    fields = {"loss": loss} | options.pop("fields", {})
    k = len(names)
    norms = options.pop("norms", [2.0] * k)
    return Sweep(
        kind=kind,
        settings=options.pop("settings", {}),
        coordinates=tuple(coordinates),
        fields={name: np.asarray(field, float) for name, field in fields.items()},
        done=options.pop("done", np.ones(np.shape(loss), bool)),
        direction_names=tuple(names),
        direction_norms=np.asarray(norms, float),
        cosines=np.eye(k),
        center_loss=options.pop("center_loss", 1.0),
        **options,
    )


@pytest.fixture
def line_sweep():
    """Loss 1 + a + 3 a^2 at nine points, with its exact expansion; `line_sweep(loss=..., ...)`."""

    def make(a=None, loss=None, **options):
        a = np.linspace(-1, 1, 9) if a is None else np.asarray(a, float)
        loss = 1 + a + 3 * a**2 if loss is None else np.asarray(loss, float)
        options.setdefault("quadratic", Quadratic(1.0, np.array([1.0]), np.array([[6.0]])))
        return _sweep("line", [a], ["along here"], loss, **options)

    return make


@pytest.fixture
def lines_sweep():
    """Loss 1 + s a^2 along k directions, s = 1..k: their order is the same everywhere."""

    def make(k=5, loss=None, **options):
        a = np.linspace(-1, 1, 7)
        loss = 1 + np.outer(np.arange(1, k + 1), a**2) if loss is None else loss
        names = [f"random, filter-normalised, seed {seed}" for seed in range(k)]
        return _sweep("lines", [np.arange(float(k)), a], names, loss, **options)

    return make


@pytest.fixture
def plane_sweep():
    """Loss 20 + a + 10 b on 7 x 5 points: neither symmetric, nor square, nor even."""

    def make(loss=None, a=None, b=None, **options):
        a = np.linspace(-1, 1, 7) if a is None else np.asarray(a, float)
        b = np.linspace(-1, 1, 5) if b is None else np.asarray(b, float)
        loss = 20 + a[:, None] + 10 * b if loss is None else np.asarray(loss, float)
        return _sweep("plane", [a, b], ["along here", "along there"], loss, **options)

    return make


@pytest.fixture
def fits_its_sheet():
    """That no text of a figure leaves the sheet or lies on another."""

    def check(figure):
        figure.draw_without_rendering()
        # Ticks beyond the limits of their axis have labels, too, and are not drawn.
        ticks = figure.findobj(Tick)
        of_ticks = {label for tick in ticks for label in (tick.label1, tick.label2)}
        sheet = figure.bbox.padded(1)
        boxes = {}
        for text in figure.findobj(Text):
            if text.get_text() and text.get_visible() and text not in of_ticks:
                box = boxes[text] = text.get_window_extent()
                assert sheet.x0 <= box.x0 <= box.x1 <= sheet.x1, text
                assert sheet.y0 <= box.y0 <= box.y1 <= sheet.y1, text
        for text, box in boxes.items():
            overlaid = [one for one in boxes if one is not text and box.overlaps(boxes[one])]
            assert not overlaid, (text, overlaid)

    return check
