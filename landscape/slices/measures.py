"""Measures: what is added up over the data at each point of a slice, and what it comes to.

`execution` evaluates a part of the data at a chunk of points; `evaluation` adds the parts up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from landscape.accuracy import Correctness, correctness
from landscape.errors import RequestError, unknown_choice
from landscape.losses import Term
from landscape.objective import Objective

__all__ = ["FIELDS", "GRADIENT_FIELDS", "Center", "Measures", "Metric", "Part"]

Metric = Callable[[Tensor, Tensor], Tensor]
Sums = dict[str, Tensor]  # each (C, ...) float64: what a part of the data adds, point by point

GRADIENT_FIELDS = ("gradient_norm", "slope")
FIELDS = ("loss", "accuracy", "class_loss", "class_accuracy", "penalty", *GRADIENT_FIELDS)
# Other names of a sweep and of the record that it becomes, which a metric may not have.
_TAKEN = frozenset({*FIELDS, "standard_error", "subset_error", "num_examples", "done", "cosine"})
_TAKEN |= {
    "direction",
    "other_direction",
    "direction_norm",
    "class",
    "mark",
    "parameter",
    *"abcdef",
    *("center_loss", "center_error", "smallest_loss", "largest_loss", "nan_points"),
    *("center_slope", "center_curvature", "mark_place", "direction_vector"),
    *("max_cosine", "clipped_share", "stale_bn_gap", "rescaling_change", "interpolated_share"),
}
_NEVER_NEGATIVE = (
    *(nn.CrossEntropyLoss, nn.BCELoss, nn.BCEWithLogitsLoss),
    *(nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss),
)


@dataclass(frozen=True, eq=False)
class Part:
    """Some examples, and what is known of them at the center.

    Attributes:
        batch: as the loss takes it.
        size: number of examples.
        sums: (b,) weighted loss of each example at the center; None where they are not told apart.
        weights: (b,) their weights.
        classes: (elements,) class of each, where classes are measured.
        constants: sums over the part that are the same at every point, in float64 on the CPU.
        is_bounded: whether no loss of the part can be below 0, wherever the weights are.
    """

    batch: object
    size: int
    sums: Tensor | None = None
    weights: Tensor | None = None
    classes: Tensor | None = None
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    is_bounded: bool = False


@dataclass(frozen=True)
class Center:
    """The loss at the center, and its standard error as of a fresh draw of the examples."""

    loss: float
    standard_error: float


class Measures:
    """The fields that are asked of one objective.

    Args:
        fields: names from `FIELDS`; "loss" is always among them, with its standard error.
        metrics: the user's, by name: `metric(output, target)` gives a value for each example, or
            the mean of a batch.
        penalty: a function of theta, such as weight decay; reported apart from the loss.

    Raises:
        RequestError: an unknown field, or one that this loss or network does not have.
    """

    def __init__(
        self,
        objective: Objective,
        fields: Sequence[str] = ("loss", "accuracy"),
        *,
        metrics: Mapping[str, Metric] | None = None,
        penalty: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        for name in fields:
            if name not in FIELDS:
                raise unknown_choice("field", name, FIELDS)
        if "penalty" in fields and penalty is None:
            raise RequestError(
                "the field 'penalty' needs to know which: give penalty=lambda theta: "
                "0.5 * weight_decay * theta.square().sum()."
            )
        self.metrics = dict(metrics or {})
        for name in self.metrics:
            if name in _TAKEN:
                raise RequestError(
                    f"the metric {name!r} has the name of a field, an axis or a caveat. Rename it."
                )
        self.objective, self.penalty = objective, penalty
        with objective.evaluation(), torch.no_grad():
            batch = next(iter(objective.batches))
            term = objective.term(objective.space.split(objective.theta), batch)
        self.is_paired = term.losses is not None
        told = correctness(objective.loss_function, term)
        self.num_classes = 0
        if any(name.startswith("class_") for name in fields):
            self.num_classes = _num_classes(objective, term)
        self.names = [name for name in fields if name != "accuracy" or told is not None]
        self._counts_right = "accuracy" in self.names or self.num_classes > 0
        if self.metrics and term.output is None:
            raise RequestError(
                "metrics take (output, target), and this loss takes the whole model. Put the "
                "metric into a second objective, or give a loss(output, target)."
            )

    # -- of one part, at one point: pure, so that it can be mapped over points ----------------

    def sums(self, term: Term, part: Part) -> Sums:
        """What a part adds at a point, from its term there."""
        found = {"total": term.total.double()}
        if part.sums is not None and part.weights is not None:
            assert term.losses is not None
            examples = _by_example(term.losses.double())
            found["total"] = examples.sum()
            difference = examples - part.sums
            found["difference"] = difference.sum()
            found["difference_squared"] = difference.square().sum()
            found["difference_weighted"] = (difference * part.weights).sum()
        told = self._told(term)
        if told is not None:
            found["right"] = told.right.double().sum()
        if part.classes is not None:
            assert term.losses is not None
            assert told is not None
            # Not a product with zeros and ones: infinite in one class would be NaN in the others.
            found["class_total"] = self._by_class(part.classes, term.losses)
            found["class_right"] = self._by_class(part.classes, told.right)
        for name, metric in self.metrics.items():
            values = torch.as_tensor(metric(*_both(term)), dtype=torch.float64)
            found[f"metric_{name}"] = values.mean() * part.size
        return found

    def _told(self, term: Term) -> Correctness | None:
        if not self._counts_right:
            return None
        return correctness(self.objective.loss_function, term)

    def _by_class(self, classes: Tensor, elements: Tensor) -> Tensor:
        """Sums (K,) over the elements of each class."""
        zeros = elements.new_zeros(self.num_classes, dtype=torch.float64)
        return zeros.index_add(0, classes, elements.double().reshape(-1))

    # -- at the center -------------------------------------------------------------------------

    def part(self, batch: object, size: int, term: Term) -> Part:
        """A batch with what its term at the center tells once for all points."""
        sums = weights = classes = None
        weight = torch.as_tensor(float(term.weight), dtype=torch.float64)
        constants = {
            "count": torch.as_tensor(float(size), dtype=torch.float64),
            "weight": weight,
            "total": term.total.double().cpu(),
        }
        if term.losses is not None and term.weights is not None:
            sums = _by_example(term.losses.double())
            weights = _by_example(term.weights.double())
            constants["total"] = sums.sum().cpu()
            constants["weight"] = weights.sum().cpu()
            constants["weight_squared"] = weights.square().sum().cpu()
            # Examples that are left out altogether tell nothing of the spread.
            constants["told"] = (weights != 0).double().sum().cpu()
        told = self._told(term)
        if told is not None:
            constants["counted"] = told.counted.double().sum().cpu()
        if self.num_classes:
            assert told is not None
            assert term.target is not None
            assert term.weights is not None
            # What is left out adds 0 to whichever class it is put into.
            classes = term.target.reshape(-1).long().masked_fill(~told.counted.reshape(-1), 0)
            constants["class_weight"] = self._by_class(classes, term.weights).cpu()
            constants["class_count"] = self._by_class(classes, told.counted).cpu()
        return Part(batch, size, sums, weights, classes, constants, self._is_bounded(term))

    def _is_bounded(self, term: Term) -> bool:
        """Whether the losses of these targets are 0 or more at every output."""
        function = self.objective.loss_function.function
        if type(function) not in _NEVER_NEGATIVE or term.target is None:
            return False
        weights = [getattr(function, name, None) for name in ("weight", "pos_weight")]
        if any(weight is not None and bool((weight < 0).any()) for weight in weights):
            return False
        if isinstance(function, (nn.BCELoss, nn.BCEWithLogitsLoss)):
            return bool(((term.target >= 0) & (term.target <= 1)).all())
        if isinstance(function, nn.CrossEntropyLoss) and term.target.is_floating_point():
            return bool((term.target >= 0).all())
        return True

    def center(self, parts: Sequence[Part], totals: Sequence[float]) -> Center:
        """Loss at the center, from each part's total there."""
        total_weight = self.objective.total_weight
        loss = math.fsum(totals) / total_weight
        if not self.is_paired:
            return Center(loss, math.nan)
        sums = torch.cat([part.sums for part in parts if part.sums is not None])
        weights = torch.cat([part.weights for part in parts if part.weights is not None])
        mean = sums.sum() / weights.sum()
        spread = (sums - weights * mean).square().sum()
        return Center(loss, _error(float(spread), int((weights != 0).sum()), total_weight))

    # -- of all parts that were seen -----------------------------------------------------------

    def values(
        self, sums: Mapping[str, float], seen: Mapping[str, float], whole: Mapping[str, float],
        center: Center,
    ) -> dict[str, float]:  # fmt: skip
        """Loss and its errors at a point.

        Args:
            sums: what was added up there, over the parts that were seen.
            seen, whole: the constants of those parts, and of all.
        """
        total_weight = self.objective.total_weight
        is_whole = seen["count"] == whole["count"]
        found = {"loss": sums["total"] / total_weight, "standard_error": math.nan}
        if not self.is_paired:
            return found
        mean = sums["difference"] / seen["weight"]
        if not is_whole:
            # The part that was not seen is known at the center: only the difference is estimated.
            found["loss"] = center.loss + mean * whole["weight"] / total_weight
        spread = (
            sums["difference_squared"]
            - 2 * mean * sums["difference_weighted"]
            + mean * mean * seen["weight_squared"]
        )
        scale = total_weight * seen["weight"] / whole["weight"]
        found["standard_error"] = _error(max(spread, 0.0), int(seen["told"]), scale)
        return found


