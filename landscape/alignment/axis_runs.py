"""From labels of axes to a PermutationSpec: what moves is named, what it cannot express is fixed.

`tracing` makes the labels, `permutations` holds the specification.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from landscape.alignment.axis_calls import Labels
from landscape.alignment.axis_labels import (
    Segment,
    Units,
    collapse,
    depends,
    fix,
    leaves,
    refresh,
    segment_length,
    whole,
)
from landscape.alignment.permutations import Axis, PermutationSpec, Run

__all__ = ["spec_of"]


def spec_of(labels: Mapping[str, Labels], notes: Sequence[str] = ()) -> PermutationSpec:
    """What may be reordered, in tensors with these labels."""
    everything = [label for own in labels.values() for label in own]
    while any(units.family for label in everything for units in leaves(label)):
        for label in everything:
            collapse(refresh(label))
    segments = {name: [refresh(label) for label in own] for name, own in labels.items()}
    flat = [segment for own in segments.values() for label in own for segment in label]
    places = Counter(units for segment in flat for units in segment)
    for units, count in places.items():
        if count == 1:
            # Nothing follows it: a stretch of a table that this input was too short to reach.
            fix(whole(units))
    outers = _outers(flat)
    _fix_what_no_run_expresses(flat, outers)
    names = _names(segments)
    axes = {}
    for name, own in segments.items():
        found = tuple(_axis(label, names, outers) for label in own)
        if any(found):
            axes[name] = found
    return PermutationSpec(axes, tuple(notes))


def _outers(segments: Sequence[Segment]) -> dict[Units, Units]:
    """The units for each of which others may be reordered differently: one for each of these."""
    beside: dict[Units, set[Units]] = {}
    for segment in segments:
        for index, units in enumerate(segment):
            before = {outer for outer in segment[:index] if segment.count(outer) == 1}
            beside[units] = beside.get(units, before) & before
    found: dict[Units, Units] = {}
    for segment in segments:  # from the outside in, so that an outer one is settled before
        for units in segment:
            for outer in segment:
                allowed = outer in beside[units] and outer in depends(units)
                if allowed and outer not in found and units not in found:
                    found[units] = outer
    # What others depend on must not depend itself.
    return {units: outer for units, outer in found.items() if outer not in found}


def _fix_what_no_run_expresses(segments: Sequence[Segment], outers: Mapping[Units, Units]) -> None:
    def freedom(units: Units) -> float:
        """The logarithm of the number of orders."""
        copies = outers[units].size if units in outers else 1
        return copies * math.lgamma(units.size + 1)

    changed = True
    while changed:
        changed = False
        for segment in segments:
            movable = [index for index, units in enumerate(segment) if not units.fixed]
            nested = movable == [len(segment) - 2, len(segment) - 1]
            if len(movable) > 1 and not nested:
                fix(whole(min((segment[index] for index in movable), key=freedom)))
                changed = True


def _names(segments: Mapping[str, Sequence[Sequence[Segment]]]) -> dict[Units, str]:
    """A name for all units that move: the first module that holds them."""
    found: dict[Units, str] = {}
    taken: Counter[str] = Counter()
    for name, labels in segments.items():
        for units in (units for label in labels for segment in label for units in segment):
            if not units.fixed and units not in found:
                module = name.rpartition(".")[0] or name
                taken[module] += 1
                found[units] = module if taken[module] == 1 else f"{module}#{taken[module]}"
    return found


def _axis(
    label: Sequence[Segment], names: Mapping[Units, str], outers: Mapping[Units, Units]
) -> Axis:
    found: list[Run] = []
    for run in (run for segment in label for run in _runs(segment, names, outers)):
        if found and not run.groups and not found[-1].groups:
            found[-1] = Run(len(found[-1]) + len(run))
        else:
            found.append(run)
    return tuple(found) if any(run.groups for run in found) else ()


def _runs(
    segment: Segment, names: Mapping[Units, str], outers: Mapping[Units, Units]
) -> Iterator[Run]:
    def name(units: Units, at: Mapping[Units, int]) -> str:
        return names[units] + (f"[{at[outers[units]]}]" if units in outers else "")

    movable = [index for index, units in enumerate(segment) if not units.fixed]
    if not movable:
        yield Run(segment_length(segment))
        return
    before, units, after = segment[: movable[0]], segment[movable[0]], segment[movable[0] + 1 :]
    for place in itertools.product(*(range(outer.size) for outer in before)):
        at = dict(zip(before, place, strict=True))
        inner: tuple[str, ...] = ()
        if len(movable) > 1:
            inner = tuple(name(after[0], at | {units: index}) for index in range(units.size))
        yield Run(units.size, name(units, at), segment_length(after), inner)
