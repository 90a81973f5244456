"""Losses: what one batch adds to the objective, as a weighted sum and its weight.

L = sum_i w_i l_i / sum_i w_i is put together in `objective`; here stands which (sum, weight) a
batch contributes, for named losses, `loss(output, target)` and `loss(model, batch)`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.batches import batch_length
from landscape.errors import RequestError, unknown_choice

__all__ = ["TARGET_KEYS", "Loss", "Reduction", "Term", "resolve_loss"]

Reduction = Literal["mean", "sum", "auto"]

_NAMED: dict[str, Callable[[], nn.Module]] = {
    "bce": nn.BCEWithLogitsLoss,
    "cross_entropy": nn.CrossEntropyLoss,
    "mse": nn.MSELoss,
}
_FUNCTIONS: dict[object, Callable[[], nn.Module]] = {
    F.cross_entropy: nn.CrossEntropyLoss,
    F.mse_loss: nn.MSELoss,
    F.binary_cross_entropy_with_logits: nn.BCEWithLogitsLoss,
    F.nll_loss: nn.NLLLoss,
    F.l1_loss: nn.L1Loss,
    F.smooth_l1_loss: nn.SmoothL1Loss,
    F.huber_loss: nn.HuberLoss,
}
_BY_CLASS = (nn.CrossEntropyLoss, nn.NLLLoss)
_BY_ELEMENT = (
    *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss),
    *(nn.BCELoss, nn.BCEWithLogitsLoss),
)
_FEW_CLASSES = 32  # with more, the softmax of a row is wide enough by itself
_REDUCTIONS = ("mean", "sum", "auto")
TARGET_KEYS = ("labels", "label", "targets", "target", "y")
_MODEL_NAMES = frozenset({"model", "net", "network", "module"})


@dataclass(frozen=True)
class Term:
    """One batch's share of the objective.

    Attributes:
        total: the weighted sum of the batch's losses, a scalar that carries a graph.
        weight: the sum of its weights.
        output: the model's output, where the loss is one of (output, target).
        target: the target that it was compared with.
        losses: weighted losses of single elements, examples first, where they are known.
        weights: the weight of each of them.
    """

    total: Tensor
    weight: Tensor | float
    output: Tensor | None = None
    target: Tensor | None = None
    losses: Tensor | None = None
    weights: Tensor | None = None


@dataclass(frozen=True)
class Loss:
    """A loss of any of the three kinds, ready to be evaluated on batches.

    Attributes:
        name: for reports and fingerprints.
        function: `loss(output, target)`, or `loss(model, batch)` where `takes_model`.
        takes_model: which of the two.
        reduction: "mean" divides the sum over all batches by the sum of the weights; "sum" does
            not; "auto" is settled by a trial on the first batch.
    """

    name: str
    function: Callable[..., object]
    takes_model: bool
    reduction: Reduction

    @property
    def is_pointwise(self) -> bool:
        """Whether its value on every element is known, not only a batch's mean."""
        # Not isinstance: a subclass (a focal loss, say) may reduce in its own way.
        return type(self.function) in (*_BY_CLASS, *_BY_ELEMENT)

    def term(self, model: nn.Module, batch: object, *, check: bool = False) -> Term:
        """Evaluate on one batch; `check` the labels first, at the cost of reading them back."""
        length = batch_length(batch)
        if self.takes_model:
            value = self.function(model, batch)
            return Term(*self._reduced(value, length), **_separate(value, length))
        output, target = _forward(model, batch, raw=not self.is_pointwise)
        if self.is_pointwise:
            if check and isinstance(self.function, _BY_CLASS):
                _check_labels(output, target, self.function.ignore_index)
            losses, weights = self.pointwise(output, target)
            weight = 1.0 if self.reduction == "sum" else weights.sum()
            return Term(losses.sum(), weight, output, target, losses, weights)
        value = self.function(output, target)
        total, weight = self._reduced(value, length)
        shown = output if isinstance(output, Tensor) else None
        shown_target = target if isinstance(target, Tensor) else None
        return Term(total, weight, shown, shown_target, **_separate(value, length))

    def pointwise(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Weighted losses and weights of every element, as broadcast by the loss.

        Only for losses that are `is_pointwise`. Both have the target's shape (class indices) or
        the output's (everything else but class probabilities).
        """
        assert isinstance(self.function, (*_BY_CLASS, *_BY_ELEMENT))
        output, target = _aligned(self.function, output, target)
        separate = copy.copy(self.function)
        separate.reduction = "none"
        if _is_narrow(output, target) and not torch.is_grad_enabled():
            # Examples last: the same losses but for rounding, 16 x 512 of 10 classes in 0.18 ms
            # instead of 0.62 (two threads), since softmax is vectorised across what comes last.
            losses: Tensor = separate(output.T.contiguous()[None], target[None])[0]
        else:
            losses = separate(output, target)
        if not isinstance(self.function, _BY_CLASS) or target.is_floating_point():
            return losses, torch.ones_like(losses)
        counted = target != self.function.ignore_index
        class_weights = self.function.weight
        if class_weights is None:
            return losses, counted.to(losses.dtype)
        return losses, class_weights[target.masked_fill(~counted, 0)] * counted

    def _reduced(self, value: object, length: int) -> tuple[Tensor, float]:
        """What a user's loss returned, as (sum, weight)."""
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Tensor):
            weight = value[1].detach() if isinstance(value[1], Tensor) else value[1]
            if isinstance(weight, Tensor) and weight.numel() != 1:
                raise RequestError(
                    f"the loss {self.name!r} returned a pair whose second part has shape "
                    f"{tuple(weight.shape)}, expected (sum, weight) with one number as weight."
                )
            return value[0].sum(), float(weight)
        if not isinstance(value, Tensor):
            raise RequestError(
                f"the loss {self.name!r} returned a {type(value).__name__}, expected a tensor: a "
                "scalar, one value an example, or a pair (sum, weight)."
            )
        if value.numel() != 1 or (value.ndim == 1 and length == 1):
            return value.sum(), 1.0 if self.reduction == "sum" else float(value.numel())
        if self.reduction == "sum":
            return value.sum(), 1.0
        return value.sum() * length, float(length)


