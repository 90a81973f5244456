"""Learnability after one epoch: which examples many small networks already get right.

The copies of a recipe, over time and under augmentation, are read by `Copies.from_family`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

import numpy as np
import torch
from torch import nn

from landscape.errors import RequestError, unknown_choice
from landscape.factory import Factory
from landscape.probes.arrays import Floats
from landscape.probes.copies.copies import Copies
from landscape.probes.copies.goodness_of_fit import GoodnessOfFit, tail_merged_chi_square
from landscape.probes.copies.heterogeneity import Heterogeneity, heterogeneity
from landscape.trainers.data.label_noise import noisy_labels
from landscape.trainers.examples import Examples
from landscape.trainers.learnability import child_seeds, require_one_label
from landscape.trainers.optimizers import Optimizer
from landscape.trainers.orders import Orders
from landscape.trainers.problems import networks
from landscape.trainers.training import Plan, fit

__all__ = ["Control", "ErrorRates", "ShortTraining", "one_epoch_learnability"]

Control = Literal["random_labels", "random_inputs"]

_CONTROLS: tuple[Control, ...] = get_args(Control)


@dataclass(frozen=True)
class ShortTraining:
    """How each network is trained, by SGD.

    Attributes:
        chunk: networks in one graph; None chooses by a trial of their speed, and may round
            differently from one call to the next.
    """

    learning_rate: float = 0.1
    momentum: float = 0.9
    batch_size: int = 32
    loss: Literal["cross_entropy", "bce"] = "cross_entropy"
    chunk: int | None = None


@dataclass(frozen=True, eq=False)
class ErrorRates:
    """P_i, the share of networks that are wrong on example i, beside what equal hardness gives.

    Attributes:
        error_rate: (K,) P_i, in the order of the examples.
        sorted_error_rate: (K,) increasing.
        null_mean, null_low, null_high: (K,) mean, and band of 95 %, of the sorted rates of K
            equally hard examples: binomial counts.
        heterogeneity: distance from that null and p values, at one time.
        goodness_of_fit: of the counts, tail-merged.
        copies: the single answers, at one time.
    """

    error_rate: Floats = field(repr=False)
    sorted_error_rate: Floats = field(repr=False)
    null_mean: Floats = field(repr=False)
    null_low: Floats = field(repr=False)
    null_high: Floats = field(repr=False)
    heterogeneity: Heterogeneity
    goodness_of_fit: GoodnessOfFit
    copies: Copies


def one_epoch_learnability(
    model_factory: Callable[[], nn.Module],
    data: Examples,
    *,
    copies: int = 100,
    epochs: int = 1,
    seed: int,
    controls: Sequence[Control] = _CONTROLS,
    training: ShortTraining | None = None,
) -> dict[str, ErrorRates]:
    """Train many networks for an epoch, each from its own weights and in its own order.

    Where some examples are easy for all networks and some are hard, the sorted P_i leave the
    binomial null of equal hardness. The controls say how much of that noise would give, too, with
    the same initial weights, orders and number of steps: chance regularities of few examples, and
    the classes that a network prefers, make noise uneven as well.

    Args:
        model_factory: makes a network of one shape with weights from torch's global generator,
            which is seeded for each and put back; a `Factory` is one.
        data: that are trained on, and then asked for in evaluation mode.
        controls: "random_labels" permutes the labels once for all networks, so each class keeps
            its size; "random_inputs" takes Gaussian noise of the inputs' mean and variance.
        training: how; the defaults if not given.

    Returns:
        By "real" and the names of the controls.

    Raises:
        RequestError: less than 2 copies, no epoch, an unknown control, examples with several
            targets, or no network that did not diverge.

    Source: Arpit et al. 2017, arXiv:1706.05394, section 3.1.
    """
    for control in controls:
        if control not in _CONTROLS:
            raise unknown_choice("control", control, _CONTROLS)
    if copies < 2 or epochs < 1:
        raise RequestError(
            f"copies={copies}, epochs={epochs}, expected 2 copies or more, for an epoch or more."
        )
    require_one_label(data)
    training = training or ShortTraining()
    batch = min(training.batch_size, len(data))
    seeds = child_seeds(seed, copies)
    device = data.inputs.device
    # `networks` only calls it, as it does a Factory.
    stack = networks(cast(Factory, model_factory), seeds, device)
    plan = Plan(
        steps=epochs * Orders(seeds, len(data), batch).steps_per_epoch,
        learning_rate=[training.learning_rate] * copies,
        batch_size=batch,
        seeds=seeds,
        loss=training.loss,
        optimizer=Optimizer(momentum=training.momentum),
        record=("train",),
        chunk=training.chunk,
    )
    of_labels, of_inputs, *of_nulls = np.random.SeedSequence(seed).spawn(2 + 1 + len(_CONTROLS))
    conditions: dict[str, Examples] = {"real": data}
    for control in controls:
        if control == "random_labels":
            conditions[control] = _with_random_labels(data, _number(of_labels))
        else:
            conditions[control] = _with_random_inputs(data, _number(of_inputs))
    found = {}
    for name, of_null in zip(("real", *_CONTROLS), of_nulls, strict=True):
        if name not in conditions:
            continue
        examples = conditions[name]
        trained = fit(stack, plan, examples, {"train": examples})
        finite = trained.stack.theta.isfinite().all(1).cpu().numpy()
        if not finite.any():
            raise RequestError(
                f"all {copies} networks diverged on {name}. Give a smaller learning_rate than "
                f"{training.learning_rate}."
            )
        answers = Copies(
            trained.outcomes["train"]["correct"][:, finite],
            labels=examples.targets.flatten().long(),
            times=[epochs],
            num_dropped=int((~finite).sum()),
        )
        found[name] = _error_rates(answers, _number(of_null))
    return found


def _error_rates(copies: Copies, seed: int) -> ErrorRates:
    against = heterogeneity(copies, null="binomial", seed=seed)
    error_rate = 1 - copies.learnability[0]
    counts = copies.correct[0, :, :, 0].sum(0)
    return ErrorRates(
        error_rate=error_rate,
        sorted_error_rate=np.sort(error_rate),
        null_mean=1 - against.null_curve[0, ::-1],
        null_low=1 - against.null_high[0, ::-1],
        null_high=1 - against.null_low[0, ::-1],
        heterogeneity=against,
        goodness_of_fit=tail_merged_chi_square(counts, copies.num_copies),
        copies=copies,
    )


def _with_random_labels(data: Examples, seed: int) -> Examples:
    targets = data.targets.flatten().long()
    noisy = noisy_labels(targets, max(2, int(targets.max()) + 1), "permuted", seed=seed)
    return Examples(data.inputs, noisy.labels.to(data.targets).view_as(data.targets))


def _with_random_inputs(data: Examples, seed: int) -> Examples:
    """Source: Zhang et al. 2017, arXiv:1611.03530: "Gaussian"."""
    inputs = data.inputs
    generator = torch.Generator("cpu").manual_seed(seed)
    noise = torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype, device="cpu")
    return Examples(noise.to(inputs.device) * inputs.std() + inputs.mean(), data.targets)


def _number(sequence: np.random.SeedSequence) -> int:
    return int(sequence.generate_state(1, np.uint64)[0]) >> 1
