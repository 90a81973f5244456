"""What arithmetic does to the labels of axes: one rule for each kind of operation.

Those that only rearrange entries are in `axis_views`; the labels themselves in `axis_labels`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from landscape.alignment.axis_calls import Call, Labels, Rules, fixed, stay
from landscape.alignment.axis_labels import (
    ONE,
    Label,
    Unfollowed,
    Units,
    collapse,
    depend_only,
    depends,
    fix,
    leaves,
    length,
    product,
    refresh,
    tie,
    whole,
)
from landscape.alignment.axis_stretches import factor, stretches

__all__ = ["RULES", "pointwise"]

RULES = Rules()


def _without(labels: Labels, gone: Iterable[Label]) -> Labels:
    """Labels of a result over which axes were summed: no unit depends on those any more."""
    lost = {units for label in gone for units in leaves(label)}
    for label in labels:
        collapse(refresh(label))
        for units in leaves(label):
            depend_only(units, depends(units) - lost)
    return labels


def _depend_on_nothing_but(labels: Iterable[Label], beside: Iterable[Label]) -> None:
    allowed = {units for label in beside for units in leaves(label)}
    for label in labels:
        for units in leaves(label):
            depend_only(units, allowed)


def _tie_all(labels: Sequence[Label]) -> Label:
    for other in labels[1:]:
        tie(labels[0], other)
    return labels[0]


def _broadcast(call: Call, tensors: Sequence[Tensor], shape: Sequence[int]) -> Labels:
    found = []
    for axis in range(-len(shape), 0):
        along = [
            call.labels(tensor)[axis]
            for tensor in tensors
            if tensor.ndim >= -axis and tensor.shape[axis] == shape[axis]
        ]
        found.append(_tie_all(along) if along else whole(Units(shape[axis])))
    return tuple(found)


# -- element by element -----------------------------------------------------------------------

# Of those that copy or act element by element, these are not marked as pointwise.
_POINTWISE = {"copy", "detach", "alias", "contiguous", "_to_copy", "lift_fresh", "zero", "fill"}
_POINTWISE |= {
    "masked_fill",
    "hardswish",
    "hardsigmoid",
    "_prelu_kernel",
    "celu",
    "mish",
    "nan_to_num",
}


def is_pointwise(call: Call) -> bool:
    """Whether each entry of the result comes from the entries at its place."""
    return torch.Tag.pointwise in call.function.tags or call.name in _POINTWISE


def pointwise(call: Call) -> list[Labels]:
    """The rule of all such operations."""
    return [_broadcast(call, call.tensors, out.shape) for out in call.outputs]


@RULES.of("zeros ones full empty empty_strided zeros_like ones_like full_like empty_like new_zeros")
@RULES.of("new_ones new_full new_empty scalar_tensor")
def _constant(call: Call) -> list[Labels]:
    # The same entry everywhere: each stretch of it follows whatever it meets.
    units: list[Units] = []
    for size in call.outputs[0].shape:
        units.append(Units(size, over=[outer for outer in units if outer.size > 1]))
    return [tuple(map(whole, units))]


@RULES.of("_softmax _log_softmax _safe_softmax")
def _softmax(call: Call) -> list[Labels]:
    return [_mixed_along(call.labels(call.tensors[0]), [call.dim()])]


def _mixed_along(labels: Labels, dims: Iterable[int]) -> Labels:
    """The same labels, where entries along some axes meet: what stands beside must be alike."""
    axes = {dim % len(labels) for dim in dims}
    beside = tuple(label for axis, label in enumerate(labels) if axis not in axes)
    _without(beside, [labels[axis] for axis in axes])
    return labels


# -- sums -------------------------------------------------------------------------------------


@RULES.of(
    "sum mean amax amin prod var std var_mean std_mean logsumexp linalg_vector_norm norm any all"
)
def _reduce(call: Call) -> list[Labels]:
    given = call.tensors[0]
    dims = call["dim"]
    chosen = [dims] if isinstance(dims, int) else list(dims or range(given.ndim))
    gone = {dim % given.ndim for dim in chosen} if given.ndim else set()
    labels = call.labels(given)
    rest = tuple(
        ONE if axis in gone else label
        for axis, label in enumerate(labels)
        if axis not in gone or call["keepdim"]
    )
    return [_without(rest, [labels[axis] for axis in gone])] * len(call.outputs)


@RULES.of("max min argmax argmin")
def _select_one(call: Call) -> list[Labels]:
    if call["other"] is not None:
        return pointwise(call)
    if call["dim"] is not None:
        fix(call.labels(call.tensors[0])[call.dim()])  # its index is a result
    elif call.name.startswith("arg"):
        raise Unfollowed
    return _reduce(call)


@RULES.of("mm addmm bmm baddbmm mv addmv dot vdot linear")
def _matrix_product(call: Call) -> list[Labels]:
    first, second = call.tensors[-2:] if call.name != "linear" else call.tensors[:2]
    left, right = call.labels(first), call.labels(second)
    if call.name == "linear":
        right = right[::-1]
        added = call.tensors[2:]
    else:
        added = call.tensors[:-2]
    batched = first.ndim == 3 and second.ndim == 3
    if batched:
        tie(left[0], right[0])
    summed = right[-2] if second.ndim > 1 else right[0]
    for label in (left[-1], summed):
        collapse(refresh(label))
    tie(left[-1], summed)
    # Each row meets each column: only within a batch may their entries differ in order.
    _depend_on_nothing_but([left[-1]], [left[-1], *left[: 1 if batched else 0]])
    result = (*left[:-1], *(right[-1:] if second.ndim > 1 else ()))
    result = _without(result, [left[-1]])
    for tensor in added:  # of fewer axes, or of one entry along some
        for own, other in zip(result[::-1], call.labels(tensor)[::-1], strict=False):
            if length(other) > 1:
                tie(own, other)
    return [result]


@RULES.of("convolution")
def _convolution(call: Call) -> list[Labels]:
    inputs, weight, groups = call.of("input"), call.of("weight"), int(call["groups"])
    for label in (*inputs[2:], *weight[2:]):
        fix(label)
    outer, inner = factor(inputs[1], groups)
    if call["transposed"]:
        own, taken = factor(weight[0], groups)
        given = weight[1]
    else:
        own, given = factor(weight[0], groups)
        taken = weight[1]
    tie(outer, own)
    tie(inner, taken)
    channels = product(own, given)
    if call["bias"] is not None:
        tie(channels, call.of("bias")[0])
    return [(inputs[0], channels, *fixed(call.outputs[0].shape[2:]))]


# -- normalisation ----------------------------------------------------------------------------


@RULES.of("native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training")
@RULES.of("cudnn_batch_norm miopen_batch_norm")
def _batch_norm(call: Call) -> list[Labels]:
    inputs = call.labels(call.tensors[0])
    for along in call.tensors[1:]:
        tie(inputs[1], call.labels(along)[0])
    others = [
        (inputs[1],) if out.shape == call.tensors[0].shape[1:2] else fixed(out.shape)
        for out in call.outputs[1:]
    ]
    return [inputs, *others]


@RULES.of("native_layer_norm _fused_rms_norm")
def _layer_norm(call: Call) -> list[Labels]:
    inputs = call.labels(call.tensors[0])
    kept = len(inputs) - len(call["normalized_shape"])
    for along in call.tensors[1:]:
        for own, other in zip(inputs[kept:], call.labels(along), strict=True):
            tie(own, other)
    # Units that stand beside are those of the moments, and depend on nothing that is missing there.
    moments = (*inputs[:kept], *[ONE] * (len(inputs) - kept))
    return [inputs, *[moments] * (len(call.outputs) - 1)]


@RULES.of("_weight_norm_interface")
def _weight_norm(call: Call) -> list[Labels]:
    direction, dim = call.of("v"), call.dim()
    tie(direction[dim], call.of("g")[dim])
    norms = [label if axis == dim else ONE for axis, label in enumerate(direction)]
    return [direction, tuple(norms)]


@RULES.of("native_group_norm")
def _group_norm(call: Call) -> list[Labels]:
    inputs, groups = call.of("input"), int(call["group"])
    channels = refresh(inputs[1])
    if len(channels) == 1:
        outer, inner = factor(channels, groups)
        channels = product(outer, inner)
    else:
        # Joined from several: each group is a stretch of its own, and all stay where they are.
        outer = whole(Units(groups, fixed=True))
        channels = tuple(segment for part in stretches(channels, groups) for segment in part)
    for along in call.tensors[1:]:
        tie(channels, call.labels(along)[0])
    moments = _without((inputs[0], outer), [channels])
    return [(inputs[0], channels, *inputs[2:]), moments, moments]


# -- along space and order --------------------------------------------------------------------

_BY_SPACE = "avg_pool max_pool adaptive_avg_pool _adaptive_avg_pool adaptive_max_pool"
_BY_SPACE += " upsample_nearest _upsample_nearest_exact reflection_pad replication_pad"
_SPATIAL = {
    f"{name}{dims}d{suffix}": dims
    for name in _BY_SPACE.split()
    for dims in (1, 2, 3)
    for suffix in ("", "_with_indices")
} | {
    "upsample_linear1d": 1,
    "upsample_bilinear2d": 2,
    "_upsample_bilinear2d_aa": 2,
    "upsample_bicubic2d": 2,
    "upsample_trilinear3d": 3,
}


@RULES.of(" ".join(_SPATIAL))
def _spatial(call: Call) -> list[Labels]:
    labels, dims = call.labels(call.tensors[0]), _SPATIAL[call.name]
    stay(labels[-dims:])
    return [(*labels[:-dims], *fixed(out.shape[-dims:])) for out in call.outputs]


@RULES.of("cumsum cumprod logcumsumexp flip roll")
def _ordered(call: Call) -> list[Labels]:
    labels = call.of("self")
    dims = call["dim"] if call["dim"] is not None else call["dims"]
    chosen = [dims] if isinstance(dims, int) else list(dims or range(len(labels)))
    for dim in chosen:
        fix(labels[dim])
    return [_mixed_along(labels, chosen)]


@RULES.of("tril triu")
def _triangle(call: Call) -> list[Labels]:
    labels = call.of("self")
    stay(labels[-2:])
    return [labels]