def resolve_loss(
    loss: str | Callable[..., object],
    reduction: Reduction = "auto",
    *,
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Loss:
    """A named loss, a torch loss module or function, or a user's own, as a `Loss`.

    A callable whose first parameter is called `model` (or net, network, module), or whose second
    is called `batch`, is a `loss(model, batch)`; any other is a `loss(output, target)`.

    Args:
        device, dtype: where a torch loss's own tensors (class weights) go; None leaves their dtype.

    Raises:
        RequestError: an unknown name, or something that cannot be called with two arguments.
    """
    if reduction not in _REDUCTIONS:
        raise unknown_choice("reduction", str(reduction), _REDUCTIONS)
    if isinstance(loss, str):
        if loss not in _NAMED:
            raise unknown_choice("loss", loss, _NAMED)
        return Loss(loss, _NAMED[loss](), takes_model=False, reduction=_known(reduction))
    if isinstance(loss, type):
        raise RequestError(
            f"the loss is the class {loss.__name__}, expected an instance: {loss.__name__}()."
        )
    if not callable(loss):
        raise RequestError(
            f"the loss is a {type(loss).__name__}, expected one of {', '.join(sorted(_NAMED))}, a "
            "loss(output, target), or a loss(model, batch)."
        )
    for function, named in _FUNCTIONS.items():
        if loss is function:
            return Loss(_name(loss), named(), False, _known(reduction))
    if isinstance(loss, nn.Module):
        # A copy: class weights must lie where the data does, and the user's module stays as it is.
        module = copy.deepcopy(loss).to(device, dtype)
        if reduction == "auto" and type(module) in (*_BY_CLASS, *_BY_ELEMENT):
            reduction = "sum" if module.reduction == "sum" else "mean"
        return Loss(_name(loss), module, _takes_model(loss.forward), reduction)
    return Loss(_name(loss), loss, _takes_model(loss), reduction)


def _separate(value: object, length: int) -> dict[str, Tensor]:
    """The losses of single examples, if that is what a user's loss returned."""
    if isinstance(value, Tensor) and value.ndim and value.shape[0] == length:
        return {"losses": value, "weights": torch.ones_like(value)}
    return {}


def _known(reduction: Reduction) -> Reduction:
    return "mean" if reduction == "auto" else reduction


def _name(loss: object) -> str:
    return getattr(loss, "__qualname__", None) or type(loss).__qualname__


def _takes_model(loss: Callable[..., object]) -> bool:
    try:
        signature = inspect.signature(loss)
    except (TypeError, ValueError):  # a builtin without a signature
        return False
    parameters = signature.parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in parameters if parameter.kind in kinds]
    try:
        signature.bind(None, None)
    except TypeError as error:
        raise RequestError(
            f"the loss {_name(loss)!r} takes {signature}, expected two arguments: "
            "loss(output, target) or loss(model, batch)."
        ) from error
    return bool(names) and (names[0] in _MODEL_NAMES or (len(names) > 1 and names[1] == "batch"))


