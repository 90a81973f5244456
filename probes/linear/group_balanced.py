"""Group-balanced probes: every group counts the same, by weights or by refits on equal numbers.

Groups are those among which a shortcut would show, such as class x background.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.probes.arrays import ArrayLike
from landscape.probes.linear.fitting import linear_probe
from landscape.probes.linear.grid import LinearProbe
from landscape.probes.linear.labelled import as_classes, as_features
from landscape.probes.linear.sparse import sparse_probe

__all__ = ["GroupBalancedProbe", "Grouped", "group_balanced_probe"]

Balance = Literal["weights", "subsamples"]
Norm = Literal["l2", "l1"]
Grouped = tuple[ArrayLike, ArrayLike, ArrayLike]  # features, labels, groups

_BALANCES = ("weights", "subsamples")
_NORMS = ("l2", "l1")


@dataclass(frozen=True, kw_only=True, eq=False)
class GroupBalancedProbe:
    """Probes at P penalties that no group dominates. float64 unless said otherwise.

    Attributes:
        penalties: (P,) as they were given.
        classes: (C,) int64 labels in training.
        groups: (G,) int64 names of the groups in training.
        weights: (P, C, d) in the features' own units; means over the refits.
        intercept: (P, C).
        fits: the probes that were averaged; one with "weights".
        validation_accuracy: (P, G) of each group; NaN where it has no example; None without.
        test_accuracy: (P, G) likewise.
        chosen: () int64, the penalty of the best worst group in validation; None without.
    """

    penalties: Tensor
    classes: Tensor
    groups: Tensor
    weights: Tensor
    intercept: Tensor
    fits: tuple[LinearProbe, ...]
    validation_accuracy: Tensor | None = None
    test_accuracy: Tensor | None = None
    chosen: Tensor | None = None

    @property
    def worst_accuracy(self) -> Tensor:
        """(P,) test accuracy of each penalty's worst group.

        Raises:
            RequestError: without test.
        """
        if self.test_accuracy is None:
            raise RequestError("no test was given: pass test=(features, labels, groups).")
        return _worst(self.test_accuracy)


def group_balanced_probe(
    features: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    penalties: ArrayLike,
    *,
    validation: Grouped | None = None,
    test: Grouped | None = None,
    balance: Balance = "weights",
    norm: Norm = "l2",
    refits: int = 10,
    standardize: bool = True,
    seed: int = 0,
) -> GroupBalancedProbe:
    """Fit so that each group has the same say.

    "weights" gives each group the same total weight. "subsamples" draws as many examples of each
    group as the smallest has, anew for each of the refits, and averages their weights.

    Args:
        features: (n, d).
        labels: (n,) integers.
        groups: (n,) integers; each value that occurs is a group.
        penalties: (P,), see `linear_probe`, or `sparse_probe` with norm "l1".
        validation: (features, labels, groups), by whose worst group the penalty is chosen.
        test: the same, scored and deciding nothing.
        refits: of "subsamples"; "weights" has nothing to draw.
        standardize: by the moments of the examples that each fit is made on.
        seed: of the subsamples.

    Raises:
        RequestError: as those two; a subsample with a single class; no refit.

    Source: deep feature reweighting, Kirichenko, Izmailov and Wilson 2023, arXiv:2204.02937, which
    is "subsamples" with "l1".
    """
    if balance not in _BALANCES:
        raise unknown_choice("balance", balance, _BALANCES)
    if norm not in _NORMS:
        raise unknown_choice("norm", norm, _NORMS)
    if refits < 1:
        raise RequestError(f"refits={refits}, expected 1 or more.")
    held, own_labels, own_groups = _grouped((features, labels, groups), "training")
    names, positions, counts = torch.unique(own_groups, return_inverse=True, return_counts=True)
    fit = linear_probe if norm == "l2" else sparse_probe
    if balance == "weights":
        weights = 1 / counts.double()[positions]
        fits = [fit(held, own_labels, penalties, sample_weights=weights, standardize=standardize)]
    else:
        fits = [
            fit(held[rows], own_labels[rows], penalties, standardize=standardize)
            for rows in _subsamples(positions, int(counts.min()), refits, seed)
        ]
    probes = []
    for found in fits:
        assert isinstance(found, LinearProbe)
        probes.append(found)
    mean = torch.stack([probe.weights for probe in probes]).mean(0)
    intercept = torch.stack([probe.intercept for probe in probes]).mean(0)
    scores = {
        name: _by_group(mean, intercept, probes[0].classes, names, _grouped(part, name))
        for name, part in (("validation", validation), ("test", test))
        if part is not None
    }
    validated = scores.get("validation")
    return GroupBalancedProbe(
        penalties=probes[0].penalties,
        classes=probes[0].classes,
        groups=names,
        weights=mean,
        intercept=intercept,
        fits=tuple(probes),
        validation_accuracy=validated,
        test_accuracy=scores.get("test"),
        chosen=None if validated is None else _chosen(validated, probes[0].penalties),
    )


def _grouped(part: Grouped, name: str) -> tuple[Tensor, Tensor, Tensor]:
    if len(part) != 3:
        raise RequestError(f"{name} has {len(part)} parts, expected (features, labels, groups).")
    features = as_features(part[0], f"{name} features")
    labels = as_classes(part[1], f"{name} labels")
    groups = as_classes(part[2], f"{name} groups")
    if not len(features) or len({len(features), len(labels), len(groups)}) > 1:
        raise RequestError(
            f"{name} has {len(features)} rows of features, {len(labels)} labels and {len(groups)} "
            "groups: give a label and a group for each row, and at least one row."
        )
    return features, labels, groups


def _subsamples(positions: Tensor, size: int, refits: int, seed: int) -> list[Tensor]:
    members = [
        (positions == group).nonzero().flatten().numpy()
        for group in range(int(positions.max()) + 1)
    ]
    found = []
    for child in np.random.SeedSequence(seed).spawn(refits):
        generator = np.random.default_rng(child)
        drawn = [generator.choice(group, size, replace=False) for group in members]
        found.append(torch.from_numpy(np.sort(np.concatenate(drawn))))
    return found


def _by_group(
    weights: Tensor,
    intercept: Tensor,
    classes: Tensor,
    names: Tensor,
    part: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    features, labels, groups = part
    accuracy = weights.new_full((len(weights), len(names)), torch.nan)
    unknown = set(groups.tolist()) - set(names.tolist())
    if unknown:
        raise RequestError(
            f"groups {sorted(unknown)} occur that training does not have: expected some of "
            f"{names.tolist()}."
        )
    for penalty, (own, offset) in enumerate(zip(weights, intercept, strict=True)):
        logits = torch.addmm(offset, features.double(), own.T)
        right = classes[logits.argmax(1)] == labels
        for position, name in enumerate(names.tolist()):
            members = groups == name
            if members.any():
                accuracy[penalty, position] = right[members].double().mean()
    return accuracy


def _worst(accuracy: Tensor) -> Tensor:
    return accuracy.nan_to_num(torch.inf).amin(1)


def _chosen(accuracy: Tensor, penalties: Tensor) -> Tensor:
    worst, mean = _worst(accuracy).tolist(), accuracy.nanmean(1).tolist()
    ranks = list(zip(worst, mean, penalties.tolist(), strict=True))
    return torch.tensor(max(range(len(ranks)), key=ranks.__getitem__))
