"""What must hold exactly: copies with reordered units, identical ends, convex models.

`paths` prints these beside the seconds; `path_connectivity` has what holds by measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.path_cases import trained
from benchmarks.slice_checks import Check
from benchmarks.slices import Target
from benchmarks.table import plain_table
from landscape.alignment.aligning import Alignment, align
from landscape.alignment.symmetries import permutation_spec
from landscape.merging.repair import repair
from landscape.objective import Objective
from landscape.paths.barrier import barrier
from landscape.paths.heights import DEFINITIONS
from landscape.similarity.comparing import compare
from landscape.trainers.data import digits
from landscape.trainers.models import mlp, resnet8, vit

__all__ = ["Copy", "exactness", "reordered_copy"]

_IMAGES, _BATCH = 240, 100  # the last batch is smaller
_STEPS = 30  # of training: biases and running statistics are no longer those of a new network
_POINTS = 11
_CONVEX_PAIRS = 100
_EXACT = 1e-10
_ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class Copy:
    """A network whose units were put in a random order, and brought back by weight matching.

    Attributes:
        theta: (n,) the reordered copy.
        difference: greatest of a weight or a running statistic from the original.
    """

    theta: Tensor
    alignment: Alignment
    difference: float


def reordered_copy(objective: Objective, seed: int) -> Copy:
    """Of the objective's own network."""
    spec = permutation_spec(objective)
    drawn = spec.random(seed)
    theta = objective.space.flatten(spec.apply(objective.space.named(objective.theta), drawn))
    buffers = spec.apply(objective.buffers, drawn)
    found = align(objective, objective.theta, theta, buffers=buffers)
    differences = [(found.theta - objective.theta).abs().max()]
    differences += [
        (found.buffers[name] - own).abs().max()
        for name, own in objective.buffers.items()
        if own.is_floating_point()
    ]
    return Copy(theta, found, float(torch.stack(differences).max()))


def exactness() -> tuple[list[Check], list[Target]]:
    """All checks, on small networks in float64; the worst number of each."""
    checks = [*_copies(), *_identical(), _convex()]
    rows = [(check.claim, f"{check.measured:.1e}", f"{check.bound:.0e}") for check in checks]
    print("\n" + plain_table(("exactness", "measured", "at most"), rows), flush=True)
    return checks, [Target.of(c.claim, f"{c.measured:.1e}", c.holds) for c in checks]


# -- the networks --------------------------------------------------------------------------------


def _vgg() -> nn.Module:
    """Convolutions and poolings, flattened for linear layers; no normalization."""
    return nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(16 * 4, 32), nn.ReLU(), nn.Linear(32, 10)),
    )


_NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "MLP": lambda: mlp(64, (32, 32, 32), 10),
    "VGG-like net": _vgg,
    "ResNet-8 with BatchNorm": lambda: resnet8(10, 8, 1),
    "transformer": lambda: vit(8, 4, 1, dim=16, depth=2, heads=2),
}


def _objective(make: Callable[[], nn.Module]) -> Objective:
    inputs, labels = (tensor[:_IMAGES] for tensor in digits("train"))
    model = trained(make, inputs, labels, seed=0, steps=_STEPS).double()
    return Objective(model, (inputs.double(), labels), batch_size=_BATCH)


# -- the checks ----------------------------------------------------------------------------------


def _copies() -> list[Check]:
    found = []
    for name, make in _NETWORKS.items():
        objective = _objective(make)
        copy = reordered_copy(objective, seed=1)
        share = copy.alignment.moved_share
        claim = f"{name}: a copy, {share:.0%} of its units moved, is recovered, difference"
        found.append(Check(claim, copy.difference, 0.0))
        before, after = (
            abs(barrier(objective, objective.theta, theta, _POINTS, refine=False).value)
            for theta in (copy.theta, copy.alignment.theta)
        )
        claim = f"{name}: barrier to the recovered copy, before {before:.2g}"
        found.append(Check(claim, after, _EXACT))
    return found


def _identical() -> list[Check]:
    """The largest of all networks."""
    worst: dict[str, float] = {}
    for make in _NETWORKS.values():
        objective = _objective(make)
        for name, measured in _of_identical_ends(objective).items():
            worst[name] = max(worst.get(name, 0.0), measured)
    bounds = {"1 - CKA": _ROUNDING}
    return [
        Check(f"identical ends: {name}", measured, bounds.get(name, 0.0))
        for name, measured in worst.items()
    ]


def _of_identical_ends(objective: Objective) -> dict[str, float]:
    theta = objective.theta
    line = barrier(objective, theta, theta.clone(), _POINTS)
    heights = [
        abs(profile.heights[definition].value)
        for profile in line.profiles.values()
        for definition in DEFINITIONS
        if definition != "saddle"  # the highest value itself
    ]
    alike = compare(objective, theta, theta.clone())
    mended = repair(objective, theta, theta.clone())
    return {
        "barrier, any definition, loss and error": max(heights),
        "1 - CKA": abs(1 - alike.value("cka")),
        "disagreement": alike.value("disagreement"),
        "REPAIR, difference of a weight": float((mended.theta - theta).abs().max()),
    }


def _convex() -> Check:
    """Softmax regression is convex in its weights: no line rises above its chord."""
    objective = _objective(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))
    generator = torch.Generator().manual_seed(0)
    shape = (_CONVEX_PAIRS, 2, objective.space.size)
    pairs = torch.randn(shape, generator=generator, dtype=torch.float64)
    rises = [barrier(objective, a, b, _POINTS, refine=False).value for a, b in pairs]
    claim = f"convex model: greatest barrier of {_CONVEX_PAIRS} pairs"
    return Check(claim, max(map(abs, rises)), _ROUNDING)