def _forward(model: nn.Module, batch: object, *, raw: bool) -> tuple[Tensor, Tensor]:
    """Output and target of a batch; `raw` leaves the output as the model returned it."""
    if isinstance(batch, (tuple, list)) and len(batch) == 2:
        inputs, target = batch
        if isinstance(inputs, Mapping):
            output = model(**inputs)
        elif isinstance(inputs, (tuple, list)):
            output = model(*inputs)
        else:
            output = model(inputs)
    elif hasattr(batch, "keys"):
        key = next((key for key in TARGET_KEYS if key in batch), None)  # type: ignore[operator]
        if key is None:
            raise RequestError(
                f"a batch has the keys {sorted(batch.keys())}; none of them is a target "
                f"({', '.join(TARGET_KEYS)}). Rename it, or give a loss(model, batch)."
            )
        target = batch[key]  # type: ignore[index]
        rest = {k: batch[k] for k in batch.keys() if k != key}  # type: ignore[index]  # noqa: SIM118
        output = model(*rest.values()) if len(rest) == 1 else model(**rest)
    else:
        size = f" of {len(batch)} elements" if isinstance(batch, (tuple, list)) else ""
        raise RequestError(
            f"a batch is a {type(batch).__name__}{size}, expected (inputs, target) or a mapping "
            "with a target. For any other kind of batch give a loss(model, batch)."
        )
    if raw:
        return output, target
    if not isinstance(target, Tensor):
        raise RequestError(
            f"a batch's target is a {type(target).__name__}, expected a tensor. For any other kind "
            "of target give a loss(output, target) or a loss(model, batch)."
        )
    return _logits(output), target


def _logits(output: object) -> Tensor:
    if isinstance(output, Tensor):
        return output
    for found in (
        getattr(output, "logits", None),
        output.get("logits") if isinstance(output, Mapping) else None,
    ):
        if isinstance(found, Tensor):
            return found
    raise RequestError(
        f"the model returned a {type(output).__name__} without 'logits', expected a tensor. Give "
        "a loss(output, target) or a loss(model, batch) that takes it apart."
    )


def _is_narrow(output: Tensor, target: Tensor) -> bool:
    few = output.ndim == 2 and output.shape[1] <= _FEW_CLASSES
    return few and target.ndim == 1 and not target.is_floating_point()


def _aligned(function: object, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Output and target in the shapes that the loss wants; never silently broadcast."""
    if isinstance(function, _BY_CLASS):
        return _aligned_classes(output, target)
    if output.shape != target.shape:
        if output.shape == (*target.shape, 1) or target.shape == (*output.shape, 1):
            target = target.view(output.shape)
        else:
            hint = (
                f" For class indices type F.one_hot(target, {output.shape[-1]}).float()."
                if not target.is_floating_point() and output.ndim == target.ndim + 1
                else ""
            )
            raise RequestError(
                f"the output has shape {tuple(output.shape)} and the target "
                f"{tuple(target.shape)}: they must be equal, or the loss would be that of every "
                f"output against every target.{hint}"
            )
    return output, target.to(output.dtype)


def _aligned_classes(output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    if target.is_floating_point():  # class probabilities
        if output.shape != target.shape:
            raise RequestError(
                f"the target is floating-point, so class probabilities, of shape "
                f"{tuple(target.shape)}; the output has {tuple(output.shape)}. Give integer class "
                "indices, or probabilities of the output's shape."
            )
        return output, target
    if target.shape == (*output.shape[:-1], 1) and output.ndim > 1:
        target = target.squeeze(-1)
    classes_second = output.shape[:1] + output.shape[2:] == target.shape and output.ndim >= 2
    classes_last = output.shape[:-1] == target.shape
    if classes_second and classes_last and output.ndim > 2:
        raise RequestError(
            f"the output has shape {tuple(output.shape)} and the target {tuple(target.shape)}: "
            "the classes may be the second or the last dimension. Give a loss(output, target)."
        )
    if not (classes_second or classes_last):
        raise RequestError(
            f"the output has shape {tuple(output.shape)} and the target {tuple(target.shape)}; "
            "class indices need an output (n, C, ...) or (n, ..., C) for a target (n, ...)."
        )
    if classes_last and output.ndim > 2:
        output = output.movedim(-1, 1)
    return output, target.long()


def _check_labels(output: Tensor, target: Tensor, ignore_index: int) -> None:
    output, target = _aligned_classes(output, target)
    if target.is_floating_point():
        return
    num_classes = output.shape[1] if output.ndim > 1 else output.shape[0]
    wrong = (target != ignore_index) & ((target < 0) | (target >= num_classes))
    if wrong.any():
        values = sorted(set(target[wrong].flatten().tolist()))
        raise RequestError(
            f"labels out of range: {', '.join(map(str, values[:5]))} in {int(wrong.sum())} places, "
            f"but the model has {num_classes} classes, so labels 0..{num_classes - 1} "
            f"(and {ignore_index} for what is left out). Give a model with more classes, or mend "
            "the labels."
        )
