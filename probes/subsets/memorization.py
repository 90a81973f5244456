"""Memorization: how much likelier a model is right on an example that it was trained on.

`influence` has the effect of an example on the others, `reliability` how far the values themselves
can be trusted.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch

from landscape.errors import RequestError, unknown_choice
from landscape.probes.arrays import ArrayLike, Floats, Ints
from landscape.probes.subsets.newcombe import newcombe, require_confidence
from landscape.probes.subsets.reliability import chance_values, split_half
from landscape.probes.subsets.subset_runs import SubsetRuns
from landscape.probes.subsets.welch import own_mean_difference
from landscape.result import Result

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FEW_MODELS", "MEMORIZED", "Memorization", "memorization"]

MEMORIZED = 0.25  # of Feldman and Zhang: from here on an example counts as memorized
FEW_MODELS = 200  # below, the standard error of a single value is up to 0.07 and more
_PIXELS = {1: ("feature",), 2: ("y", "x"), 3: ("channel", "y", "x")}


@dataclass(frozen=True, kw_only=True, eq=False)
class Memorization(Result):
    """Accuracy on each example of the models that saw it, less that of the models that did not.

    Models that did not see an example saw as many others as those that did ("size_matched"),
    where the definition has one fewer.

    Attributes:
        of: "correct", or "values" for the soft values in place of being right.
        value: (n,) NaN where an example was never held out, or always.
        lower: (n,) of the interval: Newcombe's, for soft values Welch's.
        upper: (n,)
        standard_error: (n,) 0 where a model is always right, or always wrong, on both sides.
        num_in: (n,) models that saw the example.
        num_out: (n,) models that did not.
        accuracy_in: (n,) of the models that saw it.
        accuracy_out: (n,) of those that did not.
        label: (n,) classes as they were trained on, where they are known.
        confidence: of the intervals, pointwise.
        num_models: T.
        split_half: correlation over the examples between two sets of T models each, estimated from
            halves (Spearman-Brown); NaN below four models.
        null_high: what the largest value of all is below with 97.5 % if being trained on an example
            changes nothing; NaN for soft values.
        null_num_memorized: examples of `MEMORIZED` and more to expect then.
        shown_example: (k,) indices of the examples that are shown, see `with_examples`.
        shown_input: (k, ...) what they look like.
    """

    probe: ClassVar[str] = "memorization"
    convention: ClassVar[str] = "size_matched"

    of: Literal["correct", "values"]
    value: Floats = field(repr=False)
    lower: Floats = field(repr=False)
    upper: Floats = field(repr=False)
    standard_error: Floats = field(repr=False)
    num_in: Ints = field(repr=False)
    num_out: Ints = field(repr=False)
    accuracy_in: Floats = field(repr=False)
    accuracy_out: Floats = field(repr=False)
    label: Ints | None = field(repr=False)
    confidence: float
    num_models: int
    split_half: float
    null_high: float
    null_num_memorized: float
    shown_example: Ints | None = field(default=None, repr=False)
    shown_input: npt.NDArray[np.generic] | None = field(default=None, repr=False)

    @property
    def status(self) -> str:
        """ "converged", or how many examples have no value."""
        if not self.num_undefined:
            return "converged"
        return f"{self.num_undefined} of {len(self.value)} examples are undefined"

    @property
    def num_undefined(self) -> int:
        """Examples that were never held out, or always."""
        return int(np.isnan(self.value).sum())

    @property
    def num_memorized(self) -> int:
        """Examples with a value of `MEMORIZED` or more."""
        return int((self.value >= MEMORIZED).sum())

    @property
    def mean_memorization(self) -> float:
        """Over the examples that have a value; NaN without any."""
        known = self.value[~np.isnan(self.value)]
        return float(known.mean()) if len(known) else float("nan")

    def with_examples(self, inputs: ArrayLike, num: int = 16) -> Memorization:
        """The same with the inputs of the most memorized examples, to be seen.

        Args:
            inputs: (n, ...) of all examples, in the order of the masks.

        Raises:
            RequestError: another number of inputs.
        """
        held = inputs.detach().cpu() if isinstance(inputs, torch.Tensor) else inputs
        array = np.asarray(held)
        if array.ndim < 2 or len(array) != len(self.value):
            raise RequestError(
                f"inputs has shape {array.shape}, expected ({len(self.value)}, ...): one for each "
                "example of the masks, in their order."
            )
        known = np.flatnonzero(~np.isnan(self.value))
        chosen = known[np.argsort(-self.value[known], kind="stable")][:num]
        return replace(self, shown_example=chosen, shown_input=array[chosen])

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Along `example`; with examples to be seen also along `shown` and their pixels."""
        import xarray as xr

        of = "of being right" if self.of == "correct" else "of the soft value"
        ends = f"{100 * self.confidence:g}% interval of the memorization"
        meanings = {
            "value": f"memorization {of}, size-matched",
            "lower": f"lower end, {ends}",
            "upper": f"upper end, {ends}",
            "standard_error": "standard error of the memorization",
            "num_in": "models trained on the example",
            "num_out": "models not trained on the example",
            "accuracy_in": "accuracy of the models trained on the example",
            "accuracy_out": "accuracy of the models not trained on the example",
        }
        if self.label is not None:
            meanings["label"] = "class of the example, as it was trained on"
        headline = {
            "mean_memorization": "mean memorization",
            "num_memorized": f"examples with a memorization of {MEMORIZED} or more",
            "num_undefined": "examples never held out, or always",
            "num_models": "models",
            "split_half": "reliability of the values, from halves of the models",
            "null_high": "97.5% quantile of the largest value, if nothing is memorized",
            "null_num_memorized": f"values of {MEMORIZED} or more to expect by chance",
        }
        variables: dict[str, object] = {
            name: (("example",), getattr(self, name), {"units": "1", "long_name": meaning})
            for name, meaning in meanings.items()
        }
        variables |= {
            name: ((), getattr(self, name), {"units": "1", "long_name": meaning})
            for name, meaning in headline.items()
        }
        if self.shown_input is not None:
            shape = self.shown_input.shape[1:]
            pixels = _PIXELS.get(len(shape), tuple(f"axis{axis}" for axis in range(len(shape))))
            of_them = {"units": "1", "long_name": "most memorized examples"}
            variables["shown_example"] = (("shown",), self.shown_example, of_them)
            variables["shown_input"] = (("shown", *pixels), self.shown_input, of_them)
        return xr.Dataset(variables)


