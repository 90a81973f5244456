"""Repaired: a network between two solutions with mended channels. `repair` makes it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from landscape.result import Result

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["STAGES", "Repaired", "RepairedLayer", "Stages"]

STAGES = ("a", "b", "merged", "reset", "repaired")


@dataclass(frozen=True)
class RepairedLayer:
    """How the channels of one layer came to their goals.

    Attributes:
        name: of the module.
        num_channels: of its outputs.
        dead: channels that are constant in the merged network, and are left alone.
        ratio_before, ratio_after: variance of the merged network's channels, summed, over that of
            the goals: below 1 where it has collapsed.
        mean_error, std_error: largest distance from a goal afterwards, in units of the goal's
            standard deviation; over channels that are not dead and whose goal is not.
        sets_mean: whether the means could be set; not without a bias.
        is_batch_norm: whether it is a BatchNorm, whose statistics were reset instead.
    """

    name: str
    num_channels: int
    dead: int
    ratio_before: float
    ratio_after: float
    mean_error: float
    std_error: float
    sets_mean: bool
    is_batch_norm: bool


@dataclass(frozen=True)
class Stages:
    """Loss and accuracy on one data set, from the two ends to the repaired network.

    Attributes:
        losses, accuracies: by the name of the stage: "a" and "b", the ends; "merged", the point
            between them with BatchNorm statistics between theirs; "reset", with those that belong
            to it; "repaired". Accuracies are NaN where there are no classes.
        change: loss repaired - loss merged.
        change_error: standard error of it, from paired differences of the examples.
    """

    losses: Mapping[str, float]
    accuracies: Mapping[str, float]
    change: float
    change_error: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Repaired(Result):
    """A point between two solutions with the channel statistics that lie between theirs.

    Attributes:
        theta: (n,) the repaired network, a point of the same space.
        buffers: all buffers by name; BatchNorm statistics are those at theta.
        alpha: 0 at a, 1 at b.
        layers: those that were repaired or reset, in the order in which they run.
        left_out: other layers, and why.
        stages: by the name of the data: "" for the objective's own.
    """

    probe: ClassVar[str] = "repair"

    theta: Tensor = field(repr=False)
    buffers: Mapping[str, Tensor] = field(repr=False)
    alpha: float
    layers: tuple[RepairedLayer, ...] = field(repr=False)
    left_out: Mapping[str, str] = field(repr=False)
    stages: Mapping[str, Stages] = field(repr=False)

    @property
    def status(self) -> str:
        """ "converged" unless the repaired network has no finite loss."""
        return "converged" if math.isfinite(self.loss) else f"the loss is {self.loss}"

    @property
    def loss(self) -> float:
        """Of the repaired network, on the objective's own data."""
        return self.stages[""].losses["repaired"]

    @property
    def accuracy(self) -> float:
        """Of the repaired network, on the objective's own data; NaN without classes."""
        return self.stages[""].accuracies["repaired"]

    @property
    def ratio_before(self) -> float:
        """Variance over its goal in the merged network, the mean over layers."""
        return _mean([layer.ratio_before for layer in self.layers])

    @property
    def ratio_after(self) -> float:
        """Variance over its goal in the repaired network, the mean over layers."""
        return _mean([layer.ratio_after for layer in self.layers])

    def barrier_reduction(self, name: str = "") -> float:
        """1 - (rise of the loss above the chord, repaired / merged); NaN where none was."""
        losses = self.stages[name].losses
        chord = (1 - self.alpha) * losses["a"] + self.alpha * losses["b"]
        before, after = losses["merged"] - chord, losses["repaired"] - chord
        return 1 - after / before if before > 0 else math.nan

    def __getitem__(self, name: str) -> Stages:
        """On further data, such as repaired["test"]."""
        return self.stages[name]

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Layers along `layer`; losses and accuracies of each stage as scalars."""
        import xarray as xr

        along = ("layer",)
        described: dict[str, tuple[tuple[str, ...], object, str, str]] = {
            "alpha": ((), self.alpha, "1", "place between the ends: 0 at a, 1 at b"),
            "ratio_before": ((), self.ratio_before, "1", "variance / goal, merged, mean of layers"),
            "ratio_after": ((), self.ratio_after, "1", "variance / goal, repaired, mean of layers"),
            "dead_channels": ((), sum(one.dead for one in self.layers), "1", "constant channels"),
            "num_left_out": ((), len(self.left_out), "1", "layers that were left out"),
        }
        for key, unit, meaning in (
            ("num_channels", "1", "channels of a layer"),
            ("dead", "1", "channels of a layer that are constant, and left alone"),
            ("ratio_before", "1", "variance / goal in the merged network"),
            ("ratio_after", "1", "variance / goal in the repaired network"),
            ("mean_error", "1", "largest distance of a mean from its goal, in standard deviations"),
            ("std_error", "1", "largest relative distance of a standard deviation from its goal"),
            ("sets_mean", "1", "whether means could be set"),
            ("is_batch_norm", "1", "whether it is a BatchNorm, whose statistics were reset"),
        ):
            values = np.asarray([getattr(one, key) for one in self.layers])
            described[f"layer_{key}"] = (along, values, unit, meaning)
        for name, stages in self.stages.items():
            before, on = (f"{name}_", f" on {name}") if name else ("", "")
            for stage in STAGES:
                loss, share = stages.losses[stage], stages.accuracies[stage]
                described[f"{before}{stage}_loss"] = ((), loss, "loss", f"loss, {stage}{on}")
                described[f"{before}{stage}_accuracy"] = ((), share, "1", f"accuracy, {stage}{on}")
            words = f"loss repaired - loss merged{on}"
            described[f"{before}change"] = ((), stages.change, "loss", words)
            error = f"standard error of: {words}"
            described[f"{before}change_error"] = ((), stages.change_error, "loss", error)
            reduction = self.barrier_reduction(name)
            meaning = f"1 - (rise above the chord, repaired / merged){on}"
            described[f"{before}barrier_reduction"] = ((), reduction, "1", meaning)
        if vectors:
            theta = self.theta.cpu().double().numpy()
            described["theta"] = (("parameter",), theta, "parameter", "repaired weights")
        named = {"units": "1", "long_name": "layers, in the order in which they run"}
        return xr.Dataset(
            {
                name: (dimensions, values, {"units": unit, "long_name": meaning})
                for name, (dimensions, values, unit, meaning) in described.items()
            },
            coords={"layer": (along, [one.name for one in self.layers], named)},
        )


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan
