"""Learning-rate bridge: a small problem trained at several rates, for `memorization_sweep`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.paths.barrier import barrier
from landscape.probes.arrays import Floats, as_labels
from landscape.probes.sensitivity.memorization_sweep import MemorizationSweep, memorization_sweep
from landscape.probes.sensitivity.weight_curvature import weight_curvature
from landscape.probes.subsets.training import Training, run_subsets
from landscape.trainers.data.splits import subset_masks
from landscape.trainers.examples import Examples
from landscape.trainers.optimizers import Optimizer
from landscape.trainers.orders import child_seed
from landscape.trainers.schedules import constant, cosine
from landscape.trainers.stacking import Stack, stack
from landscape.trainers.training import Plan, fit

__all__ = ["learning_rate_bridge"]

_MASKS, _NETWORKS = 31, 32  # purposes of child seeds
_BATCH = 256


def learning_rate_bridge(
    model: Callable[[], nn.Module],
    data: tuple[Tensor, Tensor],
    learning_rates: Sequence[float],
    *,
    num_subsets: int = 64,
    num_networks: int = 4,
    ratio: float = 0.7,
    training: Training | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> MemorizationSweep:
    """Train a small problem at every learning rate, and put together what comes of it.

    Subsets, initial weights and orders of batches are the same at every learning rate. Networks
    that are trained on all examples give the rest: losses and curvature (traces of the examples'
    Hessians) are means over them, the barrier's shares means over neighbours in their order.

    Args:
        model: makes a network, whose outputs are logits; torch's generator is seeded for it.
        data: inputs (N, ...) and labels (N,).
        num_subsets: networks at each learning rate that are trained on subsets.
        num_networks: networks at each learning rate that are trained on all examples, two or more.
        ratio: share of the examples in a subset.
        training: how all are trained; its own learning rate is not used.
        seed: of everything that is drawn.
        progress: called with (learning rates done, learning rates, words).

    Raises:
        RequestError: learning rates, numbers or data that do not fit, or a learning rate at which
            training diverges.
    """
    rates = [float(rate) for rate in learning_rates]
    if num_networks < 2 or len(rates) < 2 or not all(rate > 0 for rate in rates):
        raise RequestError(
            f"num_networks={num_networks}, learning_rates={rates}: expected 2 networks or more, "
            "and two learning rates or more, above 0."
        )
    training = training or Training()
    classes = torch.from_numpy(as_labels(data[1], "labels"))
    examples = Examples(data[0], classes)
    masks = subset_masks(len(classes), num_subsets, ratio, seed=child_seed(seed, _MASKS) >> 1)
    stacked = _trained_on_all(model, examples, rates, num_networks, training, seed)
    runs, geometry = [], []
    for index, rate in enumerate(rates):
        members = range(index * num_networks, (index + 1) * num_networks)
        geometry.append(_geometry([stacked.member(one) for one in members], examples, seed))
        own = replace(training, learning_rate=rate)
        runs.append(run_subsets(model, data, masks=masks, seed=seed, training=own))
        if progress is not None:
            progress(index + 1, len(rates), "learning rates")
    curvature, shares, losses = np.stack(geometry, 1)
    return memorization_sweep(rates, runs, curvature, barrier_share=shares, loss=losses, seed=seed)


def _geometry(networks: Sequence[nn.Module], examples: Examples, seed: int) -> Floats:
    """(3, N) curvature, shares of the barrier, and losses."""
    objectives = [
        Objective(network, (examples.inputs, examples.targets), batch_size=_BATCH)
        for network in networks
    ]
    traces = [weight_curvature(one, seed=seed).value for one in objectives]
    losses = [one.per_example().double().numpy() for one in objectives]
    first, thetas = objectives[0], [one.theta for one in objectives]
    shares = []
    for a, b in pairwise(thetas):
        found = barrier(first, a, b).example_shares
        shares.append(np.full(len(examples), np.nan) if found is None else found.numpy())
    return np.stack([np.mean(one, axis=0) for one in (traces, shares, losses)])


def _trained_on_all(
    model: Callable[[], nn.Module],
    examples: Examples,
    rates: Sequence[float],
    num_networks: int,
    training: Training,
    seed: int,
) -> Stack:
    """Networks of the first learning rate, then those of the next, ..., trained side by side."""
    seeds = [child_seed(seed, _NETWORKS, index) for index in range(num_networks)]
    made = []
    for one in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(one)
            made.append(model())
    steps = training.epochs * -(-len(examples) // training.batch_size)
    plan = Plan(
        steps=steps,
        learning_rate=[rate for rate in rates for _ in seeds],
        batch_size=training.batch_size,
        seeds=seeds * len(rates),
        loss="cross_entropy",
        schedule=cosine(steps) if training.schedule == "cosine" else constant(),
        optimizer=Optimizer(momentum=training.momentum),
        weight_decay=[training.weight_decay] * (len(rates) * len(seeds)),
        chunk=training.chunk,  # no trial: sums of another width round otherwise
    )
    trained = fit(stack(made * len(rates)), plan, examples).stack
    finite = trained.theta.isfinite().all(1).view(len(rates), num_networks).all(1)
    if not finite.all():
        wild = [rate for rate, fine in zip(rates, finite.tolist(), strict=True) if not fine]
        raise RequestError(
            f"training diverges at the learning rates {wild}: there is no solution to measure. "
            "Leave them out."
        )
    return trained
