"""Layer sparsity: how sparse, how dead and of what rank the activations of each layer are.

The measures are in `sparsity_measures`, `rank_measures` and `units`; here they meet a network.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from landscape.batches import batch_length
from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.arrays import Floats
from landscape.probes.features.rank_measures import (
    alpha_req,
    effective_rank,
    participation_ratio,
    rankme,
)
from landscape.probes.features.sparsity_measures import gini, hoyer
from landscape.probes.features.units import TAU, UnitActivity, unit_activity
from landscape.result import Result
from landscape.similarity.activations import Pool, check_named, layers_of, recorded

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LayerSparsity", "layer_sparsity"]

_BUDGET = 2**30  # bytes of activations that are held at a time; more takes another pass

# What is measured of a layer, with its unit and its name.
_MEASURES: dict[str, tuple[str, str]] = {
    "hoyer_population": ("1", "Hoyer sparsity over units, mean over examples"),
    "hoyer_population_error": ("1", "standard error over examples of the population Hoyer"),
    "hoyer_lifetime": ("1", "Hoyer sparsity over examples, mean over units"),
    "gini_population": ("1", "Gini index over units, mean over examples"),
    "gini_population_error": ("1", "standard error over examples of the population Gini"),
    "gini_lifetime": ("1", "Gini index over examples, mean over units"),
    "silent_share": ("1", "share of examples without any response, left out of populations"),
    "l0": ("unit", "active units, mean over examples and positions"),
    "l0_error": ("unit", "standard error over examples of the active units"),
    "dead_share": ("1", "share of units that are never above 0"),
    "dormant_share": ("1", "share of units with E|h| <= tau times the layer's mean"),
    "participation_ratio": ("1", "participation ratio of the variances"),
    "participation_ratio_unbiased": ("1", "participation ratio, from unbiased traces"),
    "effective_rank": ("1", "exp of the entropy of the singular values"),
    "rankme": ("1", "RankMe, mean not taken off"),
    "alpha_req": ("1", "minus the slope of log variance on log rank"),
    "alpha_req_error": ("1", "standard error of that slope, as a regression's"),
    "num_units": ("unit", "units of the layer"),
}
_HEADLINES = (
    *("hoyer_population", "gini_population", "dead_share", "dormant_share"),
    *("participation_ratio", "effective_rank"),
)


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerSparsity(Result):
    """How sparse the layers of one network are on the data of its objective.

    Attributes:
        layers: (L,) their names.
        measures: (L,) each, by name: see `to_dataset`. NaN where undefined: Hoyer of a single
            unit, a rank of a layer that puts out the same for all examples.
        num_examples: over how many.
    """

    probe: ClassVar[str] = "sparsity"

    layers: tuple[str, ...]
    measures: Mapping[str, Floats] = field(repr=False)
    num_examples: int

    @property
    def status(self) -> str:
        """ "converged": every number is exact for these examples."""
        return "converged"

    def mean(self, name: str) -> float:
        """Of a measure over the layers that have one; NaN where none has."""
        return _mean(torch.from_numpy(self.measures[name]))

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Each measure along `layer`; means over the layers of some, as `mean_...`."""
        import xarray as xr

        dataset = xr.Dataset(coords={"layer": list(self.layers)})
        for name, (unit, meaning) in _MEASURES.items():
            values = self.measures[name]
            dataset[name] = (("layer",), values, {"units": unit, "long_name": meaning})
        for name in _HEADLINES:
            unit, meaning = _MEASURES[name]
            words = {"units": unit, "long_name": f"{meaning}, mean over layers"}
            dataset[f"mean_{name}"] = ((), self.mean(name), words)
        words = {"units": "1", "long_name": "examples that the activations are of"}
        dataset["num_examples"] = ((), self.num_examples, words)
        return dataset


def layer_sparsity(
    objective: Objective,
    theta: Tensor | None = None,
    *,
    layers: str | Sequence[str] = "*",
    pool: Pool = "spatial",
    center: bool = True,
    tau: float = TAU,
    eps: float = 0.0,
) -> LayerSparsity:
    """Sparsity, dead units and rank of each layer's activations, on all examples.

    Dead, dormant and active units count each position of an output by itself. Sparsity and rank
    are of the response of a unit to an example: the mean over positions. Layers are taken in as
    many passes over the data as keep their responses below 1 GiB.

    Args:
        theta: (n,) where; by default the objective's own point.
        layers: names and globs, as in `activations`.
        pool: what a unit is: "spatial", the second dimension (channels of an image); "tokens", the
            last; "none", every element of an output.
        center: take the mean off before a rank is measured. RankMe never does.
        tau: of dormant units.
        eps: a unit is active where |h| > eps.

    Raises:
        RequestError: no such layer, one without an output for each example, outputs that change
            their size or are not finite, or a negative number.
    """
    if not tau >= 0 or not eps >= 0:
        raise RequestError(f"tau={tau}, eps={eps}, expected 0 or more.")
    began = time.perf_counter()
    theta = objective.theta if theta is None else theta
    names = layers_of(objective.model, layers)
    widths = _widths(objective, theta, names, pool)
    check_named(layers, names, widths)
    found: dict[str, dict[str, float]] = {}
    for group in _groups(widths, objective.batches.num_examples):
        held: dict[str, tuple[list[Tensor], UnitActivity]] = {}
        # Closed also where something raises: the model is in eval mode until then.
        with closing(_outputs(objective, theta, group, pool)) as batches:
            for batch in batches:
                for key, outputs in batch.items():
                    if key in group:
                        _add(held, key, outputs, group[key], eps)
        for key, (responses, activity) in held.items():
            found[key] = _measured(torch.cat(responses), activity, center, tau)
    order = list(widths)
    measures = {name: np.array([found[key][name] for key in order]) for name in _MEASURES}
    return LayerSparsity(
        settings={
            "layers": layers if isinstance(layers, str) else list(layers),
            "pool": pool,
            "center": center,
            "tau": tau,
            "eps": eps,
        },
        provenance=objective.provenance(),
        wall_time=time.perf_counter() - began,
        layers=tuple(order),
        measures=measures,
        num_examples=objective.batches.num_examples,
    )


