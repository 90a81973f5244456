"""SPRO: a simplex of low loss around model 1, and members drawn from it.

Vertices are added one after another, the earlier ones fixed. A new vertex minimises the loss at
points of the simplex, one drawn uniformly at every step, less `volume_weight` times the logarithm
of the simplex's volume, which pushes it outwards. The simplex is a network of its own here: its
trained weights are the new vertex, its buffers the earlier ones.

Claim, with the defaults (as in `deep_ensemble`), mean and standard error over 5 seeds: the ensemble
reaches 93.8 % (0.1) test accuracy at diversity 0.10 (0.02) and barriers of 0; model 1 has 93.6
(0.2). At volume_weight 0.001 it has 93.9 (0.1), its members half as far from model 1.

Source: Benton et al. 2021, arXiv:2102.13042.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from landscape.parameters import ParameterSpace
from landscape.trainers.averaging import recalibrated
from landscape.trainers.examples import loss_task
from landscape.trainers.gradients import Task
from landscape.trainers.making import Making, Member
from landscape.trainers.options import option
from landscape.trainers.orders import child_seed
from landscape.trainers.stacking import Network, concatenated, stack
from landscape.trainers.transfer import CYCLES, SAMPLES, CycleOptions, transfer

__all__ = ["Options", "Simplex", "log_volume", "run", "simplex_task"]


@dataclass(frozen=True)
class Options(CycleOptions):
    lr_ratio: float = option(1.0, "rate of a vertex, in units of fine-tuning's", above=0)
    epoch_ratio: float = option(1.0, "length of a vertex's training, in the same units", above=0)
    num_vertices: int = option(4, "of the simplex, model 1 included", low=2)
    volume_weight: float = option(0.1, "factor on the logarithm of the volume, in nats", low=0)
    spread: float = option(0.1, "first offset of a vertex, in units of model 1's norm", above=0)


def run(options: Options, make: Making) -> None:
    ground = transfer(options, make)
    model_1 = ground.fine_tuned([0])
    problem, device = ground.problem, model_1.theta.device
    vertices, buffers = model_1.theta, model_1
    seeds = ground.seeds(CYCLES, options.num_vertices - 1)
    for index, seed in enumerate(seeds, start=2):
        # Not in the simplex's own plane, where the volume is 0 and its logarithm has no slope.
        generator = torch.Generator("cpu").manual_seed(child_seed(seed, 0))
        offset = torch.randn(vertices.shape[1], generator=generator, device="cpu").to(vertices)
        offset *= options.spread * vertices[0].norm() / offset.norm()
        beginning = buffers.at((vertices.mean(0) + offset)[None])
        simplex = stack([Simplex(beginning.member(0), vertices)])
        plan = ground.plan([seed], rate=options.cycle_rate, epochs=options.cycle_epochs)
        plan = replace(plan, task=simplex_task(problem.loss, options.volume_weight))
        name = f"vertex-{index}"
        trained = ground.fit(name, simplex, plan, [name])
        vertices = torch.cat([vertices, trained.stack.theta])
    corners = recalibrated(
        model_1.select([0] * len(vertices)).at(vertices), problem.train, problem.loss
    )
    make.keep(
        [Member(f"vertex-{i + 1}", "vertex", options.seed) for i in range(len(vertices))],
        corners,
        problem,
    )
    volume = float(log_volume(vertices.double()))
    make.note(f"log volume of the simplex of {len(vertices)} vertices: {volume:.3f}")
    count = options.num_members - 1
    generator = torch.Generator("cpu").manual_seed(ground.seeds(SAMPLES, 1)[0])
    weights = torch.empty(count, len(vertices), dtype=torch.float64, device="cpu")
    weights = weights.exponential_(generator=generator)
    drawn = (weights / weights.sum(1, keepdim=True)).to(device) @ vertices.double()
    samples = model_1.select([0] * count).at(drawn.to(vertices.dtype))
    end = ground.fine_tuning_steps + len(seeds) * plan.steps
    ground.keep(
        concatenated([model_1, recalibrated(samples, problem.train, problem.loss)]),
        steps=[ground.fine_tuning_steps, *[end] * count],
    )


class Simplex(nn.Module):
    """A network whose weights in training are a random point between its own and fixed ones.

    In evaluation mode it is the network itself, the vertex that is trained.

    Args:
        network: the new vertex.
        fixed: (k, P) the earlier ones.
    """

    draws = True  # `training` seeds what is drawn in the forward pass
    fixed: Tensor

    def __init__(self, network: nn.Module, fixed: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("fixed", fixed.clone(), persistent=False)
        self._space = ParameterSpace(network)

    def forward(self, inputs: Tensor, *, with_volume: bool = False) -> Tensor:
        """Outputs of the network; or the logarithm of the simplex's volume instead."""
        named = dict(self.network.named_parameters())
        vertex = torch.cat([named[name].flatten() for name in self._space.names])
        if with_volume:
            return log_volume(torch.cat([self.fixed, vertex[None]]))
        if not self.training:
            outputs: Tensor = self.network(inputs)
            return outputs
        # Exponential numbers, divided by their sum, are uniform on a simplex.
        uniform = torch.rand(len(self.fixed) + 1, dtype=self.fixed.dtype, device=self.fixed.device)
        weights = -torch.log1p(-uniform)
        weights = weights / weights.sum()
        point = weights[:-1] @ self.fixed + weights[-1] * vertex
        moved: Tensor = functional_call(self.network, self._space.named(point), (inputs,))
        return moved


def simplex_task(loss: str, volume_weight: float) -> Task:
    """The loss at a random point, less `volume_weight` times the logarithm of the volume."""
    at_point = loss_task(loss)

    def task(network: Network, inputs: Tensor, targets: Tensor) -> Tensor:
        value = at_point(network, inputs, targets)
        if volume_weight:
            value = value - volume_weight * network(inputs, with_volume=True)
        return value

    return task


def log_volume(vertices: Tensor) -> Tensor:
    """Logarithm of the volume of the simplex with k + 1 vertices (k + 1, P), in dimension k.

    The volume is sqrt(det(E E^T)) / k!, with the edges from the first vertex as rows of E.
    """
    edges = vertices[1:] - vertices[0]
    # Without an error where the volume is 0: then it is not finite, and the vertex has diverged.
    factor: Tensor = torch.linalg.cholesky_ex(edges @ edges.T).L
    return factor.diagonal().log().sum() - math.lgamma(len(edges) + 1)
