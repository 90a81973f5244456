"""Optimizers for M networks at once: every rule acts on the rows of theta (M, P).

Each member has its own learning rate and weight decay. The rules and their defaults are those of
`torch.optim`; moving on a sphere is in `sphere`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from landscape.errors import RequestError, unknown_choice

__all__ = ["Optimizer", "State", "clip_rows"]

State = dict[str, Tensor]  # tensors (M, P) by name; empty before the first step

RULES = ("sgd", "adam", "adamw")


@dataclass(frozen=True)
class Optimizer:
    """How a gradient moves the weights; without state, so that one serves many runs.

    Attributes:
        rule: "sgd", "adam" (weight decay joins the gradient) or "adamw" (it shrinks the weights).
        momentum: of SGD, without dampening.
        nesterov: SGD with Nesterov's momentum.
        betas, eps: of Adam.
        clip: greatest norm of a member's gradient, before all else; None does not clip.
        noise: standard deviation of Gaussian noise, in units of sqrt(learning rate): with
            sqrt(2 T) SGD samples at temperature T (stochastic gradient Langevin dynamics).

    Source: the rules of torch.optim.SGD, Adam and AdamW; Welling and Teh 2011 for the noise.
    """

    rule: Literal["sgd", "adam", "adamw"] = "sgd"
    momentum: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise unknown_choice("optimizer", self.rule, RULES)
        if not 0 <= self.momentum < 1:
            raise RequestError(f"momentum={self.momentum} is not in [0, 1). Choose one such as .9.")
        if self.nesterov and not self.momentum:
            raise RequestError("nesterov needs a momentum above 0, such as momentum=0.9.")
        if self.clip is not None and not self.clip > 0:
            raise RequestError(f"clip={self.clip} is not above 0. Leave it out not to clip.")

    def step(
        self,
        theta: Tensor,
        gradient: Tensor,
        state: State,
        *,
        learning_rate: Tensor,
        weight_decay: Tensor | None = None,
    ) -> None:
        """Move theta (M, P) in place, and `state` with it.

        Args:
            gradient: (M, P); overwritten.
            learning_rate: (M, 1).
            weight_decay: (M, 1); None for none.
        """
        if self.clip is not None:
            clip_rows(gradient, self.clip)
        if weight_decay is not None and self.rule != "adamw":
            gradient.addcmul_(theta, weight_decay)
        if self.rule == "sgd":
            self._sgd(theta, gradient, state, learning_rate)
        else:
            if weight_decay is not None and self.rule == "adamw":
                theta.mul_(1 - learning_rate * weight_decay)
            self._adam(theta, gradient, state, learning_rate)

    def add_noise(self, theta: Tensor, learning_rate: Tensor, normal: Tensor) -> None:
        """Add Langevin noise, for standard normal numbers (M, P)."""
        theta.addcmul_(normal, learning_rate.sqrt(), value=self.noise)

    def _sgd(self, theta: Tensor, gradient: Tensor, state: State, learning_rate: Tensor) -> None:
        if self.momentum:
            if "momentum" in state:
                velocity = state["momentum"].mul_(self.momentum).add_(gradient)
            else:  # the first velocity is the gradient itself, as in torch
                velocity = state["momentum"] = gradient.clone()
            gradient = gradient.add_(velocity, alpha=self.momentum) if self.nesterov else velocity
        theta.addcmul_(gradient, learning_rate, value=-1)

    def _adam(self, theta: Tensor, gradient: Tensor, state: State, learning_rate: Tensor) -> None:
        if not state:
            state["mean"], state["square"] = torch.zeros_like(theta), torch.zeros_like(theta)
            state["count"] = torch.zeros((), dtype=torch.int64)
        first, second = self.betas
        state["count"] += 1
        count = int(state["count"])
        mean = state["mean"].lerp_(gradient, 1 - first)
        square = state["square"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
        scale = square.sqrt().div_((1 - second**count) ** 0.5).add_(self.eps)
        theta.addcmul_(mean / scale, learning_rate / (1 - first**count), value=-1)


def clip_rows(gradient: Tensor, limit: float) -> None:
    """Shrink in place each row (M, P) whose norm exceeds the limit, as `clip_grad_norm_` does."""
    norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
    gradient.mul_((limit / (norms + 1e-6)).clamp_(max=1))
