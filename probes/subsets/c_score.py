"""C-score: how consistently models that never saw an example are right on it, at each data size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from landscape.errors import RequestError
from landscape.probes.arrays import Floats, Ints
from landscape.probes.subsets.newcombe import require_confidence
from landscape.probes.subsets.subset_runs import SubsetRuns
from landscape.similarity.bootstrap import wilson

__all__ = ["CScore", "c_score"]


@dataclass(frozen=True, eq=False)
class CScore:
    """Consistency of n examples at R data sizes.

    Attributes:
        ratios: (R,) shares of the examples that models were trained on, increasing.
        value: (R, n) accuracy of the models that were not trained on an example; NaN without any.
        lower: (R, n) of Wilson's intervals.
        upper: (R, n)
        num_out: (R, n) models that were not trained on it.
        integrated: (n,) mean over the ratios; NaN where one of them has no value.
        integrated_lower: (n,) of its interval.
        integrated_upper: (n,)
        confidence: of the intervals.
    """

    ratios: Floats
    value: Floats
    lower: Floats
    upper: Floats
    num_out: Ints
    integrated: Floats
    integrated_lower: Floats
    integrated_upper: Floats
    confidence: float


def c_score(runs_by_ratio: Mapping[float, SubsetRuns], *, confidence: float = 0.95) -> CScore:
    """C-scores of runs at several ratios, or at one; memorization is accuracy_in less the C-score.

    Args:
        runs_by_ratio: runs by the share of the examples that their models saw.
        confidence: of the intervals, pointwise.

    Raises:
        RequestError: no runs, runs of other examples or in another order than the first, or a
            ratio that is not that of its runs.

    Source: Jiang et al. 2021, arXiv:2002.03206. Intervals of the mean: Zou and Donner 2008.
    """
    require_confidence(confidence)
    if not runs_by_ratio:
        raise RequestError("there are no runs. Give {0.5: runs}, for example.")
    ratios = sorted(runs_by_ratio)
    held = [runs_by_ratio[ratio] for ratio in ratios]
    for ratio, runs in zip(ratios, held, strict=True):
        _require_same(held[0], runs, ratio)
    num_out = np.stack([runs.num_out for runs in held])
    right = np.stack([(runs.correct & ~runs.masks).sum(0) for runs in held])
    with np.errstate(divide="ignore", invalid="ignore"):
        found = wilson(right.astype(np.float64), num_out.astype(np.float64), confidence)
    below, above = found.value - found.low, found.high - found.value
    mean = found.value.mean(0)
    return CScore(
        ratios=np.asarray(ratios, dtype=np.float64),
        value=found.value,
        lower=found.low,
        upper=found.high,
        num_out=num_out,
        integrated=mean,
        # Runs of different ratios are independent: their half-widths add as standard errors do.
        integrated_lower=mean - np.sqrt(np.square(below).sum(0)) / len(held),
        integrated_upper=mean + np.sqrt(np.square(above).sum(0)) / len(held),
        confidence=confidence,
    )


def _require_same(first: SubsetRuns, runs: SubsetRuns, ratio: float) -> None:
    if runs.num_examples != first.num_examples:
        raise RequestError(
            f"the runs of ratio {ratio} have {runs.num_examples} examples, the first have "
            f"{first.num_examples}. Give runs of the same data."
        )
    for name in ("example_hash", "label_hash"):
        own, other = runs.provenance.get(name), first.provenance.get(name)
        if own and other and own != other:
            raise RequestError(
                f"the runs of ratio {ratio} have another {name} than the first: other examples, or "
                "another order. Give runs of the same data."
            )
    share = runs.masks.mean()
    if abs(share - ratio) > max(0.01, 1 / runs.num_examples):
        raise RequestError(
            f"the runs of ratio {ratio} saw {share:.3g} of the examples. Give "
            f"{{{share:.3g}: runs}}."
        )
