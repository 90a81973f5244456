"""Bridge: whether what is memorized is also what bends the loss, and what barriers are made of.

Scores of single examples beside each other: memorization, curvature, share of a barrier.
`memorization_sweep` follows them along learning rates.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.barrier import Barrier
from landscape.probes.arrays import ArrayLike, Floats, as_floats
from landscape.probes.sensitivity.input_curvature import InputCurvature
from landscape.probes.sensitivity.rank_correlation import Correlation, rank_correlation
from landscape.probes.sensitivity.weight_curvature import WeightCurvature, weight_curvature
from landscape.result import Result

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MEANINGS", "Bridge", "bridge", "correlations_of"]

MEANINGS = {
    "curvature": "of memorization and curvature",
    "curvature_given_loss": "of memorization and curvature, given the loss",
    "barrier": "of memorization and share of the barrier",
    "barrier_given_loss": "of memorization and share of the barrier, given the loss",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Bridge(Result):
    """Scores of the same examples, and how they go together.

    Attributes:
        memorization: (N,) as it was given; NaN where it is undefined.
        curvature: (N,) in `curvature_unit`.
        barrier_share: (N,) what the example adds to a barrier, in `barrier_unit`; NaN without one.
        loss: (N,) of the objective at its point; NaN for an example that is left out.
        correlations: Spearman's, of memorization with "curvature" and with "barrier", and partial
            ones "curvature_given_loss" and "barrier_given_loss": an example of high loss has high
            curvature anyway.
        curvature_kind: what the curvature is.
        confidence: of the intervals.
    """

    probe: ClassVar[str] = "bridge"

    memorization: Floats = field(repr=False)
    curvature: Floats = field(repr=False)
    barrier_share: Floats = field(repr=False)
    loss: Floats = field(repr=False)
    correlations: Mapping[str, Correlation]
    curvature_kind: str
    curvature_unit: str = field(repr=False)
    barrier_unit: str = field(repr=False)
    confidence: float = field(repr=False)

    @property
    def status(self) -> str:
        """ "converged", or how many examples had to be left out."""
        left_out = self.correlations["curvature"].num_left_out
        if not left_out:
            return "converged"
        return f"{left_out} of {len(self.memorization)} examples have not both scores"

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Scores along `example`; correlations with intervals and counts as scalars."""
        import xarray as xr

        of_examples = {
            "memorization": ("1", "memorization"),
            "curvature": (self.curvature_unit, self.curvature_kind),
            "barrier_share": (self.barrier_unit, "what the example adds to the barrier"),
            "loss": ("loss", "loss of the example"),
        }
        variables: dict[str, object] = {
            name: (("example",), getattr(self, name), {"units": unit, "long_name": meaning})
            for name, (unit, meaning) in of_examples.items()
        }
        ends = f"{100 * self.confidence:g}% interval"
        for name, found in self.correlations.items():
            meaning = f"rank correlation {MEANINGS[name]}"
            for suffix, value, words in (
                ("correlation", found.value, meaning),
                ("correlation_low", found.low, f"lower end, {ends}, {meaning}"),
                ("correlation_high", found.high, f"upper end, {ends}, {meaning}"),
                ("num_examples", found.num_examples, f"examples in the {meaning}"),
                ("num_left_out", found.num_left_out, f"examples left out of the {meaning}"),
            ):
                variables[f"{name}_{suffix}"] = ((), value, {"units": "1", "long_name": words})
        return xr.Dataset(variables)


def bridge(
    objective: Objective,
    memorization_values: ArrayLike,
    *,
    curvature: WeightCurvature | InputCurvature | ArrayLike | None = None,
    barrier: Barrier | ArrayLike | None = None,
    theta: Tensor | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Bridge:
    """Curvature and barrier shares of the examples against their memorization.

    Args:
        objective: on the examples, in the order of the values; its losses are what the partial
            correlations are given.
        memorization_values: (N,) such as `memorization(runs).value`, or any other score of the
            examples; NaN where there is none.
        curvature: (N,) of each example's loss, or what `weight_curvature` or `input_curvature`
            found; by default the former at theta.
        barrier: between two solutions, on the same examples, or its shares (N,).
        theta: (P,) where; by default the objective's own point.
        confidence: of the intervals, by a bootstrap over the examples.
        seed: of the resamples, and of the probes of the default curvature.

    Raises:
        RequestError: scores of other examples, or a barrier that is not told apart by examples.
    """
    began = time.perf_counter()
    num = objective.batches.num_examples
    memorized = _scores(memorization_values, "memorization_values", num)
    if curvature is None:
        curvature = weight_curvature(objective, theta, seed=seed)
    kind, unit, bent = _curvature(curvature, num)
    barrier_unit, shares = _shares(barrier, num)
    losses = objective.per_example(theta).double().cpu().numpy()
    return Bridge(
        settings={"confidence": confidence, "seed": seed, "curvature": kind},
        provenance=objective.provenance(),
        wall_time=time.perf_counter() - began,
        notes=objective.notes,
        memorization=memorized,
        curvature=bent,
        barrier_share=shares,
        loss=losses,
        correlations=correlations_of(
            memorized, bent, shares, losses, confidence=confidence, seed=seed
        ),
        curvature_kind=kind,
        curvature_unit=unit,
        barrier_unit=barrier_unit,
        confidence=confidence,
    )


def correlations_of(
    memorized: Floats,
    curvature: Floats,
    barrier_share: Floats,
    losses: Floats,
    *,
    confidence: float,
    seed: int,
) -> dict[str, Correlation]:
    """Spearman's of `MEANINGS` for scores (N,) of the same examples."""
    found = {}
    for name, score in (("curvature", curvature), ("barrier", barrier_share)):
        for suffix, given in (("", None), ("_given_loss", losses)):
            found[name + suffix] = rank_correlation(
                memorized, score, given, confidence=confidence, seed=seed
            )
    return found


def _scores(values: ArrayLike, name: str, num: int) -> Floats:
    found = as_floats(values, name, "(N,)")
    if len(found) != num:
        raise RequestError(
            f"{name} has {len(found)} entries for {num} examples of the objective. Give one for "
            "each, in the order of its data."
        )
    return found


def _curvature(
    given: WeightCurvature | InputCurvature | ArrayLike, num: int
) -> tuple[str, str, Floats]:
    """What it is, its unit and (N,) values."""
    if isinstance(given, WeightCurvature):
        kind = f"trace of the example's {given.matrix.replace('_', '-')} matrix in the weights"
        return kind, "loss / parameter^2", _scores(given.value, "curvature", num)
    if isinstance(given, InputCurvature):
        kind = "trace of the square of the example's hessian in its input"
        return kind, "loss^2 / input^4", _scores(given.value, "curvature", num)
    return "curvature as it was given", "1", _scores(given, "curvature", num)


def _shares(barrier: Barrier | ArrayLike | None, num: int) -> tuple[str, Floats]:
    if barrier is None:
        return "loss", np.full(num, np.nan)
    if not isinstance(barrier, Barrier):
        return "loss", _scores(barrier, "barrier", num)
    if barrier.example_shares is None:
        raise RequestError(
            "the barrier has no shares of single examples: its loss gives only a batch's value, or "
            "its height is not finite. Measure it with 'cross_entropy', 'mse' or 'bce'."
        )
    shares: Tensor = torch.as_tensor(barrier.example_shares)
    return "loss" if barrier.metric == "loss" else "1", _scores(shares, "barrier", num)
