"""Learnability: which training objects many copies of a network get right, and when.

Here stands what the recipes record: fixed views of some objects, and r_t. The loss and the
recognition of contrastive training are in `contrastive`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from landscape.errors import RequestError
from landscape.factory import JSON
from landscape.trainers.examples import Examples
from landscape.trainers.orders import child_seed
from landscape.trainers.training import Augment, Trained

__all__ = ["FixedViews", "child_seeds", "fixed_views", "learnability", "require_one_label"]

_OBJECTS, _AUGMENTATIONS, _COPIES = 16, 17, 18  # purposes of child seeds


@dataclass(frozen=True)
class FixedViews:
    """K training objects under M augmentations each, the same for all copies at all times.

    Attributes:
        objects: (K,) indices among the training examples, increasing, each once.
        num_augmentations: M.
        examples: K M rows, object by object: row k M + m is object k under augmentation m. Inputs
            (K M, ...), or (K M, 2, ...) where a row is a pair of views.
    """

    objects: Tensor
    num_augmentations: int
    examples: Examples

    @property
    def labels(self) -> Tensor:
        """(K,) target of each object, as it was trained on."""
        return self.examples.targets[:: self.num_augmentations]


def child_seeds(seed: int, count: int) -> list[int]:
    """Seeds of the copies: of initial weights, batches and augmentations."""
    return [child_seed(seed, _COPIES, index) >> 1 for index in range(count)]


def require_one_label(examples: Examples) -> None:
    """Raise RequestError where an example has many targets, as a text has one a position."""
    if examples.targets[:1].numel() != 1:
        raise RequestError(
            f"each example has {examples.targets[:1].numel()} targets, and what is asked here is "
            "whether an example is correct. Choose data with one label each, such as digits."
        )


def fixed_views(
    train: Examples,
    augment: Augment,
    *,
    num_uniforms: int,
    num_objects: int,
    num_augmentations: int,
    views: int = 1,
    seed: int,
) -> FixedViews:
    """Draw objects without replacement, and their augmentations once and for all.

    Args:
        train: examples that all copies share.
        num_uniforms: that `augment` takes; with none, all augmentations would be the same one, and
            one is made.
        views: 2 makes each row a pair of views, for contrastive training.

    Raises:
        RequestError: more objects than there are examples, or examples with many targets.
    """
    require_one_label(train)
    if not 1 <= num_objects <= len(train):
        raise RequestError(
            f"num_objects={num_objects} is not in 1 ... {len(train)}, the number of training "
            f"examples. Choose {min(256, len(train))}, for example."
        )
    if num_uniforms == 0:
        num_augmentations = 1
    device = train.inputs.device
    generator = torch.Generator("cpu").manual_seed(child_seed(seed, _OBJECTS))
    shuffled = torch.randperm(len(train), generator=generator, device="cpu")
    objects = shuffled[:num_objects].sort().values
    generator.manual_seed(child_seed(seed, _AUGMENTATIONS))
    shape = (num_objects * num_augmentations, views, num_uniforms)
    uniforms = torch.rand(shape, generator=generator, device="cpu").to(device)
    rows = objects.to(device).repeat_interleave(num_augmentations)
    inputs = train.inputs[rows]
    seen = torch.stack([augment(inputs, uniforms[:, view]) for view in range(views)], 1)
    examples = Examples(seen if views > 1 else seen[:, 0], train.targets[rows])
    return FixedViews(objects, num_augmentations, examples)


def learnability(
    trained: Trained,
    views: FixedViews,
    evaluation: str,
    names: Sequence[str],
    *,
    chance: float,
    steps_per_epoch: int,
    settings: Mapping[str, JSON] | None = None,
) -> xr.Dataset:
    """What was recorded in evaluation mode on fixed views, and its means.

    Args:
        trained: of a plan that evaluates and records the views.
        evaluation: their name there.
        names: of the copies.
        chance: accuracy of guessing.
        settings: what else tells how this came to be, such as the augmentation's name.

    Returns:
        `correct` (time, member, object, augmentation) int8; its means `view_learnability` over
        members, `learnability` over members and augmentations (the r_t of the source), and
        `mean_learnability` over all; `label` (object); `diverged` (member), which are counted in
        the means as their wrong answers are.

    Source: Sadrtdinov et al. 2021, arXiv:2107.10143 (memorization in contrastive learning).
    """
    outcomes = trained.outcomes[evaluation]["correct"]  # (T, N, K M)
    shape = (*outcomes.shape[:2], len(views.objects), views.num_augmentations)
    correct = outcomes.reshape(shape)
    times = trained.steps
    diverged = ~trained.stack.theta.isfinite().all(1).cpu().numpy()
    shares = {
        "view_learnability": (("time", "object", "augmentation"), correct.mean(1)),
        "learnability": (("time", "object"), correct.mean((1, 3))),
        "mean_learnability": (("time",), correct.mean((1, 2, 3))),
    }
    meanings = {
        "view_learnability": "share of copies that are correct on one view",
        "learnability": "share of copies and augmentations that are correct: r_t",
        "mean_learnability": "mean of r_t over the objects",
    }
    return xr.Dataset(
        {
            "correct": (
                ("time", "member", "object", "augmentation"),
                correct.astype(np.int8),
                {"units": "1", "long_name": "whether a copy is correct on a view"},
            ),
            **{
                name: (dims, values, {"units": "1", "long_name": meanings[name]})
                for name, (dims, values) in shares.items()
            },
            "label": ("object", views.labels.flatten().cpu().numpy(), {"units": "1"}),
            "diverged": ("member", diverged.astype(np.int8), {"units": "1"}),
        },
        {
            "step": ("time", times, {"units": "1", "long_name": "training steps done"}),
            "epoch": ("time", times / steps_per_epoch, {"units": "1", "long_name": "epochs done"}),
            "member": ("member", list(names)),
            "object": ("object", views.objects.numpy(), {"long_name": "training example"}),
            "augmentation": ("augmentation", np.arange(views.num_augmentations)),
        },
        {"chance": chance, "mode": "evaluation", **(settings or {})},
    )
