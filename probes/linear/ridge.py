"""Ridge probes: linear regressions at many penalties from one decomposition, left-one-out exactly.

`fitting` solves logistic probes; `neighbours` asks the nearest examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, as_floats, as_labels
from landscape.probes.linear.neighbours import as_matrix
from landscape.similarity.bootstrap import wilson

__all__ = ["RidgeProbe", "ridge_probe"]


@dataclass(frozen=True, eq=False)
class RidgeProbe:
    """Ridge regressions of C targets on d features at P penalties; float64 on the features' device.

    "Left out" is what a regression on the other n - 1 examples says of an example, n lambda kept.

    Attributes:
        penalties: (P,) lambda.
        classes: (C,) labels, by column of the weights; None where the targets are numbers.
        weights: (P, C, d).
        intercept: (P, C).
        train_error: (P,) squared error, mean over examples and targets.
        loo_error: (P,) the same, left out; NaN where an example has none.
        loo_standard_error: (P,) of the mean over examples.
        train_accuracy: (P,) share of examples whose class has the largest output; NaN for numbers.
        loo_accuracy: (P,) the same, left out, with 95 % intervals from `loo_low` to `loo_high`.
        loo_low, loo_high: (P,) Wilson's; at the chosen penalty optimistic by the choice.
        leverage: (P, n) H_ii of the map from targets to predictions, 1/n of the intercept included.
        num_undefined: (P,) examples that no other speaks for: H_ii is 1 up to rounding, and the
            prediction left out 0/0.
        loo_predictions: (n, C) left out, at the chosen penalty.
        chosen: index of the penalty with the least `loo_error`; of equals the largest penalty.
    """

    penalties: Tensor
    classes: Tensor | None
    weights: Tensor = field(repr=False)
    intercept: Tensor = field(repr=False)
    train_error: Tensor
    loo_error: Tensor
    loo_standard_error: Tensor
    train_accuracy: Tensor
    loo_accuracy: Tensor
    loo_low: Tensor
    loo_high: Tensor
    leverage: Tensor = field(repr=False)
    num_undefined: Tensor
    loo_predictions: Tensor = field(repr=False)
    chosen: int

    def predict(self, features: ArrayLike) -> Tensor:
        """(M, C) outputs at the chosen penalty for features (M, d)."""
        matrix = as_matrix(features, "features").to(self.weights.device)
        return matrix @ self.weights[self.chosen].T + self.intercept[self.chosen]


def ridge_probe(
    features: ArrayLike, targets: ArrayLike, penalties: ArrayLike | Sequence[float]
) -> RidgeProbe:
    """Least (1/2n) sum_i |y_i - W x_i - b|^2 + (lambda/2) |W|^2 at every lambda.

    The intercept is not penalised. scikit-learn's `alpha` is n lambda. One decomposition serves all
    penalties: QR of the longer side, then singular values of the small square; the Gram matrix
    would lose half of the digits. Features are not standardised: a scale that has seen the example
    would make the prediction left out inexact.

    Args:
        features: (n, d).
        targets: (n,) class indices, which become one-hot columns of the classes that occur; or
            numbers (n,) or (n, C).
        penalties: (P,) lambda >= 0. At 0, least squares of least norm.

    Raises:
        RequestError: fewer than two examples, negative penalties, numbers that are not finite.

    Source: Hoerl and Kennard 1970; left-out residuals e_i / (1 - H_ii), Allen 1974 (PRESS).
    """
    inputs = as_matrix(features, "features")
    outputs, classes = _as_targets(targets, inputs)
    lambdas = torch.from_numpy(as_floats(penalties, "penalties", "(P,)")).to(inputs.device)
    if not len(lambdas) or not lambdas.isfinite().all() or (lambdas < 0).any():
        raise RequestError(
            f"penalties={lambdas.tolist()}, expected finite numbers >= 0, such as "
            "np.logspace(-6, 1, 8)."
        )
    spectrum = _Spectrum(inputs, outputs)
    alphas = [len(inputs) * float(penalty) for penalty in lambdas]
    # One penalty at a time: predictions at all of them would be P n C numbers, twice.
    held = [_Scores.of(spectrum.fit(alpha), outputs, classes is not None) for alpha in alphas]
    slopes = torch.stack([scores.slopes for scores in held])  # (P, C, d)
    losses = torch.stack([scores.losses for scores in held])  # (P, n)
    accuracy = torch.stack([scores.accuracy for scores in held], 1)  # (2, P)
    doubt = wilson(accuracy[1].cpu().numpy() * len(inputs), len(inputs))
    chosen = _least(losses.mean(1), lambdas)
    return RidgeProbe(
        penalties=lambdas,
        classes=classes,
        weights=slopes,
        intercept=outputs.mean(0) - slopes @ inputs.mean(0),
        train_error=torch.stack([scores.train_error for scores in held]),
        loo_error=losses.mean(1),
        loo_standard_error=losses.std(1) / np.sqrt(len(inputs)),
        train_accuracy=accuracy[0],
        loo_accuracy=accuracy[1],
        loo_low=torch.from_numpy(doubt.low).to(inputs.device),
        loo_high=torch.from_numpy(doubt.high).to(inputs.device),
        leverage=torch.stack([scores.leverage for scores in held]),
        num_undefined=losses.isnan().sum(1),
        loo_predictions=spectrum.fit(alphas[chosen]).left_out,
        chosen=chosen,
    )


@dataclass(frozen=True, eq=False)
class _Fit:
    """At one penalty: slopes (C, d), fitted and left-out predictions (n, C), leverage (n,)."""

    slopes: Tensor
    fitted: Tensor
    left_out: Tensor
    leverage: Tensor


@dataclass(frozen=True, eq=False)
class _Scores:
    """Of a fit: squared errors (n,) left out, and accuracies (2,) in training and left out."""

    slopes: Tensor
    leverage: Tensor
    train_error: Tensor
    losses: Tensor
    accuracy: Tensor

    @classmethod
    def of(cls, fit: _Fit, outputs: Tensor, with_classes: bool) -> _Scores:
        accuracy = outputs.new_full((2,), torch.nan)
        if with_classes:
            accuracy = torch.stack(
                [_accuracy(said, outputs) for said in (fit.fitted, fit.left_out)]
            )
        return cls(
            slopes=fit.slopes,
            leverage=fit.leverage,
            train_error=(fit.fitted - outputs).square().mean(),
            losses=(fit.left_out - outputs).square().mean(1),
            accuracy=accuracy,
        )


class _Spectrum:
    """X - mean = U diag(s) V', and what the targets have along U; zero singular values left out."""

    def __init__(self, inputs: Tensor, outputs: Tensor) -> None:
        centred = inputs - inputs.mean(0)
        count, width = centred.shape
        tall = count >= width
        longer, square = torch.linalg.qr(centred if tall else centred.T)
        left, values, right = torch.linalg.svd(square)
        rank = int((values > max(count, width) * torch.finfo(values.dtype).eps * values[0]).sum())
        along, across = (longer @ left)[:, :rank], right[:rank].T
        self.examples, self.features = (along, across) if tall else (across, along)  # U, V
        self.squares = values[:rank].square()
        self.values = values[:rank]
        self.outputs = outputs
        self.along = self.examples.T @ (outputs - outputs.mean(0))  # (r, C)
        # Of each example, what neither the intercept nor U reaches. Where they reach everything,
        # it is 0, and its rounding would hide the leverage that small penalties leave.
        self.is_full = rank == count - 1
        self.beyond = (1 - 1 / count - self.examples.square().sum(1)).clamp_min(0)
        self.apart = outputs - outputs.mean(0) - self.examples @ self.along
        if self.is_full:
            self.beyond, self.apart = torch.zeros_like(self.beyond), torch.zeros_like(self.apart)

    def fit(self, penalty: float) -> _Fit:
        """At the penalty n lambda beside the sum of squares."""
        count = len(self.outputs)
        kept = penalty / (self.squares + penalty)  # of the residual along each column of U
        residual = self.apart + self.examples @ (kept[:, None] * self.along)
        # 1 - H_ii as a sum of what is left: no cancellation where H_ii is near 1.
        left = self.beyond + self.examples.square() @ kept
        known = left > (0.0 if self.is_full else count * torch.finfo(left.dtype).eps)
        gap = torch.where(known, left, torch.nan)[:, None]
        gains = self.values / (self.squares + penalty)
        return _Fit(
            slopes=(self.features @ (gains[:, None] * self.along)).T,
            fitted=self.outputs - residual,
            left_out=self.outputs - residual / gap,
            leverage=1 - left,
        )


