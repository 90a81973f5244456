"""What rearranging entries does to the labels of axes: views, slices, joining, looking up.

Arithmetic is in `axis_rules`; the labels themselves in `axis_labels`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch

from landscape.alignment.axis_calls import Call, Labels, Rules, fixed, stay
from landscape.alignment.axis_labels import (
    ONE,
    Label,
    Unfollowed,
    Units,
    collapse,
    fix,
    length,
    product,
    refresh,
    tie,
    whole,
)
from landscape.alignment.axis_stretches import factor, narrow, stacked

__all__ = ["RULES", "SAME_ENTRIES"]

RULES = Rules()
SAME_ENTRIES = {"transpose", "t", "squeeze", "unsqueeze"}  # also where they act in place


@RULES.of("view _unsafe_view _reshape_alias reshape")
def _view(call: Call) -> list[Labels]:
    labels, new = list(call.of("self")), list(call.outputs[0].shape)
    found: list[Label] = []
    while labels or new:
        # The fewest axes whose entries are those of the next few new ones.
        taken, given = [labels.pop(0)] if labels else [ONE], [new.pop(0)] if new else []
        while math.prod(map(length, taken)) != math.prod(given):
            if math.prod(map(length, taken)) < math.prod(given):
                taken.append(labels.pop(0))
            else:
                given.append(new.pop(0))
        found += _viewed(taken, given)
    return [tuple(found)]


def _viewed(taken: Sequence[Label], given: Sequence[int]) -> list[Label]:
    taken = [label for label in taken if length(label) > 1] or [ONE]
    rest = taken[-1]
    for label in reversed(taken[:-1]):
        rest = product(label, rest)
    found = []
    for size in given:
        outer, rest = factor(rest, size)
        found.append(outer)
    return found


@RULES.of("permute")
def _permute(call: Call) -> list[Labels]:
    labels = call.of("self")
    return [tuple(labels[dim] for dim in call["dims"])]


@RULES.of("transpose")
def _transpose(call: Call) -> list[Labels]:
    labels = list(call.of("self"))
    if labels:
        first, second = call.dim("dim0"), call.dim("dim1")
        labels[first], labels[second] = labels[second], labels[first]
    return [tuple(labels)]


@RULES.of("t")
def _t(call: Call) -> list[Labels]:
    return [call.of("self")[::-1]]


@RULES.of("unsqueeze")
def _unsqueeze(call: Call) -> list[Labels]:
    labels, dim = call.of("self"), call.dim(extra=1)
    return [(*labels[:dim], ONE, *labels[dim:])]


@RULES.of("squeeze")
def _squeeze(call: Call) -> list[Labels]:
    labels, dims = call.of("self"), call["dim"]
    chosen = range(len(labels)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = {dim % len(labels) for dim in chosen if length(labels[dim]) == 1}
    return [tuple(label for axis, label in enumerate(labels) if axis not in gone)]


@RULES.of("expand")
def _expand(call: Call) -> list[Labels]:
    labels, shape = call.of("self"), call.outputs[0].shape
    labels = (*[ONE] * (len(shape) - len(labels)), *labels)
    return [
        tuple(
            label if length(label) == size else whole(Units(size))
            for label, size in zip(labels, shape, strict=True)
        )
    ]


@RULES.of("repeat")
def _repeat(call: Call) -> list[Labels]:
    labels, times = call.of("self"), call["repeats"]
    labels = (*[ONE] * (len(times) - len(labels)), *labels)
    return [tuple(product(whole(Units(n)), own) for n, own in zip(times, labels, strict=True))]


# -- parts of an axis -------------------------------------------------------------------------


@RULES.of("select")
def _select(call: Call) -> list[Labels]:
    labels, dim = call.of("self"), call.dim()
    at = int(call["index"]) % length(labels[dim])
    taken = narrow(labels, dim, at, at + 1)
    return [(*taken[:dim], *taken[dim + 1 :])]


@RULES.of("slice")
def _slice(call: Call) -> list[Labels]:
    labels, dim = call.of("self"), call.dim()
    size, step = length(labels[dim]), int(call["step"])
    start, stop, _ = slice(call["start"], call["end"], step).indices(size)
    if step == 1:
        return [narrow(labels, dim, start, stop)]
    fix(labels[dim])
    return [(*labels[:dim], *fixed([len(range(start, stop, step))]), *labels[dim + 1 :])]


@RULES.of("split unsafe_split split_with_sizes unsafe_split_with_sizes unbind")
def _split(call: Call) -> list[Labels]:
    labels, dim = call.of("self"), call.dim()
    unbinds = call.name == "unbind"
    sizes = [1 if unbinds else out.shape[dim] for out in call.outputs]
    found = []
    for stop, size in zip(accumulate(sizes), sizes, strict=True):
        taken = narrow(labels, dim, stop - size, stop)
        found.append((*taken[:dim], *taken[dim + 1 :]) if unbinds else taken)
    return found


@RULES.of("glu")
def _glu(call: Call) -> list[Labels]:
    labels, dim = call.of("self"), call.dim()
    half = length(labels[dim]) // 2
    first, second = (narrow(labels, dim, start, start + half) for start in (0, half))
    for own, other in zip(first, second, strict=True):
        tie(own, other)
    return [first]


# -- joining ----------------------------------------------------------------------------------


@RULES.of("cat")
def _cat(call: Call) -> list[Labels]:
    dim, parts = call.dim(), [call.labels(tensor) for tensor in call.tensors]
    joined = tuple(segment for labels in parts for segment in refresh(labels[dim]))
    labels = _alike([(*labels[:dim], *labels[dim + 1 :]) for labels in parts])
    return [(*labels[:dim], joined, *labels[dim:])]


@RULES.of("stack")
def _stack(call: Call) -> list[Labels]:
    dim, parts = call.dim(extra=1), [call.labels(tensor) for tensor in call.tensors]
    axis, *labels = stacked([[labels[axis] for labels in parts] for axis in range(len(parts[0]))])
    return [(*labels[:dim], axis, *labels[dim:])]


def _alike(parts: Sequence[Labels]) -> Labels:
    for labels in parts[1:]:
        for own, other in zip(parts[0], labels, strict=True):
            tie(own, other)
    return parts[0]


@RULES.of("constant_pad_nd")
def _pad(call: Call) -> list[Labels]:
    labels, pads = list(call.of("self")), list(call["pad"])
    if min(pads) < 0:
        raise Unfollowed
    for index in range(len(pads) // 2):
        before, after = pads[2 * index : 2 * index + 2]
        # The same entry everywhere: it follows whatever it meets.
        ends = [whole(Units(size)) if size else () for size in (before, after)]
        labels[-1 - index] = (*ends[0], *refresh(labels[-1 - index]), *ends[1])
    return [tuple(labels)]


@RULES.of("pixel_shuffle")
def _pixel_shuffle(call: Call) -> list[Labels]:
    labels, out = call.of("self"), call.outputs[0].shape
    outer, inner = factor(labels[-3], out[-3])
    fix(inner)
    stay(labels[-2:])
    return [(*labels[:-3], outer, *fixed(out[-2:]))]


# -- looking up -------------------------------------------------------------------------------


@RULES.of("embedding")
def _embedding(call: Call) -> list[Labels]:
    rows, features = call.of("weight")
    fix(rows)
    return [(*stay(call.of("indices")), *_beside([features]))]


@RULES.of("index_select")
def _index_select(call: Call) -> list[Labels]:
    labels, dim = call.of("self"), call.dim()
    fix(labels[dim])
    return [(*_beside(labels[:dim]), *stay(call.of("index")), *_beside(labels[dim + 1 :]))]


@RULES.of("index")
def _index(call: Call) -> list[Labels]:
    labels, given = call.of("self"), list(call["indices"])
    at = [axis for axis, index in enumerate(given) if index is not None]
    masks = any(given[axis].dtype in (torch.bool, torch.uint8) for axis in at)
    if masks or at != list(range(at[0], at[-1] + 1)):
        raise Unfollowed
    for axis in at:
        fix(labels[axis])
        stay(call.labels(given[axis]))
    taken = call.outputs[0].ndim - (len(labels) - len(at))
    between = fixed(call.outputs[0].shape[at[0] : at[0] + taken])
    return [(*_beside(labels[: at[0]]), *between, *_beside(labels[at[-1] + 1 :]))]


def _beside(labels: Sequence[Label]) -> Labels:
    """Labels beside an axis that was looked up: not known under which of its entries they stand."""
    for label in labels:
        collapse(refresh(label))
    return tuple(labels)
