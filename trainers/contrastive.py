"""Contrastive learning: the loss on two views of each object, and who is recognized by its pair.

The views come from `augment`; `learnability` records over time what `contrastive_correct` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.trainers.examples import Examples, Outcomes
from landscape.trainers.gradients import Task
from landscape.trainers.stacking import Network, Stack

__all__ = [
    "chance_of_pair",
    "contrastive_correct",
    "contrastive_outcome",
    "nt_xent",
    "nt_xent_task",
]

_WORDS = 2**26  # numbers that the activations of one evaluation may take, roughly
_WIDENING = 16  # activations of a small network, in units of its input
_SHORTEST = 1e-12  # embedding that is brought to length 1, as in F.normalize


def nt_xent(first: Tensor, second: Tensor, temperature: float, ids: Tensor | None = None) -> Tensor:
    """Normalized temperature-scaled cross-entropy: each view has to find its pair.

    With z the embeddings on the unit sphere and s_ij = <z_i, z_j> / temperature, the mean over all
    2 B views i, with pair p(i), of

        log sum_{j != i} exp(s_ij) - s_ip(i).

    Args:
        first, second: (B, D) embeddings of two views of the same B objects; of any length, since
            only their directions count. An embedding 0 has similarity 0 to all.
        ids: (B,) which object each row is; an object that stands in the batch twice is no negative
            of itself. None: all differ.

    Source: Chen et al. 2020 (SimCLR), arXiv:2002.05709, equation 1.
    """
    size = len(first)
    views = _on_sphere(torch.cat([first, second]))  # (2 B, D)
    similarity = views @ views.T / temperature
    # A sum of exponentials as such overflows in float32 from 1 / temperature = 89 on.
    masked = similarity.masked_fill(_never(size, first.device, ids), -torch.inf)
    pairs = torch.cat([similarity.diagonal(size), similarity.diagonal(-size)])
    return (masked.logsumexp(1) - pairs).mean()


def nt_xent_task(temperature: float) -> Task:
    """The training loss for `Plan(task=..., views=2)`; targets are not looked at.

    Both views go through the network as one batch, which is what BatchNorm then sees.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise RequestError(
            f"temperature={temperature} is no finite number above 0. Choose one such as 0.07."
        )

    def task(network: Network, first: Tensor, second: Tensor, targets: Tensor) -> Tensor:
        one, other = network(torch.cat([first, second])).chunk(2)
        return nt_xent(one, other, temperature)

    return task


def contrastive_correct(first: Tensor, second: Tensor, ids: Tensor | None = None) -> Tensor:
    """Whether each first view is more similar to its own second view than to any other view.

    Args:
        first, second: (..., B, D) embeddings. The 2 B - 1 views other than itself are the
            candidates: the answer depends on who they are, so they should always be the same.
        ids: (B,) as for `nt_xent`.

    Returns:
        (..., B) bool. A tie is no recognition: of a network with constant output, nothing is
        correct. `chance_of_pair` says what guessing brings.
    """
    own, other = _own_and_others(first, second, ids)
    return own > other.amax(-1)


def chance_of_pair(num_candidates: int) -> float:
    """Accuracy of guessing one's pair among the other views of B objects: 1 / (2 B - 1)."""
    return 1 / (2 * num_candidates - 1)


def contrastive_outcome(
    temperature: float, num_augmentations: int, num_candidates: int
) -> Callable[[Stack, Examples], Outcomes]:
    """What the members of a stack make of fixed pairs of views, as `Plan.outcome`.

    The pairs are rows of `Examples`, inputs (K M, 2, ...), object by object with M augmentations
    each. For each augmentation, the first `num_candidates` objects are told from each other, then
    the next, and so on.

    Returns:
        A function whose `Outcomes` are, for each row: the loss of the first view; whether it is
        `contrastive_correct`; its similarity to its pair less the greatest other one (a cosine);
        the softmax probability of its pair.
    """

    def outcome(stack: Stack, examples: Examples) -> Outcomes:
        first, second = _embeddings(stack, examples.inputs)  # (N, K M, D)
        members, rows = first.shape[:2]
        objects = rows // num_augmentations
        if objects % num_candidates:
            raise RequestError(
                f"num_candidates={num_candidates} does not divide the {objects} objects: the last "
                "of them would have an easier task. Choose a divisor."
            )
        shape = (members, objects // num_candidates, num_candidates, num_augmentations)
        loss, margin = (first.new_empty(members, rows).view(shape) for _ in range(2))
        correct = torch.empty_like(loss, dtype=torch.bool)
        firsts, seconds = (part.reshape(*shape, first.shape[-1]) for part in (first, second))
        for group in range(objects // num_candidates):  # one at a time stays in the cache
            for which in range(num_augmentations):
                views = (part[:, group, :, which] for part in (firsts, seconds))  # (N, B, D)
                own, other = _own_and_others(*views)
                greatest = other.amax(-1)
                scaled = own / temperature
                everything = (other / temperature).logsumexp(-1).logaddexp(scaled)
                place = (slice(None), group, slice(None), which)
                loss[place] = everything - scaled
                correct[place] = own > greatest
                margin[place] = own - greatest
        flat = (values.view(members, rows) for values in (loss, correct, margin, (-loss).exp()))
        return Outcomes(*flat)

    return outcome


def _embeddings(stack: Stack, pairs: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings of both views by every member, (N, K M, D) each, in evaluation mode."""
    rows = max(1, _WORDS // (pairs[0].numel() * _WIDENING * len(stack)))
    with torch.no_grad(), stack.mode(training=False):
        parts = [stack(part.flatten(0, 1)) for part in torch.split(pairs, rows)]
    embeddings = torch.cat(parts, 1)  # (N, 2 K M, D), first and second by turns
    return embeddings[:, ::2], embeddings[:, 1::2]


def _own_and_others(
    first: Tensor, second: Tensor, ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines of first views with their pairs (..., B) and with all other views (..., B, 2 B).

    Those with itself, its pair and other copies of the same object are -infinity.
    """
    size = first.shape[-2]
    views = _on_sphere(torch.cat([first, second], -2))
    similarity = views[..., :size, :] @ views.mT  # (..., B, 2 B)
    own = similarity.diagonal(size, -2, -1)
    left_out = _never(size, first.device, ids)[:size]
    left_out = left_out | _shifted_diagonal(size, first.device)[:size]
    return own, similarity.masked_fill(left_out, -torch.inf)


def _never(size: int, device: torch.device, ids: Tensor | None) -> Tensor:
    """(2 B, 2 B) bool: the views with which a view is not compared, beside its pair."""
    if ids is None:
        return torch.eye(2 * size, dtype=torch.bool, device=device)
    twice = torch.cat([ids, ids])
    return (twice[:, None] == twice) & ~_shifted_diagonal(size, device)


def _shifted_diagonal(size: int, device: torch.device) -> Tensor:
    """(2 B, 2 B) bool: where the pairs are."""
    return torch.eye(2 * size, dtype=torch.bool, device=device).roll(size, 0)


def _on_sphere(vectors: Tensor) -> Tensor:
    """Each vector divided by its norm; 0 stays 0."""
    # Squares overflow from 1e19 on. A constant factor changes neither the direction nor, since the
    # direction does not depend on the length, its gradient.
    greatest = vectors.detach().abs().amax(-1, keepdim=True)
    scaled = vectors / torch.where(greatest == 0, 1, greatest.clamp(min=_SHORTEST))
    # The norm is 1 or more, but for vectors too short to have a direction.
    norms: Tensor = torch.linalg.vector_norm(scaled, dim=-1, keepdim=True).clamp(min=1)
    return scaled / norms
