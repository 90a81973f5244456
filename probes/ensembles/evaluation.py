"""Evaluation: one pass over the logits of an ensemble, and what each example leaves of it.

No more of (K, N, C) is held at a time than a block of examples; all other modules go on from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from landscape.probes.arrays import ArrayLike, Bools, Floats, Ints, as_labels
from landscape.probes.ensembles.probabilities import Members, log_mean_exp
from landscape.probes.ensembles.proper_scores import brier_scores, fitting_labels, nll_scores

__all__ = ["Evaluation", "evaluate"]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What K members and their ensemble, the mean of their probabilities, say of N examples.

    Attributes:
        members: their logits.
        labels: (N,) classes.
        log_probability: (N, C) of the ensemble.
        member_classes: (K, N) predicted.
        member_confidence: (K, N) probabilities of these.
        member_nll: (K, N) losses in nats.
        member_brier: (K, N) sums over classes, from 0 to 2.
        mutual_information: (N,) mean of KL(member || ensemble) in nats.
        brier_gain: (N,) mean of ||p_k - p||^2.
        residual_products: (K, K) inner products of p_k - onehot(y) over all examples and classes.
    """

    members: Members
    labels: Ints
    log_probability: Floats
    member_classes: Ints
    member_confidence: Floats
    member_nll: Floats
    member_brier: Floats
    mutual_information: Floats
    brier_gain: Floats
    residual_products: Floats

    @property
    def num_members(self) -> int:
        return len(self.members)

    @property
    def num_examples(self) -> int:
        return len(self.labels)

    @cached_property
    def correct(self) -> Bools:
        """(N,) whether the ensemble is right."""
        return np.asarray(self.log_probability.argmax(1) == self.labels)

    @cached_property
    def confidence(self) -> Floats:
        """(N,) probability of the ensemble's class."""
        return np.asarray(np.minimum(np.exp(self.log_probability.max(1)), 1.0))

    @cached_property
    def nll(self) -> Floats:
        """(N,) the ensemble's loss in nats."""
        return nll_scores(self.log_probability, self.labels)

    @cached_property
    def brier(self) -> Floats:
        """(N,) the ensemble's Brier score."""
        return brier_scores(self.log_probability, self.labels)

    @property
    def member_correct(self) -> Bools:
        """(K, N) whether a member is right."""
        return np.asarray(self.member_classes == self.labels)


def evaluate(logits: ArrayLike | Members, labels: ArrayLike) -> Evaluation:
    """Look at every member and at the ensemble.

    Args:
        logits: (K, N, C), or as `Members.of` takes them.
        labels: (N,) classes.

    Raises:
        RequestError: logits or labels that do not fit.
    """
    classes = as_labels(labels, "labels")
    members = Members.of(logits, len(classes))
    fitting_labels(classes, members.num_examples, members.num_classes)
    shape = (len(members), len(classes))
    predicted = np.empty(shape, np.int64)
    confidence, nll, brier = np.empty(shape), np.empty(shape), np.empty(shape)
    information, spread = np.empty(len(classes)), np.empty(len(classes))
    products = np.zeros((len(members), len(members)))
    together = []
    for rows, logits_of_rows in members.blocks(copies=2 * len(members)):
        log_p = logits_of_rows.log_softmax(-1)
        mean = log_mean_exp(log_p)
        together.append(mean)
        wanted = torch.from_numpy(classes[rows]).expand(len(members), -1).unsqueeze(-1)
        top = log_p.max(-1)
        predicted[:, rows], confidence[:, rows] = top.indices.numpy(), top.values.exp().numpy()
        nll[:, rows] = -log_p.gather(-1, wanted).squeeze(-1).numpy()
        residuals = log_p.exp()
        information[rows] = (residuals * (log_p - mean)).sum(-1).mean(0).numpy()
        spread[rows] = (residuals - mean.exp()).square().sum(-1).mean(0).numpy()
        residuals.scatter_add_(-1, wanted, torch.full_like(wanted, -1.0, dtype=torch.float64))
        brier[:, rows] = residuals.square().sum(-1).numpy()
        flat = residuals.flatten(1)
        products += (flat @ flat.T).numpy()
    return Evaluation(
        members,
        classes,
        torch.cat(together).numpy(),
        predicted,
        np.minimum(confidence, 1.0),
        nll,
        brier,
        information,
        spread,
        products,
    )
