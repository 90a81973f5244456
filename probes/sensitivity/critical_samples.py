"""Critical samples: examples near which the network predicts another class.

`loss_sensitivity` has the gradients themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from landscape.batches import map_tensors
from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.arrays import Bools, Floats, Ints
from landscape.probes.sensitivity.class_scores import class_scores
from landscape.probes.sensitivity.single_examples import (
    Point,
    differentiation,
    gradient_by,
    inputs_of,
    points,
    with_inputs,
)
from landscape.similarity.bootstrap import wilson

__all__ = ["CriticalSamples", "critical_sample_ratio"]

_STEP, _NOISE = 0.25, 0.2  # of the radius


@dataclass(frozen=True, eq=False)
class CriticalSamples:
    """Examples with another prediction within a radius. The search may miss some, never too many.

    Attributes:
        ratio: share of critical examples, a lower bound.
        low: of Wilson's interval, as over fresh examples.
        high: of Wilson's interval.
        is_critical: (N,) whether another prediction was found.
        distance: (N,) largest change of one input at which it was found, at most `radius`; NaN
            where none was found. The nearest one may be nearer.
        num_steps: (N,) steps that it took; -1 where none was found.
        found: (N, ...) inputs with another prediction; the example itself where none was found.
        radius: in the largest norm, of the inputs' unit.
    """

    ratio: float
    low: float
    high: float
    is_critical: Bools
    distance: Floats
    num_steps: Ints
    found: Tensor
    radius: float


def critical_sample_ratio(
    model_or_objective: nn.Module | Objective,
    radius: float,
    *,
    inputs: Tensor | None = None,
    theta: Tensor | None = None,
    buffers: Mapping[str, Tensor] | None = None,
    step: float | None = None,
    noise: float | None = None,
    num_steps: int = 100,
    bounds: tuple[float, float] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> CriticalSamples:
    """The share of examples with another prediction within a radius, by a Langevin search.

    x' <- clip(x' - step sign(d f / d x') + noise N(0, 1)), f = z_top - log sum_{j != top} exp z_j
    for the class that is predicted at x. The sign is that of the gradient of p_top, which vanishes
    where a network is sure; ports of the authors' code go up the cross-entropy with the predicted
    class, which is the same direction. Everything that is looked at lies within the radius and the
    bounds.

    Args:
        model_or_objective: an objective, of whose labels no use is made; or a network, together
            with `inputs` (N, ...).
        radius: in the largest norm.
        theta: (P,) where; by default the objective's own point.
        buffers: by name, in place of the model's own.
        step: by default a quarter of the radius.
        noise: its standard deviation, by default a fifth of the radius.
        num_steps: at most, of the search for each example.
        bounds: smallest and largest value of an input, such as (0, 1) of images.
        confidence: of Wilson's interval.
        seed: of the noise.

    Raises:
        RequestError: an option out of range, inputs out of bounds, or a network without classes.

    Source: Arpit et al. 2017, arXiv:1706.05394. Ports of their code have, for inputs in [0, 1], a
    step of 0.25, noise of 0.2 and a radius of 0.3 grey levels; the defaults here are ours.
    """
    objective = _objective(model_or_objective, inputs)
    step = _STEP * radius if step is None else step
    noise = _NOISE * radius if noise is None else noise
    if not radius > 0 or not step > 0 or not noise >= 0 or num_steps < 1:
        raise RequestError(
            f"radius={radius}, step={step}, noise={noise}, num_steps={num_steps}: expected a "
            "radius and a step above 0, noise from 0 on, and 1 step or more."
        )
    if not 0 < confidence < 1:
        raise RequestError(f"confidence={confidence}, expected a number between 0 and 1.")
    seeds = np.random.SeedSequence(seed).spawn(objective.batches.num_batches)
    moved, steps, distances = [], [], []
    with differentiation(objective):
        (point,) = points(objective, theta, None if buffers is None else [buffers])
        for batch, own in zip(objective.batches, seeds, strict=True):
            search = _Search(objective, point, batch, radius, bounds, own)
            taken = search.run(step, noise, num_steps)
            moved.append(search.moved.detach().cpu())
            distances.append((moved[-1] - inputs_of(batch).cpu()).double().abs().flatten(1).amax(1))
            steps.append(taken.cpu())
    num_taken = torch.cat(steps).numpy()
    critical = num_taken >= 0
    interval = wilson(np.asarray(float(critical.sum())), float(len(critical)), confidence)
    return CriticalSamples(
        ratio=float(interval.value),
        low=float(interval.low),
        high=float(interval.high),
        is_critical=critical,
        distance=np.where(critical, torch.cat(distances).numpy(), np.nan),
        num_steps=num_taken,
        found=torch.cat(moved),
        radius=radius,
    )


def _objective(given: nn.Module | Objective, inputs: Tensor | None) -> Objective:
    if isinstance(given, Objective):
        if inputs is not None:
            raise RequestError("an objective has inputs of its own. Leave `inputs` out.")
        return given
    if inputs is None or not len(inputs):
        raise RequestError("a network alone has no examples. Give inputs=, a tensor (N, ...).")
    return Objective(given, (inputs, torch.zeros(len(inputs), dtype=torch.int64)))


class _Search:
    """The examples of one batch on their way; those that have arrived stay where they are."""

    def __init__(
        self,
        objective: Objective,
        point: Point,
        batch: object,
        radius: float,
        bounds: tuple[float, float] | None,
        seed: np.random.SeedSequence,
    ) -> None:
        self._objective, self._point, self._batch = objective, point, batch
        own = inputs_of(batch)
        lowest, highest = bounds or (-np.inf, np.inf)
        if own.min() < lowest or own.max() > highest:
            raise RequestError(
                f"inputs are within [{float(own.min()):.3g}, {float(own.max()):.3g}], which is "
                f"more than bounds={bounds}. Give the bounds of the inputs as the network sees "
                "them."
            )
        # Rounding must not carry them outside: the last number within, not the nearest.
        self._low = _within(own, own - radius, radius).clamp(min=lowest)
        self._high = _within(own, own + radius, radius).clamp(max=highest)
        self._generator = torch.Generator().manual_seed(
            int(seed.generate_state(1, np.uint64)[0]) >> 1
        )
        self.moved = own.detach().clone()
        self._predicted = self._logits(self.moved, torch.arange(len(own))).argmax(1)

    def run(self, step: float, noise: float, num_steps: int) -> Tensor:
        """Move; returns (b,) how many steps each example took, -1 for those that did not arrive."""
        taken = torch.full_like(self._predicted, -1)
        left = torch.arange(len(taken), device=taken.device)
        for count in range(1, num_steps + 1):
            inputs = self.moved[left].requires_grad_()
            top = self._predicted[left][:, None]
            logits = self._logits(inputs, left)
            others = logits.scatter(1, top, -torch.inf).logsumexp(1)
            margin = logits.gather(1, top)[:, 0] - others
            drift = step * gradient_by(margin.sum(), inputs).sign()
            drawn = torch.randn(inputs.shape, generator=self._generator, dtype=inputs.dtype)
            target = inputs.detach() - drift + noise * drawn.to(inputs.device)
            self.moved[left] = target.clamp(self._low[left], self._high[left])
            with torch.no_grad():
                now = self._logits(self.moved[left], left).argmax(1)
            arrived = now != self._predicted[left]
            taken[left[arrived]] = count
            left = left[~arrived]
            if not len(left):
                break
        return taken

    def _logits(self, inputs: Tensor, rows: Tensor) -> Tensor:
        length = len(self.moved)
        part = map_tensors(
            lambda t: t[rows.to(t.device)] if t.ndim and len(t) == length else t, self._batch
        )
        term = self._objective.term(
            self._point.blocks, with_inputs(part, inputs), self._point.buffers
        )
        logits = class_scores(self._objective.loss_function, term).logits
        if logits.shape[1] < 2:
            raise RequestError(
                "the network has one output and the loss is no 'bce': there is no other class. "
                "Give an objective with loss='bce'."
            )
        return logits


def _within(center: Tensor, edge: Tensor, radius: float) -> Tensor:
    """The edge, or the number next to it towards the centre where rounding went too far."""
    beyond = (edge - center).abs() > radius
    return torch.where(beyond, torch.nextafter(edge, center), edge)
