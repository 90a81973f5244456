"""The trial before the first number: is this objective a function of its parameters at all?

`objective` runs it once. Each failure names what was seen, the likely cause and the mend.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from landscape.batches import batch_length, slice_batch, tensors_of
from landscape.errors import RequestError
from landscape.losses import Reduction

if TYPE_CHECKING:
    from landscape.objective import Objective

__all__ = ["Report", "batches_of_one_explained", "check_weights", "run", "unwrap"]

# Kernels that add in a changing order differ by rounding between two passes; dropout differs by
# per cents.
_PASS_RTOL = {torch.float64: 1e-9, torch.float32: 1e-4}
_LOW_PRECISION_RTOL = 1e-2
_TRIAL_RTOL = {torch.float64: 1e-8, torch.float32: 1e-4}


@dataclass(frozen=True)
class Report:
    """What the trial found: the settled reduction, sum of weights, L(theta), and notes."""

    reduction: Reduction
    total_weight: float
    value: float
    notes: tuple[str, ...]


def unwrap(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The plain module inside a compiled or data-parallel one, with a note that says so.

    Compiled functions cannot be differentiated twice, and have been silently wrong
    (pytorch/pytorch#91469, #181581).
    """
    if not isinstance(model, nn.Module):
        raise RequestError(
            f"the model is a {type(model).__name__}, expected a torch.nn.Module with its weights "
            "loaded."
        )
    notes: list[str] = []
    while True:
        parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, parallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model, tuple(notes)
        notes.append(f"measured the module inside {type(model).__name__}")
        model = inner