def _as_targets(targets: ArrayLike, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
    """(n, C) float64, and the classes where the targets are labels."""
    whole = targets if isinstance(targets, Tensor) else torch.as_tensor(np.asarray(targets))
    is_labels = whole.ndim == 1 and not whole.is_floating_point() and not whole.is_complex()
    if len(whole) != len(inputs) or len(inputs) < 2:
        raise RequestError(
            f"features holds {len(inputs)} examples and targets {len(whole)}: expected the same "
            "number, at least 2."
        )
    if not is_labels:
        rows = whole[:, None] if whole.ndim == 1 else whole
        return as_matrix(rows, "targets").to(inputs.device), None
    labels = torch.from_numpy(as_labels(whole, "targets")).to(inputs.device)
    classes, columns = torch.unique(labels, return_inverse=True)
    return torch.nn.functional.one_hot(columns, len(classes)).double(), classes


def _accuracy(predictions: Tensor, outputs: Tensor) -> Tensor:
    """Share of rows whose largest output is the one-hot column; NaN where a row is."""
    right = (predictions.argmax(1) == outputs.argmax(1)).double()
    return right.masked_fill(predictions.isnan().any(1), torch.nan).mean()


def _least(errors: Tensor, penalties: Tensor) -> int:
    """Index of the least error; of equals, and where none is known, of the largest penalty."""
    known = errors.nan_to_num(nan=torch.inf)
    best = known == known.min()
    return int(penalties.masked_fill(~best, -1).argmax())
