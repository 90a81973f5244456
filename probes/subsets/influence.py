"""Influence: what being trained on one example does to the models' answer on another.

The effect of an example on itself is its `memorization`; pairs that stand out are in `pairs`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from landscape.errors import RequestError, unknown_choice
from landscape.probes.arrays import ArrayLike, Bools, Floats, Ints, as_bools
from landscape.probes.subsets.lasso import lasso
from landscape.probes.subsets.newcombe import newcombe, require_confidence
from landscape.probes.subsets.regression import ridge
from landscape.probes.subsets.subset_runs import SubsetRuns
from landscape.result import Result

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Influence", "influence"]

Table = npt.NDArray[np.floating[Any]]

_METHODS = ("difference", "ridge", "lasso")
_BLOCK = 2**21  # pairs for which all counts and interval ends are held at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Influence(Result):
    """Accuracy on m tests of the models that saw an example, less that of the others.

    Attributes:
        method: how it was estimated.
        value: (m, n) float64 or float32; NaN where an example was in all subsets, or in none.
        lower: (m, n) of the interval; NaN for "lasso", which has none.
        upper: (m, n)
        num_in: (n,) models that saw the example.
        num_out: (n,) models that did not.
        confidence: of the intervals, pointwise.
        penalty: of "ridge" one for all tests, of "lasso" one a test, (m,); None for "difference".
    """

    probe: ClassVar[str] = "influence"
    convention: ClassVar[str] = "size_matched"

    method: Literal["difference", "ridge", "lasso"]
    value: Table = field(repr=False)
    lower: Table = field(repr=False)
    upper: Table = field(repr=False)
    num_in: Ints = field(repr=False)
    num_out: Ints = field(repr=False)
    confidence: float
    penalty: float | Floats | None = field(repr=False)

    @property
    def status(self) -> str:
        """ "converged", or how many examples have no value."""
        undefined = int(((self.num_in == 0) | (self.num_out == 0)).sum())
        if not undefined:
            return "converged"
        return f"{undefined} of {len(self.num_in)} examples are undefined"

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Along `test` and `example`."""
        import xarray as xr

        known = self.value[~np.isnan(self.value)]
        root = float(np.sqrt(np.square(known).mean())) if len(known) else float("nan")
        ends = f"{100 * self.confidence:g}% interval of the influence"
        pair, example = ("test", "example"), ("example",)
        variables = {
            "value": (pair, self.value, "influence of an example on a test, size-matched"),
            "lower": (pair, self.lower, f"lower end, {ends}"),
            "upper": (pair, self.upper, f"upper end, {ends}"),
            "num_in": (example, self.num_in, "models trained on the example"),
            "num_out": (example, self.num_out, "models not trained on the example"),
            "root_mean_square": ((), root, "root mean square influence"),
        }
        return xr.Dataset(
            {
                name: (dims, values, {"units": "1", "long_name": meaning})
                for name, (dims, values, meaning) in variables.items()
            }
        )


