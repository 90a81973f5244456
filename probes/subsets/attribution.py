"""Attribution where the truth is known: a ridge regression without one of its examples.

`regression` regresses models on their masks; here the examples of one regression are attributed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Floats, as_floats

__all__ = ["RidgeAttribution", "ridge_attribution"]


@dataclass(frozen=True, eq=False)
class RidgeAttribution:
    """What each of n examples does to a ridge regression.

    Attributes:
        residual: (n,) y_i - f(x_i), example i being among the others.
        left_out_residual: (n,) y_i - f_{-i}(x_i), with f_{-i} fitted without it.
        leverage: (n,) H_ii.
        effect: (m, n) f(z) - f_{-i}(z), exactly.
        first_order: (m, n) the same to first order in the weight of example i, which is what
            influence functions give: `effect` times (1 - H_ii).
    """

    residual: Floats
    left_out_residual: Floats
    leverage: Floats
    effect: Floats = field(repr=False)
    first_order: Floats = field(repr=False)


def ridge_attribution(
    features: ArrayLike, targets: ArrayLike, test_features: ArrayLike, *, penalty: float
) -> RidgeAttribution:
    """Leave-one-out of |y - X w|^2 + penalty |w|^2 without fitting anything twice.

    Args:
        features: (n, d) X; a column of ones makes an intercept, which is then penalized, too.
        targets: (n,).
        test_features: (m, d).
        penalty: above 0.

    Raises:
        RequestError: shapes that do not go together, or a penalty that is not above 0.

    Source: Cook and Weisberg 1982; Koh and Liang 2017, arXiv:1703.04730 (first order).
    """
    inputs, tests = (
        as_floats(features, "features", "(n, d)"),
        as_floats(test_features, "test_features", "(m, d)"),
    )
    wanted = as_floats(targets, "targets", "(n,)")
    if len(wanted) != len(inputs) or tests.shape[1] != inputs.shape[1]:
        raise RequestError(
            f"features has shape {inputs.shape}, targets {wanted.shape}, test_features "
            f"{tests.shape}. Expected (n, d), (n,), (m, d)."
        )
    if not penalty > 0:
        raise RequestError(f"penalty={penalty}, expected a number above 0.")
    gram = inputs.T @ inputs + penalty * np.eye(inputs.shape[1])
    solved = np.linalg.solve(gram, inputs.T)  # (d, n)
    leverage = (inputs.T * solved).sum(0)
    residual = wanted - inputs @ (solved @ wanted)
    left_out = residual / (1 - leverage)
    return RidgeAttribution(
        residual=residual,
        left_out_residual=left_out,
        leverage=leverage,
        effect=tests @ solved * left_out,
        first_order=tests @ solved * residual,
    )
