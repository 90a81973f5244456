"""Linear probes: logistic regression on features, at many penalties and of many layers.

The objective is that of `logistic`, its minimum found by `newton`. Probes with few weights are in
`sparse`, those for groups and for few examples in `group_balanced` and `few_shot`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Literal, overload

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
from landscape.probes.linear.logistic import SoftmaxRegression
from landscape.probes.linear.newton import solve

__all__ = ["LinearProbe", "Selection", "linear_probe"]

Selection = Literal["accuracy", "loss"]
Pair = tuple[Features, ArrayLike]

_SELECTIONS = ("accuracy", "loss")


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


@overload
def linear_probe(
    features: Mapping[str, ArrayLike],
    labels: ArrayLike,
    penalties: ArrayLike,
    *,
    validation: Pair | float | None = None,
    test: Pair | None = None,
    sample_weights: ArrayLike | None = None,
    standardize: bool = False,
    select: Selection = "accuracy",
    tol: float = 1e-4,
    max_iterations: int = 200,
    seed: int = 0,
) -> dict[str, LinearProbe]: ...


@overload
def linear_probe(
    features: ArrayLike,
    labels: ArrayLike,
    penalties: ArrayLike,
    *,
    validation: Pair | float | None = None,
    test: Pair | None = None,
    sample_weights: ArrayLike | None = None,
    standardize: bool = False,
    select: Selection = "accuracy",
    tol: float = 1e-4,
    max_iterations: int = 200,
    seed: int = 0,
) -> LinearProbe: ...


def linear_probe(
    features: Features,
    labels: ArrayLike,
    penalties: ArrayLike,
    *,
    validation: Pair | float | None = None,
    test: Pair | None = None,
    sample_weights: ArrayLike | None = None,
    standardize: bool = False,
    select: Selection = "accuracy",
    tol: float = 1e-4,
    max_iterations: int = 200,
    seed: int = 0,
) -> LinearProbe | dict[str, LinearProbe]:
    """Minimise sum_i w_i CE(W x_i + b, y_i) / sum_i w_i + penalty / 2 ||W||^2 at each penalty.

    W has a row for each class, b is free. scikit-learn's `LogisticRegression(C=C)` has the same
    minimum at penalty = 1 / (C sum_i w_i) where there are three classes or more. With two it has
    one vector, our w_1 - w_0, at half the penalty: its C is 2 / (penalty sum_i w_i), and
    objectives are equal.

    Converged means ||g||_inf <= tol penalty ||W||_inf, with g the gradient by the weights of
    centred features and by the intercept, this one in units of the features' root mean square
    deviation; then W is off by tol of itself at most, and the objective by about tol^2. Or, for
    penalties near 0, ||g||_inf <= tol^2 ||g||_inf at W = 0. At penalty 0 nothing has converged
    where every training example is right: separable classes have no minimum.

    Args:
        features: (n, d); (L, n, d) or a sequence of (n, d) for layers or checkpoints of one width;
            or layers of any widths by name, for which there are as many results. Held as float32
            or float64, computed with in float64.
        labels: (n,) integers; each value that occurs is a class.
        penalties: (P,) from 0 on, in any order. At infinity W = 0 and b is the classes' shares.
        validation: (features, labels) in the same form, or a fraction of the examples to be held
            out, with the classes' shares. It chooses the penalty.
        test: (features, labels), which are scored and decide nothing.
        sample_weights: (n,) from 0 on. A row twice is a row of weight 2.
        standardize: divide the features by their standard deviations in training, so that the
            penalty is in these units. The weights that come back are in the features' own.
        select: by the largest validation accuracy, the smaller loss among equals, or by the
            smallest validation loss. Among what is still equal, the largest penalty.
        tol: see above.
        max_iterations: passes over the training examples, at each penalty.
        seed: of the examples that are held out.

    Raises:
        RequestError: fewer than two classes or no example, features that are not finite, parts
            that do not fit together, negative penalties or weights, an unknown `select`.
    """
    if select not in _SELECTIONS:
        raise unknown_choice("selection", select, _SELECTIONS)
    if not 0 < tol < 1 or max_iterations < 1:
        raise RequestError(
            f"tol={tol}, max_iterations={max_iterations}: expected 0 < tol < 1 and 1 or more."
        )
    train = Labelled(layers(features, "features"), as_classes(labels, "labels"))
    shares = as_weights(sample_weights, len(train.labels))
    held = None
    if isinstance(validation, tuple):
        held = _part(validation, "validation", train)
    elif validation is not None:
        kept, rows = hold_out(train, validation, seed)
        train, held, shares = train.at(kept), train.at(rows), shares[kept]
        shares = as_weights(shares, len(shares))
    tested = None if test is None else _part(test, "test", train)
    parts = {"validation": held, "test": tested}
    grid = _grid(penalties)
    found = {
        name: _of_layer(name, train, shares, parts, grid, standardize, select, tol, max_iterations)
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


def _of_layer(
    name: str,
    train: Labelled,
    shares: Tensor,
    parts: Mapping[str, Labelled | None],
    penalties: Tensor,
    standardize: bool,
    select: Selection,
    tol: float,
    max_iterations: int,
) -> LinearProbe:
    classes = train.labels[shares > 0].unique()
    if len(classes) < 2:
        raise RequestError(
            f"the training labels are all {classes.tolist()}: a probe needs two classes or more."
        )
    # Examples without weight may be of a class without weight.
    rows = (shares > 0).nonzero().flatten()
    features = train.layers[name]
    if len(rows) < len(shares):
        features, shares = features[rows], shares[rows]
    labels = torch.searchsorted(classes, train.labels[rows])
    problem = SoftmaxRegression(features, labels, shares, len(classes))
    if standardize:
        deviation = _deviations(problem)
        scaled = SoftmaxRegression(features.double() / deviation, labels, shares, len(classes))
    else:
        deviation, scaled = torch.ones(features.shape[1], dtype=torch.float64), problem
    solution = solve(scaled, penalties, tol=tol, max_iterations=max_iterations)
    weights, intercept = solution.weights / deviation, solution.intercept
    term = scaled.data_term(solution.weights, intercept)
    pull = torch.where(penalties.isinf(), 0.0, penalties)[:, None, None] * solution.weights
    gradient = term.weight_gradient + pull
    gradient[penalties.isinf()] = 0  # there W is no choice
    norm = torch.maximum(gradient.abs().amax((1, 2)), term.intercept_gradient.abs().amax(1))
    train_accuracy, train_loss = problem.scores(weights, intercept)
    is_separable = ((1 - train_accuracy).abs() < 1e-12) & (penalties == 0)
    scores: dict[str, Tensor] = {}
    for part, examples in parts.items():
        if examples is not None:
            judged = _judged(examples.layers[name], examples.labels, classes)
            scores[f"{part}_accuracy"], scores[f"{part}_loss"] = judged.scores(weights, intercept)
    return LinearProbe(
        penalties=penalties,
        classes=classes,
        weights=weights,
        intercept=intercept,
        objective=train_loss + (pull * solution.weights).sum((1, 2)) / 2,
        gradient_norm=norm,
        iterations=solution.iterations,
        converged=solution.converged & ~is_separable,
        train_accuracy=train_accuracy,
        train_loss=train_loss,
        chosen=_chosen(penalties, scores, select) if parts["validation"] is not None else None,
        **scores,
    )


def _deviations(problem: SoftmaxRegression) -> Tensor:
    """(d,) standard deviations, 1 for what does not vary."""
    features = problem.features.double()
    centred = features - problem.shares @ features
    found = (problem.shares @ centred.square_()).sqrt_()
    scale = features.abs().amax(0)
    return torch.where(found > 1e-12 * scale, found, 1.0)


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
