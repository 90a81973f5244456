"""Proper scores: the losses that the true probabilities minimise, example by example."""

from __future__ import annotations

import numpy as np

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Floats, Ints, as_floats, as_labels

__all__ = ["brier_scores", "nll_scores"]


def nll_scores(log_probability: ArrayLike, labels: ArrayLike) -> Floats:
    """(N,) negative log-likelihood in nats: -log p_y.

    Args:
        log_probability: (N, C).
        labels: (N,) classes.

    Raises:
        RequestError: labels that do not fit.
    """
    held = as_floats(log_probability, "log_probability", "(N, C)")
    classes = fitting_labels(labels, held.shape[0], held.shape[1])
    return np.asarray(-held[np.arange(len(held)), classes])


def brier_scores(log_probability: ArrayLike, labels: ArrayLike) -> Floats:
    """(N,) sum over classes of (p_c - 1[y = c])^2, from 0 to 2.

    Two classes are summed as well: twice the number that is usual for one probability.

    Args:
        log_probability: (N, C).
        labels: (N,) classes.

    Raises:
        RequestError: labels that do not fit.

    Source: Brier 1950, in its original form.
    """
    residuals = np.exp(as_floats(log_probability, "log_probability", "(N, C)"))
    classes = fitting_labels(labels, residuals.shape[0], residuals.shape[1])
    residuals[np.arange(len(residuals)), classes] -= 1
    return np.asarray(np.square(residuals).sum(1))


def fitting_labels(labels: ArrayLike, num_examples: int, num_classes: int) -> Ints:
    """(N,) class indices, as many as there are examples.

    Raises:
        RequestError: another number of labels, or classes out of range.
    """
    classes = as_labels(labels, "labels", num_classes)
    if len(classes) != num_examples:
        raise RequestError(
            f"there are {len(classes):,} labels for {num_examples:,} examples. Give one for each."
        )
    return classes
