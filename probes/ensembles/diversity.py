"""Diversity: how far apart the members of an ensemble are, and what it makes of it.

The measures of two networks with their intervals are in `landscape.similarity.predictions`; here
are means over all pairs of K members, and what the ensemble gains from them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Floats, as_bools, as_floats
from landscape.probes.ensembles.evaluation import Evaluation, evaluate
from landscape.probes.ensembles.probabilities import Members

__all__ = ["Diversity", "disagreement", "diversity", "error_correlation", "error_kappa"]


@dataclass(frozen=True, eq=False)
class Diversity:
    """How K members differ on N examples.

    Means over pairs are of the pairs that have the number; NaN without any, as for one member.

    Attributes:
        disagreement: (N,) share of pairs of members whose classes differ; 0 for one member.
        normalized_disagreement: its mean divided by the members' mean error; NaN without errors.
        kappa: mean over pairs of Cohen's kappa of right and wrong; 0 if errors are independent.
        error_correlation: mean over pairs of the correlation of right and wrong.
        residual_cosine: mean over pairs of the cosine between p - onehot(y), all examples and
            classes in one vector.
        mutual_information: (N,) entropy of the mean prediction - mean entropy, in nats: the mean
            of KL(member || ensemble).
        nll_gain: (N,) mean of the members' losses - the ensemble's; negative by rounding alone.
        brier_gain: (N,) the same of the Brier score: the mean of ||p_k - p||^2.
    """

    disagreement: Floats
    normalized_disagreement: float
    kappa: float
    error_correlation: float
    residual_cosine: float
    mutual_information: Floats
    nll_gain: Floats
    brier_gain: Floats


def diversity(logits: ArrayLike | Members, labels: ArrayLike) -> Diversity:
    """All measures of `Diversity`.

    Args:
        logits: (K, N, C), or as `Members.of` takes them.
        labels: (N,) classes.

    Raises:
        RequestError: logits or labels that do not fit.

    Source: Kuncheva and Whitaker 2003 (kappa, correlation); Fort et al. 2019, arXiv:1912.02757
        (normalised disagreement); Houlsby et al. 2011, arXiv:1112.5745 (mutual information);
        Krogh and Vedelsby 1995 (what the squared error gains).
    """
    return diversity_of(evaluate(logits, labels))


def diversity_of(held: Evaluation) -> Diversity:
    """The same, from an evaluation."""
    apart = disagreement(held.member_classes)
    correct = held.member_correct
    error = 1 - float(correct.mean())
    lengths = np.sqrt(np.diag(held.residual_products))
    with np.errstate(invalid="ignore"):  # a member without residuals has no direction
        cosines = held.residual_products / np.outer(lengths, lengths)
    return Diversity(
        disagreement=apart,
        normalized_disagreement=float(apart.mean()) / error if error else math.nan,
        kappa=error_kappa(correct),
        error_correlation=error_correlation(correct),
        residual_cosine=_over_pairs(np.clip(cosines, -1, 1)),
        mutual_information=held.mutual_information,
        nll_gain=held.member_nll.mean(0) - held.nll,
        brier_gain=held.brier_gain,
    )


def disagreement(predictions: ArrayLike) -> Floats:
    """(N,) share of pairs of members that predict different classes; 0 for one member.

    1 - sum_c n_c (n_c - 1) / (K (K - 1)), where n_c members predict c.

    Args:
        predictions: (K, N) classes.

    Raises:
        RequestError: another shape.
    """
    held = as_floats(predictions, "predictions", "(K, N)")
    pairs = len(held) * (len(held) - 1) / 2
    differ = np.zeros(held.shape[1])
    for index in range(len(held)):
        differ += (held[index + 1 :] != held[index]).sum(0)
    return differ / max(pairs, 1)


def error_kappa(correct: ArrayLike) -> float:
    """Mean over pairs of Cohen's kappa between right and wrong: agreement beyond chance.

    Args:
        correct: (K, N) whether a member is right.

    Returns:
        1 for equal errors, 0 for independent ones; NaN without a pair that makes both errors and
        right answers.

    Raises:
        RequestError: another shape.
    """
    wrong, both = _errors(correct)
    expected = np.outer(wrong, wrong) + np.outer(1 - wrong, 1 - wrong)
    observed = 1 - wrong[:, None] - wrong[None, :] + 2 * both
    with np.errstate(invalid="ignore", divide="ignore"):
        return _over_pairs((observed - expected) / (1 - expected))


def error_correlation(correct: ArrayLike) -> float:
    """Mean over pairs of the correlation between right and wrong.

    Args:
        correct: (K, N) whether a member is right.

    Returns:
        From -1 to 1; NaN without two members that make both errors and right answers.

    Raises:
        RequestError: another shape.
    """
    wrong, both = _errors(correct)
    spread = np.sqrt(wrong * (1 - wrong))
    with np.errstate(invalid="ignore", divide="ignore"):
        return _over_pairs((both - np.outer(wrong, wrong)) / np.outer(spread, spread))


def _errors(correct: ArrayLike) -> tuple[Floats, Floats]:
    """Shares of errors of each member (K,), and of each two together (K, K)."""
    wrong = (~as_bools(correct, "correct", "(K, N)")).astype(np.float64)
    if not wrong.size:
        raise RequestError(
            f"correct has shape {wrong.shape}, expected (K, N) with a member and an example."
        )
    return wrong.mean(1), wrong @ wrong.T / wrong.shape[1]


def _over_pairs(matrix: Floats) -> float:
    """Mean over the finite entries above the diagonal; NaN without any."""
    pairs = matrix[np.triu_indices(len(matrix), 1)]
    known = pairs[np.isfinite(pairs)]
    return float(known.mean()) if len(known) else math.nan
