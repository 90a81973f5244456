"""Temperature: one number that sets how sure a predictor is, and the loss that is then left.

The logarithms of the ensemble's probabilities are divided by it, not each member's logits. With
beta = 1 / T the loss is convex in beta, and its minimum is found with a certificate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Floats, Ints, as_floats
from landscape.probes.ensembles.proper_scores import fitting_labels

__all__ = ["CalibratedNll", "Temperature", "calibrated_nll", "fit_temperature"]

Verdict = Literal["positive", "separable", "uninformative", "anti-correlated", "flat"]

_NUM_SHUFFLES = 5
_MAX_STEPS = 200
_TOLERANCE = 1e-12  # of the slope, as a share of the mean range of an example's logits
_ACCEPTED = 1e-9  # at this slope, as much off as rounding allows, the fit still counts as one
_GROWTH = 4.0  # of beta in a step while nothing bounds it from above
_BLOCK = 2**16  # tempered probabilities that are held at a time: what a cache holds


@dataclass(frozen=True)
class Temperature:
    """The inverse temperature of the smallest loss on some examples.

    Attributes:
        beta: 1 / T; inf if separable, NaN if flat.
        nll: the mean loss there, in nats.
        gradient: of that loss by beta, 0 at the minimum; its limit where beta is infinite.
        converged: whether it is 0 up to rounding.
        verdict: "positive", the usual case; "separable": no answer is wrong, so the loss falls for
            ever; "uninformative": beta is 0; "anti-correlated": beta is negative, the predictor is
            worse than guessing; "flat": all its probabilities are equal, and beta means nothing.
    """

    beta: float
    nll: float
    gradient: float
    converged: bool
    verdict: Verdict

    @property
    def temperature(self) -> float:
        """T = 1 / beta; 0 if separable, inf if uninformative."""
        return 1 / self.beta if self.beta else math.inf


@dataclass(frozen=True, eq=False)
class CalibratedNll:
    """The loss of a predictor whose temperature was fitted on other examples.

    Attributes:
        value: mean in nats; inf if a fold was separable and an answer outside of it is wrong.
        per_example: (N,) of each example, mean over the shuffles.
        spread: standard deviation of the mean over the shuffles.
        betas: (S, 2) inverse temperatures, fitted on either half of each shuffle.
        gradients: (S, 2) slopes that were left.
        verdicts: of the 2 S fits in order.
        converged: whether all fits are.
        fitted: on all examples at once.
    """

    value: float
    per_example: Floats
    spread: float
    betas: Floats
    gradients: Floats
    verdicts: tuple[Verdict, ...]
    converged: bool
    fitted: Temperature


def fit_temperature(log_probability: ArrayLike, labels: ArrayLike) -> Temperature:
    """The inverse temperature beta that minimises mean(logsumexp(beta z) - beta z_y).

    Newton's method on a slope that only rises, bisected where a step leaves the bracket.

    Args:
        log_probability: z, (N, C); logits will do, since constants of a row drop out.
        labels: (N,) classes y.

    Raises:
        RequestError: no examples, labels that do not fit, or values that are not finite.

    Source: Guo et al. 2017, arXiv:1706.04599.
    """
    return _Problem(log_probability, labels).fit_all()


def calibrated_nll(
    log_probability: ArrayLike,
    labels: ArrayLike,
    *,
    seed: int = 0,
    num_shuffles: int = _NUM_SHUFFLES,
) -> CalibratedNll:
    """Test-time cross-validation: fit beta on one half, score the other, and exchange the halves.

    Multiplying the logits by a positive number changes nothing: predictors are compared by what
    they know, not by how loud they say it.

    Args:
        log_probability: (N, C) logarithms of the ensemble's probabilities.
        labels: (N,) classes.
        seed: of the halves.
        num_shuffles: S, how often the examples are halved.

    Raises:
        RequestError: fewer than 2 examples, no shuffles, labels that do not fit, or values that
            are not finite.

    Source: Ashukha et al. 2020, arXiv:2002.06470, section 4.
    """
    problem = _Problem(log_probability, labels)
    if problem.num_examples < 2 or num_shuffles < 1:
        raise RequestError(
            f"{problem.num_examples} examples and num_shuffles={num_shuffles}: expected 2 or more "
            "examples to halve, and 1 or more shuffles."
        )
    halves = torch.from_numpy(_halves(problem.num_examples, num_shuffles, seed))
    fitted = problem.fit_all()
    fits = problem.fit(halves, fitted.beta)
    betas = torch.tensor([fit.beta for fit in fits], dtype=torch.float64).view(-1, 2)
    scored = problem.losses(betas, 1 - halves)  # each by the other half's
    means = scored.mean(1).numpy()
    return CalibratedNll(
        value=float(means.mean()),
        per_example=scored.mean(0).numpy(),
        spread=float(np.std(means)) if np.isfinite(means).all() else math.nan,
        betas=betas.numpy(),
        gradients=np.asarray([fit.gradient for fit in fits]).reshape(-1, 2),
        verdicts=tuple(fit.verdict for fit in fits),
        converged=all(fit.converged for fit in fits),
        fitted=fitted,
    )


class _Problem:
    """Losses by beta, of several halvings of the examples at once.

    A halving says for each example in which group it is, (S, N); a beta belongs to each group,
    (S, G). The logits are held as (z - max z) / scale, so that a step means the same in any unit.
    """

    def __init__(self, log_probability: ArrayLike, labels: ArrayLike) -> None:
        held = as_floats(log_probability, "log_probability", "(N, C)")
        if not held.size or not np.isfinite(held).all():
            raise RequestError(
                f"log_probability has shape {held.shape} with {(~np.isfinite(held)).sum()} values "
                "that are not finite, expected (N, C) finite numbers and one or more examples."
            )
        self._labels = torch.from_numpy(fitting_labels(labels, *held.shape)).unsqueeze(1)
        logits = torch.from_numpy(held)
        self._logits = logits - logits.amax(1, keepdim=True)
        self._scale = float(-self._logits.amin(1).mean()) or 1.0
        self._logits /= self._scale
        self._own = self._logits.gather(1, self._labels).squeeze(1)

    @property
    def num_examples(self) -> int:
        return len(self._logits)

    def fit_all(self) -> Temperature:
        """The minimum over all examples."""
        return self.fit(torch.zeros(1, self.num_examples, dtype=torch.int64), 0.0)[0]

    def fit(self, groups: Tensor, start: float) -> list[Temperature]:
        """The minima over the examples of each group, in order.

        Args:
            groups: (S, N) from 0 on.
            start: an inverse temperature to begin at, where it has the right sign.
        """
        lowest = self._logits.amin(1)
        count = _by_group(torch.ones_like(lowest), groups)
        rightmost = _by_group(-self._own, groups) / count  # the slope at inf, never negative
        leftmost = _by_group(lowest - self._own, groups) / count  # at -inf, never positive
        middle = _by_group(self._logits.mean(1) - self._own, groups) / count  # at 0
        flat = _by_group(lowest, groups) == 0
        # Mirrored where the slope at 0 is positive: the root is then sought among positive numbers.
        sign = torch.where(middle > 0, -1.0, 1.0).double()
        unbounded = (torch.where(sign > 0, rightmost, leftmost) == 0) & ~flat
        still = flat | unbounded | (middle.abs() <= _TOLERANCE)
        first = torch.full_like(sign, start * self._scale)
        first = torch.where(still | (sign * first <= 0), 0.0, first)
        found, slope = self._search(groups, count, sign, still, first)
        beta = torch.where(unbounded, sign * math.inf, torch.where(flat, math.nan, found))
        losses = _by_group(self._losses(beta, groups), groups) / count
        slope = torch.where(unbounded | flat, 0.0, slope)
        return [
            Temperature(
                beta=b / self._scale,
                nll=loss,
                gradient=g * self._scale,
                converged=abs(g) <= _ACCEPTED,
                verdict=_verdict(b),
            )
            for b, loss, g in zip(
                *(part.flatten().tolist() for part in (beta, losses, slope)), strict=True
            )
        ]

    def losses(self, betas: Tensor, groups: Tensor) -> Tensor:
        """(S, N) losses, each example at the beta of its group; betas (S, G) may be infinite."""
        return self._losses(betas * self._scale, groups)

    def _search(
        self, groups: Tensor, count: Tensor, sign: Tensor, still: Tensor, beta: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Roots of the slopes (S, G) from beta on, and the slopes there."""
        low, high = torch.zeros_like(beta), torch.full_like(beta, math.inf)  # of |beta|
        done = still
        for _ in range(_MAX_STEPS):
            slope, curvature = (part / count for part in self._slopes(beta, groups))
            done = done | (slope.abs() <= _TOLERANCE)
            if done.all():
                return beta, slope
            size, rise = sign * beta, sign * slope  # the slope by |beta|
            low = torch.where(rise < 0, size, low)
            high = torch.where(rise > 0, size, high)
            step = size - rise / curvature
            farthest = torch.minimum(high, _GROWTH * size + 1)
            inside = (step > low) & (step < high)
            fallback = torch.where(high.isinf(), farthest, (low + high) / 2)
            moved = torch.where(inside, torch.minimum(step, farthest), fallback)
            done = done | (moved == size)  # the bracket holds no number between its ends
            beta = torch.where(done, beta, sign * moved)
        return beta, self._slopes(beta, groups)[0] / count

    def _slopes(self, betas: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        """First and second derivatives (S, G) of the summed losses of the groups."""
        # Where all betas are equal, as at the start, one pass serves all halvings.
        common = bool((betas == betas[0, 0]).all())
        by_example = betas[:1, :1].expand(1, self.num_examples) if common else None
        if by_example is None:
            by_example = betas.gather(1, groups)
        slopes, curvatures = torch.empty_like(by_example), torch.empty_like(by_example)
        for rows, logits in self._blocks(len(by_example)):
            tempered = (by_example[:, rows, None] * logits).softmax(-1)
            powers = torch.stack([logits, logits.square()], -1)
            mean, square = torch.einsum("snc,ncp->psn", tempered, powers)
            slopes[:, rows] = mean - self._own[rows]
            curvatures[:, rows] = (square - mean.square()).clamp(min=0)
        return _by_group(slopes, groups), _by_group(curvatures, groups)

    def _losses(self, betas: Tensor, groups: Tensor) -> Tensor:
        by_example = betas.gather(1, groups)
        found = torch.empty_like(by_example)
        for rows, logits in self._blocks(len(betas)):
            some = by_example[:, rows, None]
            # A flat predictor has no beta, and the same loss at any.
            tempered = (torch.where(some.isfinite(), some, 0.0) * logits).log_softmax(-1)
            if some.isinf().any():
                limit = _limit(torch.where(some > 0, logits, -logits))
                tempered = torch.where(some.isinf(), limit, tempered)
            labels = self._labels[rows].expand(len(betas), -1, 1)
            found[:, rows] = -tempered.gather(-1, labels).squeeze(-1)
        return found

    def _blocks(self, copies: int) -> Iterator[tuple[slice, Tensor]]:
        size = max(1, _BLOCK // (copies * self._logits.shape[1]))
        for start in range(0, self.num_examples, size):
            rows = slice(start, start + size)
            yield rows, self._logits[rows]


def _by_group(values: Tensor, groups: Tensor) -> Tensor:
    """(S, G) sums of values (N,) or (S, N) over the groups (S, N)."""
    sums = torch.zeros(len(groups), int(groups.max()) + 1, dtype=torch.float64)
    return sums.scatter_add_(1, groups, values.expand(groups.shape))


def _limit(logits: Tensor) -> Tensor:
    """Log-probabilities at an infinite beta: the largest logits share everything."""
    top = (logits == logits.amax(-1, keepdim=True)).double()
    return top.log() - top.sum(-1, keepdim=True).log()


def _verdict(beta: float) -> Verdict:
    if math.isnan(beta):
        return "flat"
    if beta == math.inf:
        return "separable"
    if beta == 0:
        return "uninformative"
    return "positive" if beta > 0 else "anti-correlated"


def _halves(count: int, num_shuffles: int, seed: int) -> Ints:
    """(S, N) in which half an example is, 0 or 1."""
    halves = np.ones((num_shuffles, count), np.int64)
    for row, child in zip(halves, np.random.SeedSequence(seed).spawn(num_shuffles), strict=True):
        row[np.random.default_rng(child).permutation(count)[: count // 2]] = 0
    return halves
