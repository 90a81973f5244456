"""Labels of axes: which entries of a tensor's axis may be reordered, and with which others.

Views and slices of labels are in `axis_stretches`, what each operation does to them in `axis_rules`
and `axis_views`; `tracing` runs a network with them.

An axis is a sum of segments (a concatenation), and a segment a product of `Units` (a reshaping),
the first one varying slowest: heads times features of a head. Operations merge units that must be
reordered together; a reshaping or a split refines them. Inner units may be reordered differently
for each of the outer units that they stand under: what is called dependence here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

__all__ = ["MOST_SINGLE_ENTRIES", "ONE", "Label", "Segment", "Unfollowed", "Units", "collapse"]
__all__ += ["cut", "depend_only", "depends", "factor_units", "find", "fix", "has_structure"]
__all__ += ["leaves", "length", "product", "refresh", "segment_length", "split_at", "tie", "whole"]

MOST_SINGLE_ENTRIES = 1024  # an axis is taken apart entry by entry up to this length


class Unfollowed(Exception):  # noqa: N818
    """An operation whose effect on labels is not known: what it touches will stay in place."""


class Units:
    """`size` units that are reordered together.

    Attributes:
        fixed: they stay in place.
        parent: what they were merged with.
        parts: consecutive units that they were split into.
        factors: the outer and the inner units that they were split into.
        family, family_of: where `family_of` was split, the units that stand under each part.
        overs: each set allows dependence on outer units; only what all sets hold is left.
        dependents: units that name these in a set of `overs`.
    """

    def __init__(self, size: int, *, fixed: bool = False, over: Iterable[Units] = ()) -> None:
        self.size = size
        self.fixed = fixed
        self.parent: Units | None = None
        self.parts: tuple[Units, ...] = ()
        self.factors: tuple[Units, ...] = ()
        self.family: tuple[Units, ...] = ()
        self.family_of = self
        self.overs: list[frozenset[Units]] = []
        self.dependents: list[Units] = []
        self.depend_on(over)

    def depend_on(self, over: Iterable[Units]) -> None:
        """Allow no dependence but on these."""
        self.overs.append(frozenset(over))
        for outer in self.overs[-1]:
            find(outer).dependents.append(self)

    @property
    def is_plain(self) -> bool:
        """Fixed, and nothing depends on them: one stretch is as good as another."""
        return self.fixed and not (self.dependents or self.parts or self.factors or self.family)


Segment = tuple[Units, ...]
Label = tuple[Segment, ...]
ONE: Label = ((),)  # an axis of a single entry


def whole(units: Units) -> Label:
    """The label of an axis that consists of these units."""
    return ((units,),)


def find(units: Units) -> Units:
    """What they are by now, after all merging."""
    while units.parent is not None:
        if units.parent.parent is not None:
            units.parent = units.parent.parent
        units = units.parent
    return units


def segment_length(segment: Segment) -> int:
    """Entries."""
    return math.prod(units.size for units in segment)


def length(label: Label) -> int:
    """Entries."""
    return sum(map(segment_length, label))


def leaves(label: Label) -> list[Units]:
    """The units of a label as it is by now."""
    return [units for segment in refresh(label) for units in segment]


def refresh(label: Label, outer: Units | None = None, index: int = 0) -> Label:
    """The label in terms of units that were not refined further.

    Args:
        outer, index: units that stand under each part of `outer` are replaced by those under
            the part of this index.
    """
    found: list[Segment] = []
    for segment in label:
        tail = ONE
        for units in reversed(segment):
            tail = _times(_under(find(units), outer, index), tail)
        found += tail
    return tuple(found)


def product(outer: Label, inner: Label) -> Label:
    """The label of two axes made one."""
    found: list[Segment] = []
    for segment in outer:
        tail = inner
        for units in reversed(segment):
            tail = _times(units, tail)
        found += tail
    return tuple(found)


def _under(units: Units, outer: Units | None, index: int) -> Units:
    if outer is not None and units.family and find(units.family_of) is outer:
        return units.family[index]
    return units


def _times(units: Units, tail: Label) -> Label:
    units = find(units)
    if units.size == 1:
        return refresh(tail)
    if units.parts:
        found: list[Segment] = []
        for index, part in enumerate(units.parts):
            found += _times(part, refresh(tail, units, index))
        return tuple(found)
    if units.factors:
        return _times(units.factors[0], _times(units.factors[1], tail))
    tail = refresh(tail)
    if has_structure(find(units)):
        return _times(units, tail)
    if len(tail) > 1 and _is_plain(tail):
        tail = whole(Units(length(tail), fixed=True))
    if len(tail) == 1:
        return ((find(units), *tail[0]),)
    # A product of a sum: the entries of the outer units one after another.
    if units.size <= MOST_SINGLE_ENTRIES:
        cut(units, [1] * units.size)
        return _times(units, tail)
    fix((*whole(units), *tail))
    return whole(Units(units.size * length(tail), fixed=True))


def depends(units: Units) -> frozenset[Units]:
    """The outer units for each of which these may be reordered differently."""
    return frozenset.intersection(*_overs(find(units))) - {find(units)}


def depend_only(units: Units, allowed: Iterable[Units]) -> None:
    """Give up all dependence but on these, also what would come with later merging."""
    kept = depends(units) & frozenset(allowed)
    if frozenset.union(*_overs(find(units))) - kept:
        find(units).depend_on(kept)


def _overs(units: Units) -> list[frozenset[Units]]:
    return [frozenset(x for outer in over for x in _product_leaves(outer)) for over in units.overs]


def _product_leaves(units: Units) -> Iterator[Units]:
    units = find(units)
    if units.factors:
        yield from _product_leaves(units.factors[0])
        yield from _product_leaves(units.factors[1])
    elif not units.parts and units.size > 1:
        yield units


def has_structure(units: Units) -> bool:
    """Whether they were refined into others."""
    return bool(units.parts or units.factors)


def fix(label: Label) -> bool:
    """Leave all units of a label in place; whether any of them could move before."""
    moved = False
    for segment in label:
        for units in map(find, segment):
            if inner := units.parts or units.factors or units.family:
                moved = fix(tuple((part,) for part in inner)) or moved
            elif units.size > 1:
                moved = moved or not units.fixed
                units.fixed = True
    return moved


def collapse(label: Label) -> None:
    """Give up that units differ under the parts of others."""
    for segment in label:
        for units in map(find, segment):
            if units.family:
                _collapse(units)


def _collapse(units: Units) -> None:
    first, *others = units.family
    units.family, units.family_of = (), units
    units.parent = first
    for other in others:
        merge(first, other)


def cut(units: Units, sizes: Sequence[int]) -> None:
    """Split units into consecutive parts; those under them may differ from part to part."""
    units = find(units)
    if units.family:
        _collapse(units)
        return  # refined further, perhaps: the caller looks again
    parts = tuple(Units(size, fixed=units.fixed, over=depends(units)) for size in sizes)
    members: dict[Units, list[Units]] = {}
    for own in dict.fromkeys(map(find, units.dependents)):
        leaf = not (has_structure(own) or own.family or own.fixed or own.size == 1)
        if leaf and units in depends(own):
            members[own] = [Units(own.size) for _ in parts]
    for own, copies in members.items():
        for part, copy in zip(parts, copies, strict=True):
            index = copies.index(copy)
            over = [
                part if outer is units else members[outer][index] if outer in members else outer
                for outer in depends(own)
            ]
            copy.overs.clear()
            copy.depend_on(outer for outer in over if outer.size > 1)
    for own, copies in members.items():
        own.family, own.family_of = tuple(copies), units
    units.parts = parts


def factor_units(units: Units, outer_size: int) -> None:
    """Split units into outer and inner ones, these free to depend on those."""
    units = find(units)
    if units.family:
        _collapse(units)
        return
    outer = Units(outer_size, fixed=units.fixed, over=(over := depends(units)))
    inner = Units(units.size // outer_size, fixed=units.fixed, over=over | {outer})
    outer.dependents += units.dependents
    inner.dependents += units.dependents
    units.factors = (outer, inner)


def merge(first: Units, second: Units) -> None:
    """Let units of one size be reordered together from now on."""
    first, second = find(first), find(second)
    if first is second or first.size == 1:
        return
    if first.family and second.family and find(first.family_of) is find(second.family_of):
        for own, other in zip(first.family, second.family, strict=True):
            merge(own, other)
        first.parent = second
        return
    if first.family or second.family:
        collapse(((first, second),))
        merge(first, second)
        return
    if has_structure(first) and has_structure(second):
        tie(whole(first), whole(second))
        if find(first) is not find(second):
            _take_over(find(second), find(first))
        return
    if has_structure(first):
        first, second = second, first
    _take_over(second, first)
    if has_structure(second):
        _restrict(second, first)
    else:
        second.fixed = second.fixed or first.fixed
        second.overs += first.overs


def _take_over(kept: Units, gone: Units) -> None:
    for own in gone.dependents:
        if find(own).family and find(own).family_of is gone:
            _collapse(find(own))  # the parts of the two need not be the same
    gone.parent = kept
    kept.dependents += gone.dependents


def _restrict(structured: Units, simple: Units) -> None:
    """What was not refined yet may have been free to depend on less."""
    if simple.fixed:
        fix(whole(structured))
    if structured.parts:
        for part in structured.parts:
            _restrict(find(part), simple)
        return
    allowed = frozenset.intersection(*_overs(simple))
    inside = frozenset(leaves(whole(structured)))
    for leaf in inside:
        leaf.depend_on(allowed | inside)


def tie(first: Label, second: Label) -> None:
    """Let two axes of one length be reordered together; where that cannot be, both stay."""
    try:
        _tie(first, second)
    except Unfollowed:
        fix(first)
        fix(second)


def _tie(first: Label, second: Label) -> None:
    first, second = refresh(first), refresh(second)
    while first:
        common = min(segment_length(first[0]), segment_length(second[0]))
        head, first = split_at(first, common)
        other, second = split_at(second, common)
        _tie_heads(head, other)
        first, second = refresh(first), refresh(second)


def _tie_heads(first: Label, second: Label) -> None:
    while True:
        first, second = refresh(first), refresh(second)
        if len(first) > 1 or len(second) > 1:
            _tie(first, second)
            return
        pairs = zip(first[0], second[0], strict=False)
        apart = next((pair for pair in pairs if pair[0] is not pair[1]), None)
        if apart is None:
            return
        if _is_plain(first) or _is_plain(second):
            fix(first)
            fix(second)
            return
        own, other = apart
        if own.size == other.size:
            merge(own, other)
            continue
        common = math.gcd(own.size, other.size)
        if common == 1:
            raise Unfollowed
        for units in apart:
            if units.size > common:
                factor_units(units, common)


def _is_plain(label: Label) -> bool:
    return all(units.is_plain for segment in label for units in segment)


def split_at(label: Label, offset: int) -> tuple[Label, Label]:
    """The label before and after so many entries; units are split where it has to be."""
    while True:
        label = refresh(label)
        start = 0
        for index, segment in enumerate(label):
            if start >= offset:
                break
            size = segment_length(segment)
            if offset < start + size:
                pieces = _split_segment(segment, offset - start)
                label = (*label[:index], *pieces, *label[index + 1 :])
                break
            start += size
        else:
            return label, ()
        if start == offset:
            return label[:index], label[index:]


def _split_segment(segment: Segment, offset: int) -> Label:
    size = segment_length(segment)
    if _is_plain((segment,)):
        return (*whole(Units(offset, fixed=True)), *whole(Units(size - offset, fixed=True)))
    outer = segment[0]
    block = size // outer.size
    before = offset // block
    between = 1 if offset % block else 0
    cut(outer, [n for n in (before, between, outer.size - before - between) if n])
    return (segment,)
