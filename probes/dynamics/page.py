"""Page: the open time of a recorder, written batch by batch on the device of the logits.

`positions` and `columns` say what a batch must be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.probes.arrays import Ints
from landscape.probes.dynamics.measurements import MEASUREMENTS, measurements

__all__ = ["Page", "columns", "other_labels", "positions"]

_STATE = ("block", "counts", "faults")


class Page:
    """Measurements of n examples under M augmentations, NaN as long as there are none.

    Nothing here waits for the device but `check`: what is wrong is counted where it is seen.

    Args:
        labels: (n,) int64.

    Attributes:
        block: (n M, 8) float64, example by example.
        counts: (n M,) how often each was presented.
        faults: (2,) indices out of range, and labels that are others than ours.
    """

    def __init__(self, labels: Tensor, num_augmentations: int) -> None:
        self._labels = labels
        self._views = torch.arange(num_augmentations)
        size = len(labels) * num_augmentations
        self.block = torch.full((size, len(MEASUREMENTS)), torch.nan, dtype=torch.float64)
        self.counts = torch.zeros(size, dtype=torch.int64)
        self.faults = torch.zeros(2, dtype=torch.int64)

    def to(self, device: torch.device) -> None:
        """Go on there."""
        for name in ("_labels", "_views", *_STATE):
            setattr(self, name, getattr(self, name).to(device))

    def enter(
        self,
        at: Tensor,
        logits: Tensor,
        augmentation: int | Tensor | None,
        labels: Tensor | None,
    ) -> None:
        """Answers to the examples `at` (b,): (b, C) to one view of each, or (b, M, C) to all."""
        device, last = self.block.device, len(self._labels) - 1
        kept = at.clamp(0, last)
        outside = kept != at
        own = self._labels[kept]
        if labels is not None:
            self.faults[1] += (labels.to(device) != own).sum()
        slots = kept * len(self._views)
        if logits.ndim == 3:
            slots = (slots.unsqueeze(1) + self._views).flatten()
            own = own.unsqueeze(1).expand(logits.shape[:2])
        elif augmentation is not None:
            if isinstance(augmentation, Tensor):
                view = augmentation.to(device).clamp(0, len(self._views) - 1)
                outside = outside | (view != augmentation.to(device))
                augmentation = view
            slots = slots + augmentation
        self.faults[0] += outside.sum()
        found = measurements(logits, own).reshape(-1, len(MEASUREMENTS))
        self.block.index_copy_(0, slots, found)
        self.counts.index_add_(0, slots, torch.ones_like(slots))

    def check(self) -> None:
        """Raise RequestError if this page cannot be believed."""
        outside, other = self.faults.cpu().numpy().tolist()
        if outside:
            raise _out_of_range(len(self._labels), f"{outside} of them")
        if other:
            raise other_labels(other)
        counts = self.counts.cpu().numpy()
        if counts.max(initial=0) > 1:
            slot = int(counts.argmax())
            raise RequestError(
                f"example {slot // len(self._views)} was presented {counts[slot]} times since the "
                "last end_epoch(). Call it after each pass over the examples; or after each step, "
                "where they are drawn with replacement."
            )

    def state(self) -> dict[str, npt.NDArray[Any]]:
        """What `restore` goes on from."""
        return {name: getattr(self, name).cpu().numpy() for name in _STATE}

    def restore(self, state: Mapping[str, npt.NDArray[Any]]) -> None:
        """Go on from a state."""
        for name in _STATE:
            setattr(self, name, torch.from_numpy(np.array(state[name])))


def positions(indices: object, labels: Tensor | None, own: Ints) -> Tensor:
    """Indices (b,) of a batch as int64; looked at where that does not wait for a device.

    Args:
        labels: that came with the batch.
        own: (n,) those that are known.

    Raises:
        RequestError: no integers (b,), out of range or twice, other labels.
    """
    at = indices if isinstance(indices, Tensor) else torch.as_tensor(np.asarray(indices))
    if at.ndim != 1 or at.is_floating_point() or at.is_complex() or at.dtype == torch.bool:
        raise RequestError(
            f"indices has shape {tuple(at.shape)} and dtype {at.dtype}, expected (b,) integers: "
            "positions of the examples among the labels."
        )
    if labels is not None and labels.shape != at.shape:
        raise RequestError(
            f"labels has shape {tuple(labels.shape)}, expected {tuple(at.shape)}: one an index."
        )
    if at.device.type == "cpu" and len(at):
        numbers = at.numpy()
        if numbers.min() < 0 or numbers.max() >= len(own):
            raise _out_of_range(len(own), f"{numbers.min()} ... {numbers.max()}")
        if len(np.unique(numbers)) < len(numbers):
            raise RequestError(
                "an index is twice in the batch. Which answer would be the later one? Record each "
                "example once."
            )
        if labels is not None and labels.device.type == "cpu":
            others = int((labels.numpy() != own[numbers]).sum())
            if others:
                raise other_labels(others)
    return at.long()


def columns(
    logits: Tensor,
    num_indices: int,
    num_classes: int,
    num_augmentations: int,
    augmentation: int | Tensor | None,
) -> Tensor:
    """Logits (b, C) of a batch, or (b, M, C) of all its views.

    Raises:
        RequestError: other shapes, or no such augmentation.
    """
    if num_classes == 2 and (logits.ndim == 1 or logits.shape[-1] == 1):
        logit = logits.unsqueeze(-1) if logits.ndim == 1 else logits
        logits = torch.cat([torch.zeros_like(logit), logit], -1)
    all_views = num_augmentations > 1 and augmentation is None
    views = (num_augmentations,) if all_views else ()
    expected = (num_indices, *views, num_classes)
    if logits.shape != expected:
        raise RequestError(
            f"logits has shape {tuple(logits.shape)}, expected {expected}."
            + (" Name the view, augmentation=, where not all came." if all_views else "")
        )
    outside = isinstance(augmentation, int) and not 0 <= augmentation < num_augmentations
    if outside or (isinstance(augmentation, Tensor) and augmentation.shape != (num_indices,)):
        raise RequestError(
            f"augmentation={augmentation}, expected one of 0 ... {num_augmentations - 1}, or (b,) "
            "of them."
        )
    return logits


def _out_of_range(num_examples: int, came: str) -> RequestError:
    """The error for indices that belong to no example, or to no view of it."""
    return RequestError(
        f"indices out of range: {came}, and there are {num_examples} examples. Give positions "
        f"0 ... {num_examples - 1} among the recorder's labels, and augmentations that it has."
    )


def other_labels(count: int) -> RequestError:
    """The error for labels that are not those of the recorder."""
    return RequestError(
        f"{count} labels are others than the recorder's of the same examples. Give labels and "
        "indices in one order; the recorder's labels are those that are trained on."
    )
