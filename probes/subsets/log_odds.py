"""Log odds of the true class: the soft value that membership inference is about."""

from __future__ import annotations

from typing import Any, Literal, cast

import numpy as np
from scipy.special import logsumexp
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.probes.arrays import ArrayLike, Floats, as_floats, as_labels

__all__ = ["log_odds"]

_TINY = 1e-45  # of Carlini et al.: a probability of 0 stays finite


def log_odds(
    outputs: ArrayLike,
    labels: ArrayLike,
    *,
    space: Literal["logits", "probabilities"] = "logits",
) -> Floats:
    """log p_y - log sum_{j != y} p_j in float64.

    From logits z it is z_y - logsumexp_{j != y} z_j, which does not saturate; from probabilities
    1e-45 is added to both. Near p_y = 1 probabilities of float32 have lost what tells examples
    apart: give logits.

    Args:
        outputs: (..., n, C), C >= 2.
        labels: (n,) classes.

    Returns:
        (..., n).

    Raises:
        RequestError: other shapes, a class that the outputs do not have, an unknown space, or
            numbers that are no probabilities.

    Source: Carlini et al. 2022, arXiv:2112.03570, section VI.
    """
    if space not in ("logits", "probabilities"):
        raise unknown_choice("space", space, ("logits", "probabilities"))
    shape = outputs.shape if isinstance(outputs, Tensor) else np.shape(cast(Any, outputs))
    held = as_floats(outputs, "outputs", f"({'..., ' * (len(shape) - 2)}n, C)")
    if held.shape[-1] < 2:
        raise RequestError(
            f"outputs has shape {held.shape}: one class has no odds. For one logit z of two "
            "classes give the columns (0, z)."
        )
    classes = as_labels(labels, "labels", held.shape[-1])
    if held.shape[-2] != len(classes):
        raise RequestError(
            f"outputs has shape {held.shape} for {len(classes)} labels, expected (..., n, C)."
        )
    own = np.arange(held.shape[-1]) == classes[:, None]  # (n, C)
    if space == "logits":
        true = np.where(own, held, 0.0).sum(-1)
        return np.asarray(true - logsumexp(np.where(own, -np.inf, held), axis=-1))
    if (held < 0).any() or not np.allclose(held.sum(-1), 1, atol=1e-3):
        raise RequestError(
            "outputs are no probabilities: they are negative, or do not add up to 1. For logits "
            "give space='logits'."
        )
    true, other = (np.where(which, held, 0.0).sum(-1) for which in (own, ~own))
    return np.asarray(np.log(true + _TINY) - np.log(other + _TINY))
