"""Probes at every penalty of a grid and of every layer, scored on each part of a split.

What is minimised, and how, is the `Method`'s: ridge's in `fitting`, the lasso's in `sparse`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.probes.arrays import ArrayLike, as_floats
from landscape.probes.linear.labelled import (
    Features,
    Labelled,
    as_classes,
    as_weights,
    hold_out,
    layers,
)
from landscape.probes.linear.logistic import DataTerm, SoftmaxRegression, Solution

__all__ = ["LinearProbe", "Method", "Pair", "Selection", "fit_grid"]

Selection = Literal["accuracy", "loss"]
Pair = tuple[Features, ArrayLike]

_SELECTIONS = ("accuracy", "loss")


@dataclass(frozen=True, eq=False)
class Method:
    """A penalty on the weights, and what finds the minimum under it.

    Attributes:
        solve: problem and penalties (P,) to a solution.
        value: weights (P, C, d) to the penalty (P,) for a factor of 1.
        violation: term, weights and penalties (P,), of which none is infinite, to how far
            (P, C, d) the weights are from stationary.
    """

    solve: Callable[[SoftmaxRegression, Tensor], Solution]
    value: Callable[[Tensor], Tensor]
    violation: Callable[[DataTerm, Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearProbe:
    """Logistic regression at P penalties; with several layers, everything but `penalties`,
    `classes` has a leading L. All are float64 unless said otherwise.

    Attributes:
        penalties: (P,) as they were given.
        classes: (C,) int64 labels that the training examples have, ascending.
        weights: (P, C, d) in the features' own units.
        intercept: (P, C); the mean over the classes is 0.
        objective: (P,) what was minimised, at its end.
        gradient_norm: (P,) largest entry of its gradient there, by weights and intercept.
        iterations: (P,) int64 passes over the training examples.
        converged: (P,) bool, see `linear_probe`.
        train_accuracy: (P,) weighted like the objective; so is `train_loss`.
        train_loss: (P,) mean cross-entropy, in nats, without the penalty.
        validation_accuracy: (P,) None without validation; so is `validation_loss`.
        validation_loss: (P,) infinite where a class occurs that training did not have.
        test_accuracy: (P,) None without test; so is `test_loss`.
        test_loss: (P,) as `validation_loss`.
        chosen: () int64, index of the penalty that validation chose; None where there is none:
            then nothing was chosen, and the best of the others' numbers would be biased.
    """

    penalties: Tensor
    classes: Tensor
    weights: Tensor
    intercept: Tensor
    objective: Tensor
    gradient_norm: Tensor
    iterations: Tensor
    converged: Tensor
    train_accuracy: Tensor
    train_loss: Tensor
    validation_accuracy: Tensor | None = None
    validation_loss: Tensor | None = None
    test_accuracy: Tensor | None = None
    test_loss: Tensor | None = None
    chosen: Tensor | None = None

    @property
    def accuracy(self) -> Tensor:
        """(P,) of validation; of training where there is no validation. Never of test."""
        found = self.validation_accuracy
        return self.train_accuracy if found is None else found

    @property
    def loss(self) -> Tensor:
        """(P,) mean cross-entropy of the examples that `accuracy` is of."""
        return self.train_loss if self.validation_loss is None else self.validation_loss


def fit_grid(
    method: Method,
    features: Features,
    labels: ArrayLike,
    penalties: ArrayLike,
    *,
    validation: Pair | float | None,
    test: Pair | None,
    sample_weights: ArrayLike | None,
    standardize: bool,
    select: Selection,
    seed: int,
) -> LinearProbe | dict[str, LinearProbe]:
    """As `fitting.linear_probe`, with any method."""
    if select not in _SELECTIONS:
        raise unknown_choice("selection", select, _SELECTIONS)
    train = Labelled(layers(features, "features"), as_classes(labels, "labels"))
    shares = as_weights(sample_weights, len(train.labels))
    held = None
    if isinstance(validation, tuple):
        held = _part(validation, "validation", train)
    elif validation is not None:
        kept, rows = hold_out(train, validation, seed)
        train, held, shares = train.at(kept), train.at(rows), as_weights(shares[kept], len(kept))
    parts = {
        "validation": held,
        "test": None if test is None else _part(test, "test", train),
    }
    grid = _grid(penalties)
    found = {
        name: _of_layer(
            method,
            _Problem.of(train.layers[name], train.labels, shares, standardize),
            {
                part: (examples.layers[name], examples.labels)
                for part, examples in parts.items()
                if examples is not None
            },
            grid,
            select,
        )
        for name in train.layers
    }
    if isinstance(features, Mapping):
        return found
    return found[""] if "" in found else _stacked(list(found.values()))


def _part(pair: Pair, name: str, train: Labelled) -> Labelled:
    if len(pair) != 2:
        raise RequestError(f"{name} has {len(pair)} parts, expected a pair (features, labels).")
    part = Labelled(layers(pair[0], f"{name} features"), as_classes(pair[1], f"{name} labels"))
    if set(part.layers) != set(train.layers):
        raise RequestError(
            f"{name} has the layers {sorted(part.layers)} and training {sorted(train.layers)}: "
            "give both in the same form."
        )
    for key, kept in train.layers.items():
        if part.layers[key].shape[1] != kept.shape[1]:
            raise RequestError(
                f"{name} has {part.layers[key].shape[1]} features and training {kept.shape[1]}: "
                "give those of the same layer."
            )
    return part


def _grid(penalties: ArrayLike) -> Tensor:
    grid = torch.from_numpy(as_floats(penalties, "penalties", "(P,)"))
    if not len(grid) or not (grid >= 0).all():
        raise RequestError(
            f"penalties={grid.tolist()}, expected one or more numbers from 0 on, infinity included."
        )
    return grid


@dataclass(frozen=True, eq=False)
class _Problem:
    """What is minimised, in units of `deviation` (d,), and the classes that it tells apart."""

    regression: SoftmaxRegression
    deviation: Tensor
    classes: Tensor

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, shares: Tensor, standardize: bool) -> _Problem:
        # Without the examples that have no weight: their class may have none either.
        rows = (shares > 0).nonzero().flatten()
        if len(rows) < len(shares):
            features, labels, shares = features[rows], labels[rows], shares[rows]
        classes, positions = torch.unique(labels, return_inverse=True)
        if len(classes) < 2:
            raise RequestError(
                f"the training labels are all {classes.tolist()}: a probe needs two classes or "
                "more."
            )
        deviation = torch.ones(features.shape[1], dtype=torch.float64)
        if standardize:
            deviation = _deviations(features.double(), shares)
            features = features.double() / deviation
        return cls(SoftmaxRegression(features, positions, shares, len(classes)), deviation, classes)


def _of_layer(
    method: Method,
    problem: _Problem,
    parts: Mapping[str, tuple[Tensor, Tensor]],
    penalties: Tensor,
    select: Selection,
) -> LinearProbe:
    regression = problem.regression
    solution = method.solve(regression, penalties)
    own, intercept = solution.weights, solution.intercept
    term = regression.data_term(own, intercept)
    finite = torch.where(penalties.isinf(), 0.0, penalties)
    violation = method.violation(term, own, finite)
    violation[penalties.isinf()] = 0  # there W = 0 is no choice
    norm = torch.maximum(violation.abs().flatten(1).amax(1), term.intercept_gradient.abs().amax(1))
    train_accuracy, train_loss = regression.scores(own, intercept)
    is_separated = ((1 - train_accuracy).abs() < 1e-12) & (penalties == 0)
    weights = own / problem.deviation
    scores: dict[str, Tensor] = {}
    for part, (features, labels) in parts.items():
        judged = _judged(features, labels, problem.classes)
        scores[f"{part}_accuracy"], scores[f"{part}_loss"] = judged.scores(weights, intercept)
    return LinearProbe(
        penalties=penalties,
        classes=problem.classes,
        weights=weights,
        intercept=intercept,
        objective=train_loss + finite * method.value(own),
        gradient_norm=norm,
        iterations=solution.iterations,
        converged=solution.converged & ~is_separated,
        train_accuracy=train_accuracy,
        train_loss=train_loss,
        chosen=_chosen(penalties, scores, select) if "validation" in parts else None,
        **scores,
    )


def _deviations(features: Tensor, shares: Tensor) -> Tensor:
    """(d,) standard deviations, 1 for what does not vary but for rounding."""
    found = (shares @ (features - shares @ features).square_()).sqrt_()
    return torch.where(found > 1e-12 * features.abs().amax(0), found, 1.0)


def _judged(features: Tensor, labels: Tensor, classes: Tensor) -> SoftmaxRegression:
    found = torch.searchsorted(classes, labels).clamp_max(len(classes) - 1)
    found = torch.where(classes[found] == labels, found, -1)
    return SoftmaxRegression(features, found, as_weights(None, len(labels)), len(classes))


def _chosen(penalties: Tensor, scores: Mapping[str, Tensor], select: Selection) -> Tensor:
    accuracy, loss = scores["validation_accuracy"].tolist(), scores["validation_loss"].tolist()

    def rank(index: int) -> tuple[float, float, float]:
        # Accuracies are sums of shares: equal counts may differ by rounding.
        first = -round(accuracy[index], 12) if select == "accuracy" else 0.0
        return first, loss[index], -float(penalties[index])

    return torch.tensor(min(range(len(penalties)), key=rank))


def _stacked(probes: list[LinearProbe]) -> LinearProbe:
    widths = {probe.weights.shape[2] for probe in probes}
    if len(widths) > 1:
        raise RequestError(
            f"the layers have {sorted(widths)} features: give layers of different widths by name, "
            "as a mapping, for one result each."
        )
    shared = {"penalties", "classes"}
    stacked = {}
    for field in fields(LinearProbe):
        values = [getattr(probe, field.name) for probe in probes]
        whole = field.name in shared or values[0] is None
        stacked[field.name] = values[0] if whole else torch.stack(values)
    return LinearProbe(**stacked)