def memorization(
    runs: SubsetRuns,
    *,
    of: Literal["correct", "values"] = "correct",
    confidence: float = 0.95,
    num_draws: int = 100,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Memorization:
    """Memorization of every training example.

    Args:
        of: being right, or the soft values of the runs.
        confidence: of the intervals.
        num_draws: of halves of the models, for the reliability, and of permuted outcomes.
        seed: of these draws.
        progress: called with (steps done, steps, words).

    Raises:
        RequestError: soft values that the runs do not have, or an option out of range.

    Source: Feldman and Zhang 2020, arXiv:2008.03703; intervals of Newcombe 1998.
    """
    if of not in ("correct", "values"):
        raise unknown_choice("of", of, ("correct", "values"))
    require_confidence(confidence)
    if num_draws < 1:
        raise RequestError(f"num_draws={num_draws} draws nothing. Choose 1 or more, such as 100.")
    if of == "values" and runs.values is None:
        raise RequestError("the runs have no values. Give SubsetRuns(..., values=...).")
    began = time.perf_counter()
    tell = progress or (lambda done, total, words: None)
    num_in, num_out = runs.num_in, runs.num_out
    right_in = (runs.masks & runs.correct).sum(0)
    right_out = runs.correct.sum(0) - right_in
    with np.errstate(invalid="ignore"):
        accuracy_in, accuracy_out = right_in / num_in, right_out / num_out
        variance = accuracy_in * (1 - accuracy_in) / num_in
        error = np.sqrt(variance + accuracy_out * (1 - accuracy_out) / num_out)
    difference = newcombe(right_in, num_in, right_out, num_out, confidence)
    outcomes: npt.NDArray[np.generic] = runs.correct
    if of == "values" and runs.values is not None:
        welch = own_mean_difference(runs.masks, runs.values, confidence)
        difference, error, outcomes = welch.difference, welch.standard_error, runs.values
    tell(1, 3, "memorization")
    halves, permuted = np.random.SeedSequence(seed).spawn(2)
    reliability = split_half(runs.masks, outcomes, num_draws=num_draws, seed=halves)
    tell(2, 3, "halves of the models")
    high = expected = float("nan")
    if of == "correct":
        drawn = chance_values(runs, num_draws=num_draws, seed=permuted, threshold=MEMORIZED)
        high, expected = drawn.high, drawn.num_above
    tell(3, 3, "permuted outcomes")
    return Memorization(
        settings={
            "of": of,
            "confidence": confidence,
            "num_draws": num_draws,
            "seed": seed,
            "convention": Memorization.convention,
        },
        provenance=dict(runs.provenance),
        wall_time=time.perf_counter() - began,
        notes=_notes(runs),
        of=of,
        value=difference.value,
        lower=difference.low,
        upper=difference.high,
        standard_error=error,
        num_in=num_in,
        num_out=num_out,
        accuracy_in=accuracy_in,
        accuracy_out=accuracy_out,
        label=runs.labels,
        confidence=confidence,
        num_models=runs.num_models,
        split_half=reliability,
        null_high=high,
        null_num_memorized=expected,
    )


def _notes(runs: SubsetRuns) -> tuple[str, ...]:
    notes = []
    never_out, never_in = int((runs.num_out == 0).sum()), int((runs.num_in == 0).sum())
    if never_out or never_in:
        notes.append(
            f"{never_out} examples were in all subsets and {never_in} in none: they have no value "
            "(NaN). Take more subsets."
        )
    if runs.num_models < FEW_MODELS:
        notes.append(
            f"with {runs.num_models} models, fewer than {FEW_MODELS}, only thresholds of "
            f"{MEMORIZED} and more mean anything for a single example."
        )
    return tuple(notes)
