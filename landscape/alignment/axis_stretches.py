"""Views and slices of axes: a label taken apart into factors, stretches or single entries.

The labels themselves are in `axis_labels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from landscape.alignment.axis_labels import (
    MOST_SINGLE_ENTRIES,
    ONE,
    Label,
    Segment,
    Unfollowed,
    Units,
    collapse,
    cut,
    factor_units,
    find,
    length,
    refresh,
    split_at,
    tie,
    whole,
)

__all__ = ["factor", "narrow", "stacked", "stretches"]


def factor(label: Label, outer_size: int) -> tuple[Label, Label]:
    """The labels of an outer axis, varying slowest, and an inner one that an axis is viewed as.

    Raises:
        Unfollowed: the units cannot be split so.
    """
    inner_size = length(label) // outer_size
    if outer_size == 1:
        return ONE, label
    if inner_size == 1:
        return label, ONE
    while True:
        label = refresh(label)
        if len(label) > 1:
            return _factor_sum(label, outer_size)
        found = _factor_segment(label[0], outer_size)
        if found is not None:
            return found


def _factor_segment(segment: Segment, outer_size: int) -> tuple[Label, Label] | None:
    """As `factor`; None where units were split, and it is to be tried again."""
    rest = outer_size
    for index, units in enumerate(segment):
        if rest == 1:
            return (segment[:index],), (segment[index:],)
        common = math.gcd(units.size, rest)
        if common == 1:
            raise Unfollowed
        if common < units.size:
            factor_units(units, common)
            return None
        rest //= common
    raise AssertionError("the inner axis has entries")


def _factor_sum(label: Label, outer_size: int) -> tuple[Label, Label]:
    """The pieces of a concatenation as an axis of their own: reordered alike within each."""
    if outer_size > MOST_SINGLE_ENTRIES:
        raise Unfollowed
    pieces = stretches(label, outer_size)
    for piece in pieces[1:]:
        tie(pieces[0], piece)
    return whole(Units(outer_size, fixed=True)), refresh(pieces[0])


def stretches(label: Label, count: int) -> list[Label]:
    """The label of each of `count` stretches of equal length."""
    each = length(label) // count
    for index in range(1, count):  # all splits first: they may refine what lies before
        split_at(label, index * each)
    found = []
    rest = label
    for _ in range(count):
        piece, rest = split_at(rest, each)
        found.append(piece)
    return found


def narrow(labels: Sequence[Label], dim: int, start: int, stop: int) -> tuple[Label, ...]:
    """Labels of a tensor of which the entries start ... stop of one axis are taken."""
    label = labels[dim]
    if start == 0 and stop == length(label):
        return tuple(labels)
    units = _sole(label)
    while units is not None and not units.is_plain and not units.factors:
        if units.parts:
            inside = _part_of(units, start, stop)
            if inside is None:
                break
            index, begin = inside
            chosen = [refresh(other, units, index) for other in labels]
            chosen[dim] = whole(units.parts[index])
            return narrow(chosen, dim, start - begin, stop - begin)
        sizes = (start, stop - start, units.size - stop)
        cut(units, [size for size in sizes if size])
        units = find(units)
    _, rest = split_at(label, start)
    taken, _ = split_at(rest, stop - start)
    for other in labels:
        collapse(refresh(other))
    return (*labels[:dim], taken, *labels[dim + 1 :])


def _sole(label: Label) -> Units | None:
    if len(label) == 1 and len(label[0]) == 1:
        return find(label[0][0])
    return None


def _part_of(units: Units, start: int, stop: int) -> tuple[int, int] | None:
    """Index and first entry of the part that holds a stretch."""
    begin = 0
    for index, part in enumerate(units.parts):
        if begin <= start and stop <= begin + part.size:
            return index, begin
        begin += part.size
    return None


def stacked(axes: Sequence[Sequence[Label]]) -> list[Label]:
    """The new axis of tensors that are stacked, and then the others, from those of each tensor."""
    count = len(axes[0]) if axes else 1
    outer = Units(count, fixed=True)
    outer.parts = tuple(Units(1) for _ in range(count))
    found = [whole(outer)]
    for own in axes:
        members = [_sole(refresh(label)) for label in own]
        apart = tuple(units for units in members if units is not None)
        if len(apart) == count > 1 and len(set(apart)) > 1:
            units = Units(apart[0].size)
            units.family, units.family_of = apart, outer
            outer.dependents.append(units)
            found.append(whole(units))
        else:
            for label in own[1:]:
                tie(own[0], label)
            found.append(own[0])
    return found
