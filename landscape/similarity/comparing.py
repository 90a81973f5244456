"""Comparing networks: their features, weights and answers, in one pass over the data.

Data outside, networks inside; `comparison` holds what comes back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from landscape.batches import batch_length
from landscape.errors import RequestError
from landscape.fingerprint import fingerprint
from landscape.losses import Term
from landscape.objective import BatchNormPolicy, Objective
from landscape.similarity.activations import Pool, check_named, layers_of, recorded
from landscape.similarity.bootstrap import Intervals
from landscape.similarity.comparison import Similarity
from landscape.similarity.distances import scale_invariant_angles, weight_distances
from landscape.similarity.predictions import PredictionSums
from landscape.similarity.streaming import StreamingCKA
from landscape.slices.trajectory import checkpoints_fingerprint

__all__ = ["compare", "compare_family"]

Array = NDArray[np.float64]
Buffers = Mapping[str, Tensor]
Progress = Callable[[int, int, str], None]

_CONFIDENCE = 0.95
_NORMALIZATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def compare(
    objective: Objective,
    a: Tensor,
    b: Tensor,
    *,
    buffers: Sequence[Buffers] | None = None,
    layers: str | Sequence[str] = "*",
    pool: Pool = "none",
    bn: BatchNormPolicy = "recalibrate",
    seed: int = 0,
    progress: Progress | None = None,
) -> Similarity:
    """How alike two networks are: CKA of their layers, distances of their weights, their answers.

    Args:
        a: (n,) the weights of one network, a point of the objective.
        b: (n,) those of the other.
        buffers: of both, by name, such as `dict(model.named_buffers())`; with `bn="eval"`.
        layers: whose features are compared, as in `layers_of`.
        pool: of features, as in `activations`; "spatial" takes far less memory for images.
        bn: BatchNorm statistics: "recalibrate", those of the objective's data at each point, which
            also merged networks have; "eval", the running ones in `buffers`, or else the
            objective's own for both; "batch".
        seed: of the bootstrap.
        progress: called with (batches seen, batches to see, message).

    Raises:
        RequestError: points, buffers or layers that do not fit, fewer than four examples, or too
            little memory.

    CKA is debiased. Intervals are of 95 %, for a fresh draw of the examples. Where features take
    too much memory to be held, the data are passed over a second time for the intervals of CKA.
    """
    return compare_family(
        objective,
        {"a": a, "b": b},
        buffers=buffers,
        layers=layers,
        pool=pool,
        bn=bn,
        seed=seed,
        progress=progress,
    )


def compare_family(
    objective: Objective,
    thetas: Mapping[str, Tensor] | Sequence[Tensor] | Tensor,
    *,
    buffers: Sequence[Buffers] | None = None,
    layers: str | Sequence[str] = "*",
    pool: Pool = "none",
    bn: BatchNormPolicy = "recalibrate",
    seed: int = 0,
    progress: Progress | None = None,
) -> Similarity:
    """`compare`, whose options these are, for every two of T >= 2 networks, in one pass.

    Args:
        thetas: points (n,) of the objective, by name or numbered from 1; their features at all
            layers take memory together.
    """
    began = time.perf_counter()
    points = list(thetas.values() if isinstance(thetas, Mapping) else thetas)
    names = thetas if isinstance(thetas, Mapping) else range(1, len(points) + 1)
    networks = tuple(map(str, names))
    weights = weight_distances(objective, points)
    # Statistics of layers that are not there would cost a pass over the data for each network.
    needless = bn == "recalibrate" and not objective.has_batch_norm
    under = objective.under("eval" if needless else bn)
    held = _checked(under, buffers, len(points))
    forward = _Forward(under, points, held, layers_of(objective.model, layers), pool)
    answers = PredictionSums(objective.loss_function, len(points))
    gathered, found = _gathered(forward, layers, answers, progress)
    silent = [name for name in forward.layers if name not in found]
    notes = list(objective.notes)
    if silent:
        notes.append(f"{len(silent)} layers without an output for each example: {silent[0]}, ...")
    angle, doubts = _scale_invariant(objective, points)
    return Similarity(
        settings={
            "networks": checkpoints_fingerprint(points),
            "names": list(networks),
            "buffers": [fingerprint(held).hex() for held in buffers or ()],
            "layers": list(found),
            "pool": pool,
            "bn": bn,
            "confidence": _CONFIDENCE,
            "seed": seed,
        },
        provenance=under.provenance(),
        notes=(*notes, *doubts),
        networks=networks,
        layers=found,
        cka=_same_layer(gathered, found, len(points)),
        cross_layer_cka=_cross_layer(gathered, found) if len(points) == 2 else None,
        weights=weights,
        scale_invariant_angle=angle,
        predictions=answers.intervals(confidence=_CONFIDENCE, seed=seed),
        wall_time=time.perf_counter() - began,
    )


class _Forward:
    """All networks on a batch: what they put out, and the features of their layers."""

    def __init__(
        self,
        objective: Objective,
        points: Sequence[Tensor],
        buffers: Sequence[Buffers],
        layers: tuple[str, ...],
        pool: Pool,
    ) -> None:
        self.objective, self.layers = objective, layers
        self._pool: Pool = pool
        self._blocks = [objective.space.split(theta.to(objective.device)) for theta in points]
        with objective.evaluation(), torch.no_grad():
            self._buffers = [
                {**own, **(objective.buffers_at(theta) or {})}
                for own, theta in zip(buffers, points, strict=True)
            ]

    def passes(self) -> Iterator[tuple[list[Term], dict[str, Tensor]]]:
        """Of each batch the terms of all networks, and features by "network/layer"."""
        for batch in self.objective.batches:
            terms: list[Term] = []
            features: dict[str, Tensor] = {}
            count = batch_length(batch)
            for index, (blocks, buffers) in enumerate(
                zip(self._blocks, self._buffers, strict=True)
            ):
                with recorded(self.objective.model, self.layers, count, self._pool) as found:
                    terms.append(self.objective.term(blocks, batch, dict(buffers)))
                features |= {_key(index, layer): values for layer, values in found.items()}
            yield terms, features


def _gathered(
    forward: _Forward,
    layers: str | Sequence[str],
    answers: PredictionSums,
    progress: Progress | None,
) -> tuple[StreamingCKA, tuple[str, ...]]:
    """CKA of all pairs, and the layers that have features; `answers` takes the terms."""
    gathered: StreamingCKA | None = None
    found: tuple[str, ...] = ()
    total = forward.objective.batches.num_batches
    report = progress or (lambda *_: None)
    with forward.objective.evaluation(), torch.no_grad():
        for index, (terms, features) in enumerate(forward.passes()):
            if gathered is None:
                found = tuple(key.partition("/")[2] for key in features if key.startswith("0/"))
                check_named(layers, forward.layers, found)
                gathered = StreamingCKA(_pairs(found, len(terms)))
            gathered.update(features)
            answers.update(terms)
            report(index + 1, total, "features and predictions")
        assert gathered is not None  # an objective has at least one batch
        for index, (_, features) in enumerate(
            forward.passes() if gathered.needs_second_pass else ()
        ):
            gathered.revisit(features)
            report(index + 1, total, "features once more, for intervals")
    return gathered, found


def _key(network: int, layer: str) -> str:
    return f"{network}/{layer}"


def _pairs(layers: Sequence[str], num_networks: int) -> list[tuple[str, str]]:
    """The same layer of every two networks; of two networks alone, all layers of both."""
    if num_networks == 2:
        return [(_key(0, one), _key(1, other)) for one, other in product(layers, layers)]
    return [
        (_key(i, layer), _key(j, layer))
        for i, j in combinations(range(num_networks), 2)
        for layer in layers
    ]


def _same_layer(gathered: StreamingCKA, layers: Sequence[str], num_networks: int) -> Intervals:
    shape = (num_networks, num_networks, len(layers))
    found = Intervals(*(np.full(shape, np.nan) for _ in range(3)))
    for (column, layer), i, j in product(
        enumerate(layers), range(num_networks), range(num_networks)
    ):
        if i <= j:
            estimate = gathered.estimate(_key(i, layer), _key(j, layer), confidence=_CONFIDENCE)
            numbers = (estimate.value, *estimate.interval)
            for array, number in zip((found.value, found.low, found.high), numbers, strict=True):
                array[i, j, column] = array[j, i, column] = number
    return found


def _cross_layer(gathered: StreamingCKA, layers: Sequence[str]) -> Array:
    return np.array(
        [[gathered.value(_key(0, one), _key(1, other)) for other in layers] for one in layers]
    )


def _checked(
    objective: Objective, buffers: Sequence[Buffers] | None, num_networks: int
) -> list[dict[str, Tensor]]:
    """Buffers of each network as the objective computes; empty ones where none were given."""
    if buffers is None:
        return [{} for _ in range(num_networks)]
    if len(buffers) != num_networks:
        raise RequestError(f"there are {len(buffers)} sets of buffers for {num_networks} networks.")
    if objective.has_batch_norm and objective.bn != "eval":
        raise RequestError(
            f"bn={objective.bn!r} takes no running statistics from buffers. Give bn='eval' to use "
            "those that came, or leave the buffers out."
        )
    found = []
    for own in buffers:
        shapes = {name: tensor.shape for name, tensor in own.items()}
        wanted = {name: tensor.shape for name, tensor in objective.buffers.items()}
        if shapes != wanted:
            wrong = sorted(name for name, _ in shapes.items() ^ wanted.items())
            raise RequestError(
                f"the buffers do not fit the model: {wrong[0]!r} is missing, unknown or of another "
                "shape. Give all of them: dict(model.named_buffers())."
            )
        found.append(
            {
                name: own[name].detach().to(held, copy=True)
                for name, held in objective.buffers.items()
            }
        )
    return found


def _scale_invariant(
    objective: Objective, points: Sequence[Tensor]
) -> tuple[Array | None, tuple[str, ...]]:
    """Angles between scale-invariant weights, sought only where something normalises."""
    if not any(isinstance(module, _NORMALIZATIONS) for module in objective.model.modules()):
        return None, ()
    try:
        return scale_invariant_angles(objective, points), ()
    except RequestError as error:
        return None, (f"scale-invariant weights were not found: {error}",)
