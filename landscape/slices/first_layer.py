"""FirstLayer: the layer that sees the data itself, put together from parts that are computed once.

Along a slice it is affine in the coordinates: (W + a V + b U) x = W x + a V x + b U x. So its
outputs for W, V and U are kept for each batch, and no point has to run it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from landscape.batches import batch_length, slice_batch
from landscape.memory import available_bytes
from landscape.objective import Objective
from landscape.slices.chart import Chart

__all__ = ["FirstLayer"]

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BYTE_SHARE = 0.125  # of the free memory, for the outputs that are kept
_TRIED = 2  # examples


class FirstLayer:
    """Takes the place of a layer's forward pass while a slice is evaluated.

    Attributes:
        scales: (k,) coordinates of the point that is evaluated next.
    """

    def __init__(self, objective: Objective, chart: Chart, name: str) -> None:
        self.name = name
        self._layer: nn.Module = objective.model.get_submodule(name)
        self._weights = _parts(objective, chart, f"{name}.weight")
        bias = getattr(self._layer, "bias", None)
        self._biases = None if bias is None else _parts(objective, chart, f"{name}.bias")
        self._objective = objective
        self._kept: dict[int, Tensor] = {}
        self._input: Tensor | None = None
        self._outputs: Tensor | None = None
        self.scales = torch.zeros(chart.num_axes)

    @classmethod
    def of(cls, objective: Objective, chart: Chart) -> FirstLayer | None:
        """The first layer that can be replaced; None if there is none, or its outputs do not fit.

        It sees the same at every point, is called once, and its weight is a coordinate.
        """
        batch = next(iter(objective.batches))
        length = batch_length(batch)
        few = slice_batch(batch, 0, min(_TRIED, length), length)
        step = torch.ones(1, chart.num_axes, dtype=torch.float64)
        calls = [
            _calls(objective, theta, few)
            for theta in (chart.thetas(0 * step)[0], chart.thetas(step)[0])
        ]
        tied = set(objective.space.aliases.values())
        for name, seen in calls[0].items():
            again = calls[1].get(name, [])
            once = len(seen) == 1 and len(again) == 1
            parameter = f"{name}.weight"
            if once and parameter in objective.space.names and parameter not in tied:
                (inputs, outputs), (others, _) = seen[0], again[0]
                count = min(_TRIED, length)
                needed = (chart.num_axes + 1) * outputs.nbytes / count
                budget = _BYTE_SHARE * available_bytes(objective.device)
                fits = needed * objective.batches.num_examples <= budget
                if torch.equal(inputs, others) and fits:
                    return cls(objective, chart, name)
        return None

    def take_over(self) -> None:
        """Replace the layer's forward pass; `Objective.evaluation` puts it back."""
        self._layer.forward = self._put_together

    def prepare(self, batch: object, index: int) -> None:
        """Have the outputs for a batch ready, under its index."""
        if index not in self._kept:
            outputs: list[Tensor] = []
            self._layer.forward = lambda inputs: self._compute(inputs, outputs)
            self._objective.term(self._objective.space.split(self._objective.theta), batch)
            self.take_over()
            self._kept[index] = outputs[0]
        self._outputs = self._kept[index]

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
        found = self._outputs[0]
        for axis, output in enumerate(self._outputs[1:]):
            found = torch.addcmul(found, self.scales[axis], output)
        return found


def _parts(objective: Objective, chart: Chart, name: str) -> list[Tensor]:
    """A parameter's values at the center, then along each direction."""
    if name not in objective.space.names:  # a frozen bias
        fixed = objective.constants[name]
        return [fixed, *[torch.zeros_like(fixed)] * chart.num_axes]
    place = objective.space.slice_of(name)
    shape = objective.space.shapes[objective.space.names.index(name)]
    return [vector[place].view(shape) for vector in (chart.center, *chart.vectors)]


def _calls(
    objective: Objective, theta: Tensor, batch: object
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Inputs and outputs of each plain layer in one forward pass, in the order of the calls."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {}
    handles = []

    def record(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.setdefault(name, []).append((inputs[0], output))

    try:
        for name, module in objective.model.named_modules():
            # Not isinstance: a subclass may do something else with its weight.
            if type(module) in _LAYERS and len(list(module.parameters())) in (1, 2):
                handles.append(
                    module.register_forward_hook(
                        lambda _, inputs, output, name=name: record(name, inputs, output)
                    )
                )
        with objective.evaluation(), torch.no_grad():
            objective.term(objective.space.split(theta), batch)
    finally:
        for handle in handles:
            handle.remove()
    return found
