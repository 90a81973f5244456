"""HSIC of linear kernels from sums over examples, whole and without any one example.

Features are centred, x_i (p,) and y_i (q,), with kernels K_ij = x_i.x_j and L_ij = y_i.y_j. `cka`
gathers the sums; a ratio of three HSICs is what it reports.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEAST_EXAMPLES", "Rows", "Sums"]

Array = NDArray[np.float64]

LEAST_EXAMPLES = 4  # the unbiased estimator divides by n - 3
_ROUNDING = 64 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class Sums:
    """Sums over n examples.

    Attributes:
        num_examples: n.
        pairs: sum of K_ij L_ij over i != j.
        first: sum of K_ii.
        second: sum of L_ii.
        product: sum of K_ii L_ii.
    """

    num_examples: int
    pairs: float
    first: float
    second: float
    product: float

    def hsic(self, *, debiased: bool) -> float:
        """HSIC_1 (unbiased, may be negative), or tr(KHLH) / (n - 1)^2 (biased, never).

        0 where there is no more than rounding, as of features that are constant.

        Source: Song et al. 2012, equation 5; Gretton et al. 2005.
        """
        n = self.num_examples
        if not debiased:
            return max(0.0, self.pairs + self.product) / (n - 1) ** 2
        # Centred, the rows of K without its diagonal add up to -K_ii.
        parts = (
            self.pairs,
            self.first * self.second / ((n - 1) * (n - 2)),
            -2 / (n - 2) * self.product,
        )
        summed = sum(parts)
        if abs(summed) <= _ROUNDING * max(map(abs, (*parts, self.product))):
            return 0.0
        return summed / (n * (n - 3))


@dataclass(frozen=True, eq=False)
class Rows:
    """What each of n examples adds to the sums, and what leaving it out takes away.

    Attributes:
        pairs: (n,) sum over j != i of K_ij L_ij.
        first: (n,) K_ii.
        second: (n,) L_ii.
        first_of_second: (n,) sum over j != i of K_ij L_jj.
        second_of_first: (n,) sum over j != i of L_ij K_jj.
    """

    pairs: Array
    first: Array
    second: Array
    first_of_second: Array
    second_of_first: Array

    def sums(self) -> Sums:
        """Of all examples."""
        return Sums(
            num_examples=len(self.pairs),
            pairs=float(self.pairs.sum()),
            first=float(self.first.sum()),
            second=float(self.second.sum()),
            product=float(self.first @ self.second),
        )

    def without_each(self, sums: Sums, *, debiased: bool) -> Array:
        """(n,) HSIC of the other n - 1 examples, centred anew; n > 4 where debiased.

        Args:
            sums: of all n examples.
        """
        n = sums.num_examples
        own = self.first * self.second
        if not debiased:
            # X'Y of the others about their own mean is X'Y - n / (n - 1) x_i y_i'.
            share = n / (n - 1)
            whole = sums.pairs + sums.product
            left = whole - 2 * share * (self.pairs + own) + share**2 * own
            return np.asarray(left / (n - 2) ** 2)
        pairs = sums.pairs - 2 * self.pairs
        totals = (2 * self.first - sums.first) * (2 * self.second - sums.second)
        crossed = sums.product - own + self.second_of_first + self.first_of_second + self.pairs
        summed = pairs + totals / ((n - 2) * (n - 3)) - 2 / (n - 3) * crossed
        return np.asarray(summed / ((n - 1) * (n - 4)))
