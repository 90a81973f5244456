"""Out-of-distribution scores: whether strange examples can be told from familiar ones.

Everything follows from the order of the scores: none is squeezed through a sigmoid, where large
ones would become equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Floats, as_floats
from landscape.probes.ensembles.probabilities import Members, log_mean_exp, log_odds
from landscape.probes.ranking import roc

__all__ = ["OOD_SCORES", "Separation", "ood_scores", "separation"]

OOD_SCORES = {
    "max_probability": "largest probability of the ensemble",
    "entropy": "entropy of the ensemble's probabilities",
    "mutual_information": "mutual information of member and class",
    "energy": "mean over members of -logsumexp of the logits",
    "max_logit": "mean over members of the largest logit",
}
_RECALL = 0.95


@dataclass(frozen=True)
class Separation:
    """How well a score that is higher outside separates two groups of examples.

    Attributes:
        auroc: probability that one from outside scores higher than one from inside; ties half.
        auroc_error: its standard error.
        aupr_out: average precision, where those from outside are sought.
        aupr_in: average precision, where those from inside are sought.
        fpr95: share of those from outside that pass as inside at the strictest threshold that
            lets 95 % of those from inside pass.
    """

    auroc: float
    auroc_error: float
    aupr_out: float
    aupr_in: float
    fpr95: float


def separation(inside: ArrayLike, outside: ArrayLike) -> Separation:
    """From scores that are higher for examples from outside.

    Args:
        inside: (n,) scores of familiar examples, of any size.
        outside: (m,) scores of strange ones.

    Raises:
        RequestError: a group is empty, or has NaN.

    Source: DeLong et al. 1988 for the standard error; Hendrycks and Gimpel 2017, arXiv:1610.02136.
    """
    familiar, strange = _scores(inside, "inside"), _scores(outside, "outside")
    is_strange = np.repeat([True, False], [len(strange), len(familiar)])
    curve = roc(np.concatenate([strange, familiar]), is_strange)
    return Separation(
        auroc=curve.auc,
        auroc_error=curve.standard_error,
        aupr_out=_average_precision(strange, familiar),
        aupr_in=_average_precision(-familiar, -strange),
        fpr95=_false_positives(familiar, strange),
    )


def ood_scores(logits: ArrayLike | Members) -> dict[str, Floats]:
    """Scores (N,) by name, see `OOD_SCORES`; the higher, the stranger the example.

    The largest probability is given by its log-odds with the sign reversed, which has the same
    order, and keeps it where the probability rounds to 1.

    Args:
        logits: (K, N, C), or as `Members.of` takes them; one logit z counts as (0, z).

    Raises:
        RequestError: logits that do not fit.

    Source: Hendrycks and Gimpel 2017, arXiv:1610.02136; Liu et al. 2020, arXiv:2010.03759 (energy);
        Hendrycks et al. 2022, arXiv:1911.11132 (largest logit).
    """
    members = Members.of(logits)
    parts: list[dict[str, Floats]] = []
    for _, block in members.blocks():
        log_p = block.log_softmax(-1)
        together = log_mean_exp(log_p)
        found = {
            "entropy": -(together.exp() * together).sum(-1),
            "mutual_information": (log_p.exp() * (log_p - together)).sum(-1).mean(0),
            "energy": -block.logsumexp(-1).mean(0),
            "max_logit": -block.amax(-1).mean(0),
        }
        numbers = {name: score.numpy() for name, score in found.items()}
        parts.append({"max_probability": -log_odds(together), **numbers})
    return {name: np.concatenate([part[name] for part in parts]) for name in OOD_SCORES}


def _scores(values: ArrayLike, name: str) -> Floats:
    held = as_floats(values, name, "(n,)")
    if not len(held) or np.isnan(held).any():
        raise RequestError(
            f"{name} has {len(held)} scores, {np.isnan(held).sum()} of them NaN: expected one or "
            "more, and no NaN."
        )
    return held


def _average_precision(positive: Floats, negative: Floats) -> float:
    """Sum of precision times step of recall, over the thresholds from high to low."""
    thresholds, count = np.unique(positive, return_counts=True)
    hits = np.cumsum(count[::-1])[::-1]
    misses = len(negative) - np.searchsorted(np.sort(negative), thresholds, "left")
    return float((count * hits / (hits + misses)).sum() / len(positive))


def _false_positives(inside: Floats, outside: Floats) -> float:
    # Scores of inside that pass are at most the threshold; it is one of these.
    needed = int(np.ceil(_RECALL * len(inside) - 1e-9))
    threshold = np.partition(inside, needed - 1)[needed - 1]
    return float((outside <= threshold).mean())
