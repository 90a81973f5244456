"""Multi-view: each example shows its class in several features, each of which would suffice.

A feature is a point of one of the `shapes`. `prototypes` has classes with one view only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.trainers.data.shapes import Shape, shape_named

__all__ = ["MultiView", "multi_view", "single_feature_sets", "ticks"]

_SIZES = {"train": 512, "validation": 2000, "test": 2000}
_WIDEST = 0.9  # of the margin that leaves nothing: beyond it rejection takes for ever


@dataclass(frozen=True)
class MultiView:
    """Examples of two classes, and which of their features tell the class.

    Attributes:
        inputs: (n, 2 F) float32: feature k is (x1, x2) = inputs[:, 2 k : 2 k + 2].
        targets: (n,) int64, 0 or 1.
        separable: (n, F) bool: False where the feature lies on the boundary, and tells nothing.
    """

    inputs: Tensor
    targets: Tensor
    separable: Tensor


def multi_view(
    split: Literal["train", "validation", "test"] = "train",
    seed: int = 0,
    num_examples: int | None = None,
    num_features: int = 16,
    margin: float = 0.1,
    utility: float | Sequence[float] = 1.0,
    label_swap: float = 0.0,
    shape: str = "tick",
) -> MultiView:
    """Examples whose class is Bernoulli(1/2) and shows in each feature that is separable.

    Args:
        seed: each split draws from a child of its own, so that they share nothing.
        num_examples: 512 for train and 2,000 for the others if not given.
        margin: distance of a separable point from the boundary, perpendicular to it.
        utility: p_k, one for each feature or one for all: int(p_k n) examples, drawn without
            replacement, have feature k separable; in the others it lies on the boundary.
        label_swap: share of the examples whose feature shows the other class. In each feature on
            its own, as many of one class as of the other; in the train split only.
        shape: "tick", "circles", "sectors", "stripe", "diamond", "peaks", "cross" or "union_jack".

    Raises:
        RequestError: no such split or shape, or a number out of range.

    Source: Sadrtdinov et al. 2024, arXiv:2410.22113, synthetic experiment.
    """
    if split not in _SIZES:
        raise unknown_choice("split", split, _SIZES)
    size = _SIZES[split] if num_examples is None else num_examples
    region = _checked(seed, size, num_features, margin, shape)
    shares = _shares(utility, num_features)
    if not 0 <= label_swap <= 1:
        raise RequestError(
            f"label_swap={label_swap} is not in 0 ... 1. Choose a share such as 0.1."
        )
    child = np.random.SeedSequence(seed).spawn(len(_SIZES))[list(_SIZES).index(split)]
    generator = np.random.default_rng(child)
    targets = generator.random(size) < 0.5
    separable = np.zeros((size, num_features), dtype=bool)
    for feature, share in enumerate(shares):
        # Without the tiny addition, int(0.29 * 100) is 28.
        chosen = generator.permutation(size)[: int(share * size + 1e-9)]
        separable[chosen, feature] = True
    shown = np.repeat(targets[:, None], num_features, 1)
    if split == "train" and label_swap > 0:
        # Features of equal distribution: to draw them for the other class is to exchange them.
        members = [np.flatnonzero(targets == label) for label in (False, True)]
        pairs = min(int(label_swap * size / 2 + 1e-9), *(len(group) for group in members))
        for feature in range(num_features):
            for group in members:
                swapped = generator.permutation(group)[:pairs]
                shown[swapped, feature] = ~shown[swapped, feature]
    return MultiView(
        inputs=_points(region, generator, shown, separable, margin),
        targets=torch.from_numpy(targets.astype(np.int64)),
        separable=torch.from_numpy(separable),
    )


def ticks(
    split: Literal["train", "validation", "test"] = "train",
    seed: int = 0,
    num_examples: int | None = None,
    num_features: int = 16,
    margin: float = 0.1,
    utility: float | Sequence[float] = 1.0,
    label_swap: float = 0.0,
    shape: str = "tick",
) -> tuple[Tensor, Tensor]:
    """Inputs (n, 2 F) float32 and targets (n,) int64 of `multi_view`, which says what they are."""
    drawn = multi_view(split, seed, num_examples, num_features, margin, utility, label_swap, shape)
    return drawn.inputs, drawn.targets


def single_feature_sets(
    seed: int,
    num_features: int = 16,
    num_examples: int = 1000,
    margin: float = 0.1,
    shape: str = "tick",
) -> tuple[Tensor, Tensor]:
    """A test set for each feature, in which all others lie on the boundary.

    The accuracy of a network on set k tells how much it uses feature k.

    Args:
        seed: of the data that the network saw; set k draws from SeedSequence((seed, k)), so that a
            set does not depend on how many there are.

    Returns:
        inputs: (F, n, 2 F) float32.
        targets: (F, n) int64.

    Raises:
        RequestError: no such shape, or a number out of range.
    """
    region = _checked(seed, num_examples, num_features, margin, shape)
    inputs, targets = [], []
    for feature in range(num_features):
        generator = np.random.default_rng(np.random.SeedSequence((seed, feature)))
        classes = generator.random(num_examples) < 0.5
        separable = np.zeros((num_examples, num_features), dtype=bool)
        separable[:, feature] = True
        shown = np.repeat(classes[:, None], num_features, 1)
        inputs.append(_points(region, generator, shown, separable, margin))
        targets.append(torch.from_numpy(classes.astype(np.int64)))
    return torch.stack(inputs), torch.stack(targets)


def _points(
    region: Shape,
    generator: np.random.Generator,
    shown: npt.NDArray[np.bool_],
    separable: npt.NDArray[np.bool_],
    margin: float,
) -> Tensor:
    """Points of the classes that are shown (n, F), or of the boundary: (n, 2 F)."""
    points = np.empty((*shown.shape, 2))
    points[separable] = region.sample(generator, shown[separable], margin)
    points[~separable] = region.boundary(generator, int((~separable).sum()))
    return torch.from_numpy(points.reshape(len(shown), -1).astype(np.float32))


def _checked(seed: int, size: int, num_features: int, margin: float, shape: str) -> Shape:
    region = shape_named(shape)
    if seed < 0:
        raise RequestError(f"seed={seed} is negative. Choose 0 or more.")
    if size < 1:
        raise RequestError(f"num_examples={size} draws nothing. Choose 1 or more.")
    if num_features < 1:
        raise RequestError(f"num_features={num_features} shows no class. Choose 1 or more.")
    highest = _WIDEST * region.widest
    if not 0 <= margin <= highest:
        raise RequestError(
            f"margin={margin} is not in 0 ... {highest:.3g}, for which {shape!r} has room. "
            "Choose one such as 0.1."
        )
    return region


def _shares(utility: float | Sequence[float], num_features: int) -> list[float]:
    shares = (
        [float(utility)] * num_features
        if isinstance(utility, (int, float))
        else [float(share) for share in utility]
    )
    if len(shares) != num_features:
        raise RequestError(
            f"utility has {len(shares)} shares for {num_features} features. Give one for each, or "
            "one number for all."
        )
    if not all(0 <= share <= 1 for share in shares):
        raise RequestError(f"utility={utility} is not in 0 ... 1. Give shares such as 0.5.")
    return shares