def subset_error(standard_error: float, seen: float, whole: float) -> float:
    """Error that leaving examples out brings: 0 when all were seen.

    Sampling without replacement: the factor is sqrt(1 - m / N) (Cochran 1977, section 2.6).
    """
    return standard_error * math.sqrt(max(0.0, 1.0 - seen / whole))


def _error(spread: float, count: int, total_weight: float) -> float:
    """Of sum_i d_i / W, from sum_i (d_i - w_i mean)^2: the linearised ratio estimator."""
    if count < 2:
        return math.nan
    return math.sqrt(spread * count / (count - 1)) / total_weight


def _by_example(elements: Tensor) -> Tensor:
    return elements.reshape(len(elements), -1).sum(1)


def _both(term: Term) -> tuple[Tensor, Tensor]:
    assert term.output is not None
    assert term.target is not None
    return term.output, term.target


def _num_classes(objective: Objective, term: Term) -> int:
    told = correctness(objective.loss_function, term)
    separate = term.losses is not None and objective.loss_function.is_pointwise
    if (
        told is None
        or not separate
        or not hasattr(objective.loss_function.function, "ignore_index")
    ):
        raise RequestError(
            f"the loss {objective.loss_function.name!r} has no classes to tell apart: leave "
            "class_loss and class_accuracy out, or give 'cross_entropy' with integer targets."
        )
    assert term.output is not None
    assert term.target is not None
    output, target = term.output, term.target
    second = output.shape[:1] + output.shape[2:] == target.shape
    return output.shape[1 if second else -1]