def check_weights(parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
    """Raise RequestError if any weight is NaN or infinite, or a buffer NaN."""
    wrong = {name: ~tensor.isfinite() for name, tensor in parameters.items()}
    # Infinite entries of buffers are left alone: causal masks are made of them.
    wrong |= {name: tensor.isnan() for name, tensor in buffers.items()}
    bad = {name: int(mask.sum()) for name, mask in wrong.items() if mask.any()}
    if bad:
        shown = ", ".join(f"{name} ({count})" for name, count in list(bad.items())[:5])
        raise RequestError(
            f"the model holds values that are not finite in {len(bad)} tensor(s): {shown}. The "
            "training run diverged, or the file is damaged: give an earlier checkpoint."
        )


def run(objective: Objective) -> Report:
    """Evaluate twice, settle the reduction, look for parameters that the loss does not see."""
    with objective.evaluation(), torch.no_grad():
        with batches_of_one_explained(objective.bn):
            totals, weights = _first_pass(objective)
        _check_modes(objective)
        _compare_second_pass(objective, totals)
        reduction, notes = _settle_reduction(objective)
    if reduction == "sum":
        # Each batch of a "mean" was multiplied by its weight: take that back.
        if objective.loss_function.reduction == "auto":
            totals = [total / weight for total, weight in zip(totals, weights, strict=True)]
        weights = [1.0]
    total_weight = math.fsum(weights)
    if total_weight <= 0:
        raise RequestError(
            "the weights of the data sum to 0: every target is left out (ignore_index)."
        )
    with objective.evaluation(), torch.enable_grad():
        notes += _look_for_unseen_parameters(objective)
    stateless = [
        name
        for name, module in objective.model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is None
    ]
    if stateless and objective.bn != "batch":
        notes.append(
            f"{len(stateless)} BatchNorm layer(s) without running statistics ({stateless[0]}, ...) "
            "use each batch's own, in eval mode, too: the loss depends on the batch size"
        )
    return Report(reduction, total_weight, math.fsum(totals) / total_weight, tuple(notes))


@contextmanager
def batches_of_one_explained(bn: str) -> Iterator[None]:
    """What BatchNorm says of a batch of one example, in words that say what to type."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise RequestError(
            f"with bn={bn!r}, a batch of one example has no variance. Choose a batch size that "
            "leaves no such remainder."
        ) from error


def _first_pass(objective: Objective) -> tuple[list[float], list[float]]:
    buffers = objective.buffers_at(objective.theta)
    leaves = objective.space.split(objective.theta)
    version = objective.theta._version
    totals, weights = [], []
    for index, batch in enumerate(objective.batches):
        try:
            term = objective.term(leaves, batch, buffers, check=True)
        except (RuntimeError, TypeError) as error:  # shapes, dtypes, missing arguments, memory
            held = ", ".join(
                f"{place}: {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
                for place, tensor in tensors_of(batch).items()
            )
            raise RequestError(
                f"the model or the loss does not take batch {index} ({held}): "
                f"{type(error).__name__}: {error}"
            ) from error
        totals.append(float(term.total))
        weights.append(float(term.weight))
        if not math.isfinite(totals[-1]):
            raise RequestError(
                f"the loss of batch {index} is {totals[-1]}. If the weights and the data are fine, "
                "the network overflows: use dtype=torch.float64 (--dtype float64)."
            )
    if objective.theta._version != version:
        raise RequestError(
            "the forward pass writes to the parameters (an embedding with max_norm, a clamp), so "
            "that they are not where they were put. Apply it once to the weights, then switch it "
            "off (max_norm=None)."
        )
    return totals, weights


def _check_modes(objective: Objective) -> None:
    """A forward pass that calls `.train()` repeats itself exactly, on the batch's statistics."""
    in_training: tuple[type[nn.Module], ...] = (nn.modules.dropout._DropoutNd,)
    if objective.bn != "batch":
        in_training += (_BatchNorm,)
    training = [
        f"{name} ({type(module).__name__})"
        for name, module in objective.model.named_modules()
        if module.training and isinstance(module, in_training)
    ]
    if training:
        raise RequestError(
            f"the forward pass puts {', '.join(training[:3])} in training mode although the model "
            "is evaluated in eval mode: take that call of .train() out. For a BatchNorm on each "
            "batch's statistics, give bn='batch'."
        )


def _compare_second_pass(objective: Objective, totals: list[float]) -> None:
    buffers = objective.buffers_at(objective.theta)
    leaves = objective.space.split(objective.theta)
    rtol = _PASS_RTOL.get(objective.space.dtype, _LOW_PRECISION_RTOL)
    for index, batch in enumerate(objective.batches):
        again = float(objective.term(leaves, batch, buffers).total)
        if abs(again - totals[index]) > rtol * abs(totals[index]):
            raise RequestError(
                f"two passes over the same data disagree: the loss of batch {index} sums to "
                f"{totals[index]:.6g}, then to {again:.6g}. " + _cause(objective, batch)
            )


def _cause(objective: Objective, batch: object) -> str:
    """Which module differs first between two calls, and why."""
    seen: list[dict[str, Tensor]] = []
    handles = []

    def record(name: str, output: object) -> None:
        if isinstance(output, Tensor):
            seen[-1].setdefault(name, output.detach().clone())

    try:
        for name, module in objective.model.named_modules():
            handles.append(
                module.register_forward_hook(lambda _m, _i, out, name=name: record(name, out))
            )
        leaves = objective.space.split(objective.theta)
        state = _rng_states(objective.device)
        for _ in range(2):
            seen.append({})
            objective.term(leaves, batch)
        drew = not torch.equal(state, _rng_states(objective.device))
    finally:
        for handle in handles:
            handle.remove()
    modules = dict(objective.model.named_modules())
    first = next(
        (name for name in seen[0] if name in seen[1] and not torch.equal(*(s[name] for s in seen))),
        "",
    )
    where = f" First seen in the output of {first!r} ({type(modules[first]).__name__})."
    if drew:
        return (
            "The forward pass draws random numbers in eval mode: functional dropout or sampling."
            f"{where} Write F.dropout(x, p, training=self.training)."
        )
    return (
        "No random number was drawn from torch: a module keeps state from call to call, draws from "
        f"another generator, or a kernel is not deterministic.{where}"
    )


def _rng_states(device: torch.device) -> Tensor:
    states = [torch.random.get_rng_state()]
    if device.type == "cuda":
        states.append(torch.cuda.get_rng_state(device))
    return torch.cat(states)


def _settle_reduction(objective: Objective) -> tuple[Reduction, list[str]]:
    """Is a user's scalar loss a mean or a sum over its batch? Try it on the first batch."""
    loss = objective.loss_function
    if loss.reduction != "auto":
        return loss.reduction, []
    if objective.batches.num_batches == 1:
        return "mean", []  # one batch: L is what the loss returned, either way
    batch = next(iter(objective.batches))
    length = batch_length(batch)
    # Uneven parts, if there can be any: even ones would hide a wrong weighting.
    cut = length // 2 + (length > 2)
    if cut == 0:
        return "mean", ["the batches are too short to tell a mean loss from a sum: took the mean"]
    leaves = objective.space.split(objective.theta)

    def value(start: int, stop: int) -> tuple[float, float]:
        term = objective.term(leaves, slice_batch(batch, start, stop, length))
        return float(term.total), float(term.weight)

    whole, weight = value(0, length)
    parts = [value(0, cut), value(cut, length)]
    if weight != length or sum(part[1] for part in parts) != weight:
        return "mean", []  # the loss gave its own weights
    tolerance = _TRIAL_RTOL.get(objective.space.dtype, _LOW_PRECISION_RTOL) * abs(whole)
    if abs(sum(total for total, _ in parts) - whole) <= tolerance:
        return "mean", []
    # `total` is the returned value times the length.
    returned_sum = sum(total / length_ for total, length_ in parts)
    if abs(returned_sum - whole / weight) <= tolerance / weight:
        return "sum", [f"the loss {loss.name!r} sums over its batch: L is the sum over all data"]
    return "mean", [
        f"the loss {loss.name!r} is neither the mean nor the sum over its batch's examples (token "
        "averages, class weights, pairs within the batch): batches are weighted by their numbers "
        "of examples. If that is wrong, return a pair (weighted sum, sum of weights)."
    ]


def _look_for_unseen_parameters(objective: Objective) -> list[str]:
    """Parameters without any influence: a note if truly unused, an error if merely bypassed."""
    batch = next(iter(objective.batches))
    leaves = objective.leaves(objective.theta)
    total = objective.term(leaves, batch).total
    if not total.requires_grad:
        return ["the loss carries no gradient: only its values can be measured"]
    gradients = torch.autograd.grad(total, leaves, allow_unused=True)
    unseen = [
        name
        for name, gradient in zip(objective.space.names, gradients, strict=True)
        if gradient is None
    ]
    if not unseen:
        return []
    named = objective.model.named_parameters()
    own = {n: p for n, p in named if n in unseen and p.requires_grad}
    as_it_is = all(
        p.device == leaves[0].device and p.dtype == leaves[0].dtype for p in own.values()
    )
    direct = _direct_total(objective, batch) if own and as_it_is else None
    if direct is not None and direct.requires_grad:
        seen = torch.autograd.grad(direct, list(own.values()), allow_unused=True)
        bypassed = [name for name, g in zip(own, seen, strict=True) if g is not None]
        if bypassed:
            raise RequestError(
                f"the model reads {', '.join(bypassed[:3])} from a copy that it keeps elsewhere "
                "(a list, a closure), so it cannot be moved from outside. Read it as self.<name> "
                "in forward, or leave it out of the selection."
            )
    shown = ", ".join(unseen[:3]) + (", ..." if len(unseen) > 3 else "")
    return [
        f"{len(unseen)} parameter tensor(s) do not enter the loss of the first batch ({shown}): "
        "where that holds for every batch, they have zero curvature"
    ]


def _direct_total(objective: Objective, batch: object) -> Tensor:
    """The batch's loss with the model's own parameters, and private buffers."""
    buffers = {name: buffer.clone() for name, buffer in objective.model.named_buffers()}

    class Direct(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = objective.model

        def forward(self) -> Tensor:
            return objective.loss_function.term(self.model, batch).total

    swapped = {f"model.{name}": buffer for name, buffer in buffers.items()}
    total: Tensor = functional_call(Direct(), swapped, ())
    return total
