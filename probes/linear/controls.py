"""Controls of a probe: random labels, and the features of a network that has learned nothing.

`layer_probes` puts them beside every number.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from landscape.batch_norm import Moments
from landscape.batches import preserved_rng
from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.arrays import ArrayLike, Ints, as_labels

__all__ = ["permuted_labels", "untrained", "untrained_point"]

_RESETS = ("reset_parameters", "_reset_parameters")  # the latter in attention and transformers
_LISTED = 4


def permuted_labels(labels: ArrayLike, *, seed: int | np.random.SeedSequence) -> Ints:
    """The labels (n,) in random order: the shares of the classes stay, all else is chance.

    A probe that fits them well has room for anything (its train accuracy is its capacity), and one
    that is right on others than it was fitted to has seen them.

    Source: Zhang et al. 2017, arXiv:1611.03530; Hewitt and Liang 2019, arXiv:1909.03368.
    """
    return np.random.default_rng(seed).permutation(as_labels(labels, "labels"))


def untrained(model: nn.Module, *, seed: int | np.random.SeedSequence) -> nn.Module:
    """A copy of the model with its weights drawn anew, by `reset_parameters` of every module.

    Modules are reset from the inside out, so that a module may change what its parts have drawn.
    Neither the model nor the global random generators are touched.

    Raises:
        RequestError: parameters that no module draws, by name: they would keep what was learned.
    """
    fresh = copy.deepcopy(model)
    sequence = seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
    places = (parameter.device for parameter in fresh.parameters())
    on_card = next((place for place in places if place.type == "cuda"), torch.device("cpu"))
    drawn = {name: held for name, held in fresh.named_parameters() if held.is_floating_point()}
    with preserved_rng(on_card), torch.no_grad():
        for parameter in drawn.values():
            parameter.fill_(torch.nan)  # what is still so at the end was not drawn
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]) >> 1)
        for module in reversed(list(fresh.modules())):
            reset = next((name for name in _RESETS if hasattr(module, name)), None)
            if reset is not None:
                getattr(module, reset)()
    kept = [name for name, parameter in drawn.items() if parameter.isnan().any()]
    if kept:
        listed = ", ".join(map(repr, kept[:_LISTED]))
        more = f" and {len(kept) - _LISTED} more" if len(kept) > _LISTED else ""
        raise RequestError(
            f"no reset_parameters() draws {listed}{more}, which would keep what was learned. "
            "Define it in their modules, or give the network before training: untrained=model."
        )
    return fresh


def untrained_point(objective: Objective, model: nn.Module) -> tuple[Tensor, dict[str, Tensor]]:
    """Where an objective is at the weights of another model of the same kind.

    BatchNorm's statistics are those of the objective's data at these weights, whatever the policy:
    the ones that a network starts with, 0 and 1, are of no data.

    Returns:
        theta (n,), and by name what stands beside it: buffers and parameters that are no
        coordinates.

    Raises:
        RequestError: parameters of other names or shapes.
    """
    ours = {**objective.space.named(objective.theta), **objective.constants, **objective.buffers}
    theirs = dict(model.named_parameters()) | dict(model.named_buffers())
    wrong = [name for name in ours if name not in theirs or theirs[name].shape != ours[name].shape]
    if wrong:
        raise RequestError(
            f"the untrained network has no {wrong[0]!r} of shape {tuple(ours[wrong[0]].shape)}: "
            "build it as the trained one was."
        )
    placed = {name: theirs[name].detach().to(held) for name, held in ours.items()}
    theta = objective.space.flatten(placed)
    beside = {name: placed[name] for name in (*objective.constants, *objective.buffers)}
    if objective.has_batch_norm:
        blocks = objective.space.split(theta)
        pooled: dict[str, Moments] = {}
        with objective.evaluation(), torch.no_grad():
            for batch in objective.batches:
                for name, moments in objective.moments(blocks, batch, beside).items():
                    pooled[name] = pooled[name] + moments if name in pooled else moments
        beside |= objective.statistics(pooled)
    return theta, beside
