"""Layers along an axis: their names, aslant where they are long, fewer where they are many."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from landscape.figures.canvas import SIZE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["name_layers"]

_MOST = 16  # names beneath a panel: more would touch, also aslant
_ROOM = 45  # letters beneath a panel
_LONGEST = 22  # letters of a name


def name_layers(axis: Axes, names: Sequence[str]) -> None:
    """Names at 0, 1, 2, ... of an x axis; of more than 16 every second, third, ... one."""
    step = -(-len(names) // _MOST)
    places = range(0, len(names), step)
    shown = [_shortened(names[place]) for place in places]
    axis.set_xticks(list(places), shown, fontsize=SIZE - 2)
    between = _ROOM / len(shown)  # letters from the middle of one name to that of the next
    if any((len(left) + len(right)) / 2 + 1 > between for left, right in pairwise(shown)):
        for text in axis.get_xticklabels():
            text.set(rotation=40, ha="right", rotation_mode="anchor")
    axis.set_xlim(-0.5, len(names) - 0.5)


def _shortened(name: str) -> str:
    """The end of a long name, where names of layers differ."""
    return name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]
