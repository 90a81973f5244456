"""FirstLayer: the layer that sees the data itself, put together from parts that are computed once.

Along a slice it is affine in the coordinates: (W + a V + b U) x = W x + a V x + b U x. So its
outputs for W, V and U are kept for each batch, and no point has to run it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.batches import batch_length, slice_batch
from landscape.errors import RequestError
from landscape.memory import available_bytes
from landscape.objective import Objective
from landscape.slices.chart import Chart

__all__ = ["FirstLayer"]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BYTE_SHARE = 0.125  # of the free memory, for the outputs that are kept
_TRIED = 2  # examples
_STEP = 0.618  # no round number: an input that depends on the point must not happen to come back


class FirstLayer:
    """Takes the place of a layer's forward pass while a slice is evaluated."""

    def __init__(self, objective: Objective, chart: Chart, name: str) -> None:
        self.name = name
        self._layer: nn.Module = objective.model.get_submodule(name)
        self._weights = _parts(objective, chart, f"{name}.weight")
        bias = getattr(self._layer, "bias", None)
        self._biases = None if bias is None else _parts(objective, chart, f"{name}.bias")
        self._objective = objective
        self._kept: dict[int, Tensor] = {}
        self._outputs: Tensor | None = None
        self._scales = torch.zeros(chart.num_axes)
        self._is_due = False

    @classmethod
    def of(cls, objective: Objective, chart: Chart) -> FirstLayer | None:
        """The first layer that can be replaced; None if there is none, or its outputs do not fit.

        It sees the same at every point, is called once, and its weight is a coordinate.
        """
        if not chart.is_affine:
            return None
        batch = next(iter(objective.batches))
        length = batch_length(batch)
        few = slice_batch(batch, 0, min(_TRIED, length), length)
        step = _STEP ** torch.arange(1, chart.num_axes + 1, dtype=torch.float64)
        center, elsewhere = chart.thetas(torch.stack([0 * step, step]))
        moves = objective.bn == "recalibrate" or any(chart.buffer_steps)
        here = _calls(objective, center, few, {})
        there = _calls(objective, elsewhere, few, _other_statistics(objective) if moves else {})
        tied = set(objective.space.aliases.values())
        for name, seen in here.items():
            parameter = f"{name}.weight"
            if parameter not in objective.space.names or parameter in tied or len(seen) != 1:
                continue
            inputs, outputs = seen[0]
            needed = (chart.num_axes + 1) * outputs.nbytes / min(_TRIED, length)
            budget = _BYTE_SHARE * available_bytes(objective.device)
            fits = needed * objective.batches.num_examples <= budget
            again = there.get(name, [])
            if fits and len(again) == 1 and torch.equal(again[0][0], inputs):
                return cls(objective, chart, name)
        return None

    def take_over(self) -> None:
        """Replace the layer's forward pass; `Objective.evaluation` puts it back."""
        self._layer.forward = self._put_together

    def stand_back(self) -> None:
        """The layer's own forward pass, until it is taken over again."""
        del self._layer.forward

    def prepare(self, batch: object, index: int) -> None:
        """Have the outputs for a batch ready, under its index.

        Raises:
            RequestError: the layer is not called exactly once.
        """
        if index not in self._kept:
            outputs: list[Tensor] = []
            self._layer.forward = lambda inputs: self._compute(inputs, outputs)
            self._objective.term(self._objective.space.split(self._objective.theta), batch)
            self.take_over()
            if len(outputs) != 1:
                raise self._not_once(len(outputs))
            self._kept[index] = outputs[0]
        self._outputs = self._kept[index]

    def move(self, scales: Tensor) -> None:
        """Go to the point of coordinates (k,); then one forward pass may follow."""
        self._scales, self._is_due = scales, True

    def _compute(self, inputs: Tensor, outputs: list[Tensor]) -> Tensor:
        found = [
            self._apply(inputs, weight, None if self._biases is None else self._biases[axis])
            for axis, weight in enumerate(self._weights)
        ]
        outputs.append(torch.stack(found))
        return found[0]

    def _apply(self, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if isinstance(self._layer, nn.Linear):
            return F.linear(inputs, weight, bias)
        forward: Tensor = self._layer._conv_forward(inputs, weight, bias)  # type: ignore[operator]
        return forward

    def _put_together(self, _: Tensor) -> Tensor:
        assert self._outputs is not None
        if not self._is_due:
            raise self._not_once(2)
        self._is_due = False
        found = self._outputs[0]
        for axis, output in enumerate(self._outputs[1:]):
            found = torch.addcmul(found, self._scales[axis], output)
        return found

    def _not_once(self, count: int) -> RequestError:
        return RequestError(
            f"the layer {self.name!r} is called {count} times for some batch, and once for others: "
            "its outputs cannot be reused. Give SweepOptions(execution='loop')."
        )


def _parts(objective: Objective, chart: Chart, name: str) -> list[Tensor]:
    """A parameter's values at the center, then along each direction."""
    name = objective.space.aliases.get(name, name)
    if name not in objective.space.names:  # a frozen bias
        fixed = objective.constants[name]
        return [fixed, *[torch.zeros_like(fixed)] * chart.num_axes]
    return [objective.space.named(vector)[name] for vector in (chart.center, *chart.vectors)]


def _other_statistics(objective: Objective) -> dict[str, Tensor]:
    """All floating-point buffers changed, so that what depends on them shows it."""
    return {
        name: buffer * 2 + 1
        for name, buffer in objective.buffers.items()
        if buffer.is_floating_point()
    }


def _calls(
    objective: Objective, theta: Tensor, batch: object, buffers: dict[str, Tensor]
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Inputs and outputs of each plain layer in one forward pass, in the order of the calls."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    handles = []

    def record(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if inputs:  # not by keyword
            found.setdefault(name, []).append((inputs[0], output))

    try:
        for name, module in objective.model.named_modules():
            # Not isinstance: a subclass may do something else with its weight, and so may a
            # forward pass that somebody put in its place.
            plain = type(module) in _LAYERS and "forward" not in vars(module)
            if plain and len(list(module.parameters())) in (1, 2):
                handles.append(
                    module.register_forward_hook(
                        lambda _, inputs, output, name=name: record(name, inputs, output)
                    )
                )
        with objective.evaluation(), torch.no_grad():
            objective.term(objective.space.split(theta), batch, buffers)
    finally:
        for handle in handles:
            handle.remove()
    return found
