"""Measurements: what the logits of one example say of its label; `histories` keeps them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["MEASUREMENTS", "measurements"]

MEASUREMENTS = (
    "margin",
    "probability_margin",
    "log_odds",
    "probability",
    "el2n",
    "loss",
    "correct",
    "prediction",
)


def measurements(logits: Tensor, labels: Tensor) -> Tensor:
    """The numbers named in `MEASUREMENTS`, in that order, along a last dimension.

    - margin: z_y - max_{j != y} z_j, of logits;
    - probability_margin: p_y - max_{j != y} p_j;
    - log_odds: log p_y - log sum_{j != y} p_j, which does not saturate as p_y does;
    - probability: p_y;
    - el2n: ||p - onehot(y)||_2;
    - loss: -log p_y, in nats;
    - correct: whether prediction = y;
    - prediction: argmax_j z_j, of equal ones as `argmax` has it.

    A logit that is NaN or +inf, or a row of -inf, is no answer: it counts as wrong, its prediction
    is -1, and the rest is NaN.

    Args:
        logits: (..., C), C >= 2, of any precision.
        labels: (...,) int64, 0 ... C - 1.

    Returns:
        (..., 8) float64, without gradients, on the device of the logits.
    """
    logits = logits.detach().double()
    chosen = labels.unsqueeze(-1)
    # Not times 0: the other logits may all be negative.
    others = logits.scatter(-1, chosen, -torch.inf)
    true = logits.gather(-1, chosen).squeeze(-1)
    log_odds = true - others.logsumexp(-1)
    probabilities = logits.softmax(-1)
    probability = log_odds.sigmoid()
    other = probabilities.scatter(-1, chosen, -torch.inf).amax(-1)
    # 1 - p_y from the log-odds: the difference has no digits left where p_y is nearly 1.
    residuals = probabilities.scatter(-1, chosen, (-log_odds).sigmoid().unsqueeze(-1))
    found = torch.stack(
        [
            true - others.amax(-1),
            probability - other,
            log_odds,
            probability,
            residuals.norm(dim=-1),
            # -log sigmoid, exact at both ends.
            torch.logaddexp(-log_odds, torch.zeros_like(log_odds)),
        ],
        -1,
    )
    answered = ~probabilities.isnan().any(-1)
    prediction = logits.argmax(-1)
    verdict = torch.stack([answered & (prediction == labels), prediction], -1).double()
    verdict[..., 1] = verdict[..., 1].where(answered, -1.0)
    found = found.where(answered.unsqueeze(-1), torch.nan)
    return torch.cat([found, verdict], -1)