def _outputs(
    objective: Objective, theta: Tensor, names: Sequence[str] | Mapping[str, int], pool: Pool
) -> Generator[dict[str, Tensor], None, None]:
    """Of each batch, by layer: (N, units, positions)."""
    blocks = objective.space.split(theta.to(objective.device))
    # A module's second call, `name:2`, is recorded with its first.
    known = dict(objective.model.named_modules())
    modules = list(
        dict.fromkeys(name if name in known else name.rpartition(":")[0] for name in names)
    )
    with objective.evaluation(), torch.no_grad():
        buffers = objective.buffers_at(theta)
        for batch in objective.batches:
            length = batch_length(batch)
            with (
                recorded(objective.model, modules, length, "none") as whole,
                recorded(objective.model, modules, length, pool) as pooled,
            ):
                objective.term(blocks, batch, buffers)
            yield {
                key: _by_unit(values, pooled[key].shape[1], pool) for key, values in whole.items()
            }


def _by_unit(values: Tensor, num_units: int, pool: Pool) -> Tensor:
    if pool == "tokens":
        return values.reshape(len(values), -1, num_units).movedim(2, 1)
    return values.reshape(len(values), num_units, -1)


def _widths(
    objective: Objective, theta: Tensor, names: Sequence[str], pool: Pool
) -> dict[str, int]:
    """Units of each layer, from the first batch."""
    with closing(_outputs(objective, theta, names, pool)) as batches:
        first = next(batches)
    return {key: values.shape[1] for key, values in first.items()}


def _groups(widths: Mapping[str, int], num_examples: int) -> Iterator[dict[str, int]]:
    """Layers whose responses are held together."""
    group: dict[str, int] = {}
    for key, width in widths.items():
        if group and 8 * num_examples * (sum(group.values()) + width) > _BUDGET:
            yield group
            group = {}
        group[key] = width
    yield group


def _add(
    held: dict[str, tuple[list[Tensor], UnitActivity]],
    key: str,
    outputs: Tensor,
    num_units: int,
    eps: float,
) -> None:
    if outputs.shape[1] != num_units:
        raise RequestError(
            f"the layer {key!r} has {num_units} units in the first batch and {outputs.shape[1]} in "
            "another. Choose pool='tokens' or 'spatial', whichever averages what changes."
        )
    if not outputs.isfinite().all():
        raise RequestError(f"the layer {key!r} puts out NaN or infinity. Leave it out of layers.")
    activity = unit_activity(outputs, eps=eps)
    responses = outputs.double().mean(2)
    if key in held:
        held[key][0].append(responses)
        held[key] = (held[key][0], held[key][1] + activity)
    else:
        held[key] = ([responses], activity)


def _measured(
    responses: Tensor, activity: UnitActivity, center: bool, tau: float
) -> dict[str, float]:
    hoyer_by_example, gini_by_example = hoyer(responses, 1), gini(responses, 1)
    power_law = alpha_req(responses, center=center)
    return {
        "hoyer_population": _mean(hoyer_by_example),
        "hoyer_population_error": _standard_error(hoyer_by_example),
        "hoyer_lifetime": _mean(hoyer(responses, 0)),
        "gini_population": _mean(gini_by_example),
        "gini_population_error": _standard_error(gini_by_example),
        "gini_lifetime": _mean(gini(responses, 0)),
        "silent_share": gini_by_example.isnan().double().mean().item(),
        "l0": _mean(activity.num_active),
        "l0_error": _standard_error(activity.num_active),
        "dead_share": activity.dead.double().mean().item(),
        "dormant_share": activity.dormant(tau).double().mean().item(),
        "participation_ratio": participation_ratio(responses, center=center).item(),
        "participation_ratio_unbiased": participation_ratio(
            responses, center=center, unbiased=True
        ).item(),
        "effective_rank": effective_rank(responses, center=center).item(),
        "rankme": rankme(responses).item(),
        "alpha_req": power_law.alpha,
        "alpha_req_error": power_law.standard_error,
        "num_units": float(responses.shape[1]),
    }


def _mean(values: Tensor) -> float:
    """Of what is not NaN."""
    return values[~values.isnan()].mean().item()


def _standard_error(values: Tensor) -> float:
    """Of the mean of what is not NaN; NaN of fewer than two."""
    known = values[~values.isnan()]
    if len(known) < 2:
        return float("nan")
    return known.std().item() / math.sqrt(len(known))
