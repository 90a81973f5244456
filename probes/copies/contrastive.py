"""Contrastive correctness of a network of one's own: which views find their pair in a batch.

The recipe `simclr` records the same over time; `trainers.contrastive` holds the definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from landscape.errors import RequestError, unknown_choice
from landscape.probes.arrays import ArrayLike, Bools, Floats, as_labels
from landscape.trainers.contrastive import chance_of_pair, contrastive_correct
from landscape.trainers.stacking import Stack

__all__ = ["Embedding", "Remainder", "SimclrCorrectness", "simclr_correctness"]

Embedding = Callable[[Tensor], Tensor]  # views (n, ...) -> (n, D)
Remainder = Literal["refuse", "drop"]

_WORDS = 2**26  # numbers that the activations of one evaluation may take, roughly
_WIDENING = 16  # activations of a small network, in units of its input


@dataclass(frozen=True, eq=False)
class SimclrCorrectness:
    """Who was recognized among whom.

    Attributes:
        correct: (N, K, M) bool, of N networks; one moment of `Copies`.
        chance: mean over the objects of `chance_of_object`; the accuracy of guessing.
        chance_of_object: (K,) 1 / (2 B - 1) for a batch of B different objects; more where an
            object stands in its batch several times, since those views are no candidates.
        batch_size: B. Accuracies for other batch sizes are answers to other questions.
        num_objects: K, that were counted.
        num_dropped: objects at the end that did not fill a batch.
    """

    correct: Bools
    chance: float
    chance_of_object: Floats
    batch_size: int
    num_objects: int
    num_dropped: int


def simclr_correctness(
    model: nn.Module | Stack | Embedding,
    pairs: Tensor,
    *,
    batch_size: int,
    ids: ArrayLike | None = None,
    remainder: Remainder = "refuse",
) -> SimclrCorrectness:
    """Whether each first view is nearer to its own second view than to all others of its batch.

    The candidates of an object are fixed: objects 0 ... B - 1 are told from each other, then the
    next B, for each augmentation by itself. So the answers depend on nothing but weights and pairs.

    Args:
        model: an `nn.Module` or a `Stack`, run in evaluation mode and put back; or any function of
            a batch of views, which has to see to its own mode.
        pairs: (K, M, 2, ...) views, drawn once, such as those of `fixed_views(..., views=2)`.
        batch_size: B, 2 or more.
        ids: (K,) which object each one is, where some occur several times: such are no negatives
            of each other.
        remainder: objects that do not fill the last batch have an easier task. "refuse" raises,
            "drop" leaves them out and counts them.

    Raises:
        RequestError: pairs of another shape, a batch larger than K, a remainder, or embeddings
            that are not (n, D). Those that are not finite recognize nothing.

    Source: Sadrtdinov et al. 2021, arXiv:2107.10143; Chen et al. 2020, arXiv:2002.05709.
    """
    if remainder not in get_args(Remainder):
        raise unknown_choice("remainder", remainder, get_args(Remainder))
    if pairs.ndim < 4 or pairs.shape[2] != 2 or not pairs.numel():
        raise RequestError(
            f"pairs has shape {tuple(pairs.shape)}, expected (K, M, 2, ...): two views of each "
            "object under each augmentation. For one augmentation give pairs[:, None]."
        )
    given = len(pairs)
    if not 2 <= batch_size <= given:
        raise RequestError(f"batch_size={batch_size}, expected 2 ... {given}, the objects.")
    left = given % batch_size
    if left and remainder == "refuse":
        raise RequestError(
            f"batch_size={batch_size} leaves {left} of {given} objects for a smaller batch, which "
            'is an easier task. Choose a divisor, or give remainder="drop".'
        )
    counted = given - left
    numbers = torch.arange(given) if ids is None else torch.from_numpy(as_labels(ids, "ids"))
    if len(numbers) != given:
        raise RequestError(f"ids has {len(numbers)} entries, expected {given}, one an object.")
    correct, chance = [], []
    with _embedding_of(model) as embed, torch.no_grad():
        for start in range(0, counted, batch_size):
            part = slice(start, start + batch_size)
            own = numbers[part]
            correct.append(_recognized(embed, pairs[part], own))
            times = (own[:, None] == own).sum(1).tolist()
            chance += [chance_of_pair(batch_size - many + 1) for many in times]
    return SimclrCorrectness(
        correct=torch.cat(correct, 1).cpu().numpy(),
        chance=float(np.mean(chance)),
        chance_of_object=np.array(chance),
        batch_size=batch_size,
        num_objects=counted,
        num_dropped=left,
    )


def _recognized(embed: Embedding, pairs: Tensor, ids: Tensor) -> Tensor:
    """(N, B, M) for the pairs (B, M, 2, ...) of one batch."""
    found = []
    for augmentation in range(pairs.shape[1]):
        views = pairs[:, augmentation].transpose(0, 1).flatten(0, 1)  # first views, then second
        embeddings = embed(views)  # (N, 2 B, D)
        if embeddings.ndim != 3 or embeddings.shape[1] != len(views):
            raise RequestError(
                f"{len(views)} views have embeddings of shape {tuple(embeddings.shape[1:])}, "
                f"expected ({len(views)}, D). Flatten them."
            )
        first, second = embeddings.chunk(2, 1)
        found.append(contrastive_correct(first, second, ids.to(embeddings.device)))
    return torch.stack(found, -1)


@contextmanager
def _embedding_of(model: nn.Module | Stack | Embedding) -> Iterator[Embedding]:
    """Embeddings (N, n, D) by each network, in evaluation mode where there is one."""
    if isinstance(model, Stack):
        with model.mode(training=False):
            yield lambda views: torch.cat([model(rows) for rows in _split(views, len(model))], 1)
    elif isinstance(model, nn.Module):
        before = {module: module.training for module in model.modules()}
        model.eval()
        try:
            yield lambda views: torch.cat([model(rows) for rows in _split(views, 1)])[None]
        finally:
            for module, was in before.items():
                module.training = was
    else:
        yield lambda views: model(views)[None]


def _split(views: Tensor, networks: int) -> tuple[Tensor, ...]:
    rows = max(1, _WORDS // (views[0].numel() * _WIDENING * networks))
    return torch.split(views, rows)
