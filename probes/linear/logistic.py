"""The objective of a linear probe: weighted softmax regression at many penalties in one pass.

    f(W, b) = sum_i w_i CE(W x_i + b, y_i) / sum_i w_i  +  penalty / 2 ||W||^2

with one row of W for each class and a free intercept. `newton` minimises it in the coordinates of
`coordinates`; `fitting` is what users call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["DataTerm", "SoftmaxRegression", "Solution", "row_blocks"]

# Logits that are held at a time. With 12 penalties and 10 classes a pass over 60,000 x 128 takes
# 118 ms on one thread at 512 to 2,048 rows and 155 ms in one piece: it has to fit the cache.
_BLOCK_ENTRIES = 2**17
_FEWEST_ROWS, _MOST_ROWS = 256, 8192


@dataclass(frozen=True, eq=False)
class DataTerm:
    """The objective without its penalty, at P points.

    Attributes:
        loss: (P,) weighted mean cross-entropy.
        weight_gradient: (P, C, d).
        intercept_gradient: (P, C).
    """

    loss: Tensor
    weight_gradient: Tensor
    intercept_gradient: Tensor


@dataclass(frozen=True, eq=False)
class Solution:
    """P probes, as a method left them.

    Attributes:
        weights: (P, C, d) float64.
        intercept: (P, C) float64; the mean over classes is 0.
        iterations: (P,) passes over all examples.
        converged: (P,) by the tolerance.
    """

    weights: Tensor
    intercept: Tensor
    iterations: Tensor
    converged: Tensor


@dataclass(frozen=True, eq=False)
class SoftmaxRegression:
    """Examples to be classified by W x + b.

    Attributes:
        features: (n, d) float32 or float64.
        labels: (n,) int64 below num_classes.
        shares: (n,) float64 weights of the examples, which sum to 1.
        num_classes: C.
        precision: in which logits are computed, whatever the features are stored in; sums over
            blocks of examples are float64.
    """

    features: Tensor
    labels: Tensor
    shares: Tensor
    num_classes: int
    precision: torch.dtype = torch.float64

    def rounded(self) -> SoftmaxRegression:
        """The same in float32, at half the time a pass."""
        return SoftmaxRegression(
            self.features.float(), self.labels, self.shares, self.num_classes, torch.float32
        )

    def data_term(self, weights: Tensor, intercept: Tensor) -> DataTerm:
        """Loss and gradients of P probes; the features are read once for all of them.

        60,000 x 128 and 10 classes, one thread: 10 ms a probe for 12 together, 28 ms alone.

        Args:
            weights: (P, C, d) float64.
            intercept: (P, C) float64.
        """
        count, classes, width = weights.shape
        loss = weights.new_zeros(count)
        by_weight = weights.new_zeros(count * classes, width)
        by_intercept = weights.new_zeros(count, classes)
        for rows, features, logits in self._logits(weights, intercept):
            labels = self.labels[rows].expand(count, 1, -1)  # (P, 1, rows)
            share = self.shares[rows].to(self.precision)
            logits -= logits.amax(1, keepdim=True)
            own = logits.gather(1, labels)
            # Of a class that is nearly certain, 1 - p is what the others have, not a difference.
            others = logits.exp_().scatter_(1, labels, 0.0).sum(1, keepdim=True)
            beyond = others + (own.exp() - 1)  # the sum of all, less 1
            loss += ((beyond.log1p() - own)[:, 0] * share).sum(1)
            scale = share / (beyond + 1)
            residuals = logits.mul_(scale).scatter_(1, labels, -others * scale)
            by_weight += residuals.view(count * classes, -1) @ features
            by_intercept += residuals.sum(2)
        return DataTerm(loss, by_weight.view(count, classes, width), by_intercept)

    def curvature_shares(self, weights: Tensor, intercept: Tensor) -> Tensor:
        """(P, n) trace of each example's part of the softmax Hessian: w_i (1 - sum_c p_ic^2)."""
        found = weights.new_empty(len(weights), len(self.labels))
        for rows, _, logits in self._logits(weights, intercept):
            found[:, rows] = self.shares[rows] * (1 - logits.softmax(1).square_().sum(1))
        return found.clamp_(min=0)

    def scores(self, weights: Tensor, intercept: Tensor) -> tuple[Tensor, Tensor]:
        """(P,) weighted accuracy and (P,) weighted mean cross-entropy.

        A label of -1 is a class that the probe does not have: wrong, at an infinite loss.
        """
        accuracy = weights.new_zeros(len(weights))
        loss = weights.new_zeros(len(weights))
        for rows, _, logits in self._logits(weights, intercept):
            labels, shares = self.labels[rows], self.shares[rows]
            accuracy += (logits.argmax(1) == labels).double() @ shares
            known = labels.clamp_min(0).expand(len(weights), 1, -1)
            losses = -logits.log_softmax(1).gather(1, known)[:, 0]
            losses.masked_fill_(labels < 0, torch.inf)
            counted = shares > 0  # not 0 times infinity
            loss += losses[:, counted] @ shares[counted]
        return accuracy, loss

    def sample(self, size: int, seed: int) -> SoftmaxRegression:
        """`size` of the examples, drawn without replacement; all of them if there are no more."""
        if size >= len(self.labels):
            return self
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randperm(len(self.labels), generator=generator)[:size].sort().values
        shares = self.shares[drawn]
        if shares.sum() == 0:
            return self
        return SoftmaxRegression(
            self.features[drawn], self.labels[drawn], shares / shares.sum(), self.num_classes
        )

    def _logits(self, weights: Tensor, intercept: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        # Classes before examples: with ten classes last, softmax has nothing to be vectorised over.
        flat = weights.flatten(0, 1).to(self.precision)
        column = intercept.reshape(-1, 1).to(self.precision)
        for rows in row_blocks(len(self.labels), len(flat)):
            features = self.features[rows].to(self.precision)
            logits = torch.addmm(column, flat, features.T)
            yield rows, features, logits.view(*intercept.shape, -1)


def row_blocks(num_rows: int, width: int) -> Iterator[slice]:
    """Rows that are worked on together where each has `width` numbers."""
    size = min(max(_BLOCK_ENTRIES // width, _FEWEST_ROWS), _MOST_ROWS)
    for start in range(0, num_rows, size):
        yield slice(start, min(start + size, num_rows))