def influence(
    runs: SubsetRuns,
    correct_test: ArrayLike | None = None,
    *,
    method: Literal["difference", "ridge", "lasso"] = "difference",
    penalty: float | None = None,
    confidence: float = 0.95,
    dtype: type[np.float64] | type[np.float32] = np.float64,
    progress: Callable[[int, int, str], None] | None = None,
) -> Influence:
    """Influence of every training example on every test.

    - "difference" of the two accuracies, with Newcombe's intervals: unbiased, but below some 50
      models mostly noise. Complementary pairs of subsets (the "balanced" design at 1/2) widen the
      true spread, and the intervals then cover a little less than they say.
    - "ridge": slopes of a regression on all masks at once, which takes the noise of the other
      examples away; shrunk by the penalty. The interval is that of the posterior whose mean they
      are. A slope is the difference of the two accuracies whatever share p of the examples a subset
      has, if the examples are drawn independently; in subsets of one size they are not, which a
      factor n / (n - 1) makes good. Precision is best at p = 1/2.
    - "lasso": the same with an L1 penalty, one regression a test, by scikit-learn.

    Args:
        correct_test: (T, m) whether a model is right on a test; those of the runs if not given.
        penalty: of the regressions; None chooses it on models left out.
        confidence: of the intervals.
        dtype: of the three (m, n) arrays that come out.
        progress: called with (tests done, tests, words).

    Raises:
        RequestError: no tests, tests of another number of models, or an option out of range.

    Source: Feldman and Zhang 2020, arXiv:2008.03703; Ilyas et al. 2022, arXiv:2202.00622.
    """
    if method not in _METHODS:
        raise unknown_choice("method", method, _METHODS)
    require_confidence(confidence)
    if method == "difference" and penalty is not None:
        raise RequestError("penalty is given with method='difference', which has none.")
    began = time.perf_counter()
    correct = outcomes_on_tests(runs, correct_test)
    shape = (correct.shape[1], runs.num_examples)
    value, lower, upper = (np.full(shape, np.nan, dtype=dtype) for _ in range(3))
    notes: list[str] = []
    chosen: float | Floats | None = None
    tell = progress or (lambda done, total, words: None)
    if method == "difference":
        for part in _parts(shape):
            held = newcombe(*success_counts(runs, correct[:, part]), confidence)
            value[part], lower[part], upper[part] = held.value, held.low, held.high
            tell(min(part.stop, shape[0]), shape[0], "influence")
    elif method == "ridge":
        fit = ridge(runs.masks, correct.astype(np.float64), penalty)
        chosen, factor = fit.penalty, _of_one_size(runs)
        half = float(stats.norm.ppf((1 + confidence) / 2)) * factor * fit.spread
        value[:] = factor * fit.weights
        varied = (correct != correct[0]).any(0)
        noise = np.where(varied, fit.noise, _unseen_noise(runs.num_models))
        for part in _parts(shape):
            width = noise[part, None] * half
            lower[part], upper[part] = value[part] - width, value[part] + width
        if fit.at_edge:
            notes.append(
                f"the penalty {fit.penalty:.3g} is the largest that was tried: what one example "
                "does to another is not seen among the noise. Take more models."
            )
    else:
        found = lasso(runs.masks, correct.astype(np.float64), penalty, progress=tell)
        chosen = found.penalties
        value[:] = _of_one_size(runs) * found.weights
    undefined = (runs.num_in == 0) | (runs.num_out == 0)
    for array in (value, lower, upper):
        array[:, undefined] = np.nan
    if undefined.any():
        notes.append(
            f"{int(undefined.sum())} examples were in all subsets or in none: they have no value "
            "(NaN). Take more subsets."
        )
    return Influence(
        settings={
            "method": method,
            "penalty": penalty,
            "confidence": confidence,
            "convention": Influence.convention,
        },
        provenance=dict(runs.provenance),
        wall_time=time.perf_counter() - began,
        notes=tuple(notes),
        method=method,
        value=value,
        lower=lower,
        upper=upper,
        num_in=runs.num_in,
        num_out=runs.num_out,
        confidence=confidence,
        penalty=chosen,
    )


def outcomes_on_tests(runs: SubsetRuns, correct_test: ArrayLike | None) -> Bools:
    """(T, m): those that are given, or else those of the runs."""
    if correct_test is None:
        if runs.correct_test is None:
            raise RequestError(
                "there are no tests. Give influence(runs, correct_test) with (T, m) outcomes, or "
                "SubsetRuns(..., correct_test=...)."
            )
        return runs.correct_test
    correct = as_bools(correct_test, "correct_test", "(T, m)")
    if len(correct) != runs.num_models:
        raise RequestError(
            f"correct_test has {len(correct)} models and the runs have {runs.num_models}. Give one "
            "row for each, in their order."
        )
    return correct


def success_counts(runs: SubsetRuns, correct: Bools) -> tuple[Floats, Ints, Floats, Ints]:
    """Right answers (m, n), models (n,): of those that saw an example, and of the others."""
    right = correct.astype(np.float64)
    right_in = np.empty((correct.shape[1], runs.num_examples))
    step = max(1, _BLOCK // runs.num_models)
    for start in range(0, runs.num_examples, step):
        part = slice(start, start + step)
        right_in[:, part] = right.T @ runs.masks[:, part].astype(np.float64)
    return right_in, runs.num_in, right.sum(0)[:, None] - right_in, runs.num_out


def _of_one_size(runs: SubsetRuns) -> float:
    """What makes a slope the difference of means where all subsets have the same size."""
    one_size = (runs.sizes == runs.sizes[0]).all() and runs.num_examples > 1
    return runs.num_examples / (runs.num_examples - 1) if one_size else 1.0


def _unseen_noise(num_models: int) -> float:
    """Of a test on which all models agree: as if half a model had not (Jeffreys)."""
    share = 0.5 / (num_models + 1)
    return float(np.sqrt(share * (1 - share)))


def _parts(shape: tuple[int, int]) -> list[slice]:
    step = max(1, _BLOCK // shape[1])
    return [slice(start, start + step) for start in range(0, shape[0], step)]
