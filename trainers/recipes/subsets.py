"""Networks on random subsets of the training examples: what memorization and influence need.

The index keeps, for every network and every example, whether it was trained on it (`mask`) and what
came of it (`correct`, `margin`, `probability`, `loss`): `subsets/train` and `subsets/test`. The
memorization of example i is the accuracy on i of the networks that saw it, less that of the others.

Measured with the defaults, 1 family of 64 networks, 15 s on one core of a CPU: accuracy is 100 % on
the networks' own subsets, 97.2 % (standard deviation over networks .8) on what they were not shown
and 96.9 % (.5) on test digits; mean memorization is .028, and 4.0 % of the digits have .25 or more.
With `--label-noise 0.1` (1 family, 12 s) memorization tells the wrong labels from the right ones
with an AUC of .983. That takes networks which fit them: with learning rate .1 and no momentum, 89 %
of their own subsets are fitted, and the AUC is .62.

Networks that did not see an example saw m others, not m - 1 ("size-matched"). With 64 networks and
ratio .7 the standard error of a memorization is up to .11 even for an example that is always
fitted: take 200 or more for values below .25. Feldman and Zhang trained 2,000 to 4,000. So many
networks take space: `--no-keep-checkpoints` keeps the first only, and all records.

Source: Feldman and Zhang 2020, arXiv:2008.03703.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import xarray as xr
from torch import Tensor

from landscape.errors import RequestError
from landscape.factory import JSON
from landscape.fingerprint import fingerprint
from landscape.trainers.data.splits import subset_masks
from landscape.trainers.examples import Examples, Outcomes, evaluate
from landscape.trainers.learnability import child_seeds, require_one_label
from landscape.trainers.making import Making, Member
from landscape.trainers.optimizers import Optimizer
from landscape.trainers.options import option
from landscape.trainers.orders import child_seed
from landscape.trainers.problems import problem_of
from landscape.trainers.schedules import constant, cosine
from landscape.trainers.training import Plan

__all__ = ["Options", "run"]

_SUBSETS, _NOISE = 20, 21  # purposes of child seeds, beside those of `learnability`


@dataclass(frozen=True)
class Options:
    model: str = option("mlp", "network")
    data: str = option("digits", "data set")
    num_examples: int | None = option(None, "training examples; all if not given", low=2)
    num_subsets: int = option(64, "networks, each on its own subset and with its own seed", low=2)
    ratio: float = option(0.7, "share of the examples in a subset; not for loo", above=0)
    design: Literal["balanced", "iid", "loo"] = option("balanced", "how the subsets are drawn")
    label_noise: float = option(0.0, "share of the training labels that are made wrong", low=0)
    epochs: int = option(60, "passes over the subset", low=1)
    batch_size: int = option(32, "examples in a step", low=1)
    learning_rate: float = option(0.05, "of SGD", above=0)
    momentum: float = option(0.9, "of SGD", low=0)
    weight_decay: float = option(0.0, "L2 penalty's factor", low=0)
    schedule: Literal["constant", "cosine"] = option("constant", "of the learning rate")
    keep_checkpoints: bool = option(True, "of all networks; otherwise of the first one only")
    chunk: int | None = option(None, "networks in one graph; as is fastest if not given", low=1)
    seed: int = option(0, "of the subsets, the networks and the wrong labels", low=0)


def run(options: Options, make: Making) -> None:
    problem = make.problem(options.data, options.model, num_examples=options.num_examples)
    require_one_label(problem.train)
    true_labels = problem.train.targets
    if options.label_noise:
        noise: dict[str, JSON] = {
            "kind": "symmetric",
            "rate": options.label_noise,
            "seed": child_seed(options.seed, _NOISE) >> 1,
        }
        data = replace(problem.data, arguments={**problem.data.arguments, "label_noise": noise})
        place = make.place
        problem = problem_of(data, problem.model, root=place.data_root, device=place.device)
    train, test = problem.train, problem.evaluations["test"]

    ratio = None if options.design == "loo" else options.ratio
    subset_seed = child_seed(options.seed, _SUBSETS) >> 1
    mask = subset_masks(
        len(train), options.num_subsets, ratio, seed=subset_seed, design=options.design
    )  # (T, n)
    if not mask.any():
        raise RequestError(
            f"ratio={options.ratio} of {len(train)} examples is none. Choose a larger one."
        )
    # All rows of these designs have the same number of examples.
    subsets = mask.nonzero()[:, 1].view(len(mask), -1).to(train.inputs.device)  # (T, m)

    seeds = child_seeds(options.seed, options.num_subsets)
    epoch = -(-subsets.shape[1] // options.batch_size)
    steps = options.epochs * epoch
    plan = Plan(
        steps=steps,
        learning_rate=[options.learning_rate] * len(seeds),
        batch_size=options.batch_size,
        seeds=seeds,
        loss=problem.loss,
        schedule=cosine(steps) if options.schedule == "cosine" else constant(),
        optimizer=Optimizer(momentum=options.momentum),
        weight_decay=[options.weight_decay] * len(seeds),
        subsets=subsets,
        chunk=options.chunk,
    )
    names = [f"subset{index}" for index in range(len(seeds))]
    stack = make.networks(problem, seeds)
    trained = make.fit("training", stack, plan, train, {"test": test}, names)

    on_train = evaluate(trained.stack, train, problem.loss)
    on_test = evaluate(trained.stack, test, problem.loss)
    described = {
        "design": options.design,
        "ratio": subsets.shape[1] / len(train),
        "seed": options.seed,
        # Networks that do not see an example see m others, and not m - 1.
        "convention": "size-matched",
    }
    recorded = _recorded(on_train, train, names, described)
    recorded["mask"] = (("member", "example"), mask.numpy().astype(np.uint8), {"units": "1"})
    changed = (train.targets != true_labels).flatten().cpu().numpy().astype(np.int8)
    recorded["label_is_wrong"] = ("example", changed, {"units": "1"})
    make.record("subsets/train", recorded)
    make.record("subsets/test", _recorded(on_test, test, names, described))
    never = int(mask.all(0).sum() + (~mask).all(0).sum())
    if never:
        make.note(
            f"{never} of {mask.shape[1]} examples are in all subsets or in none: nothing can be "
            "said of how they are memorized. Take more subsets."
        )

    members = []
    held_in = mask.to(train.inputs.device)
    for index, (name, seed) in enumerate(zip(names, seeds, strict=True)):
        own: dict[str, JSON] = {
            "num": options.num_subsets,
            "ratio": ratio,
            "seed": subset_seed,
            "design": options.design,
            "member": index,
        }
        metrics = {
            **_means("train", on_train, index, held_in[index]),
            **_means("held_out", on_train, index, ~held_in[index]),
            **_means("test", on_test, index, slice(None)),
        }
        data = replace(problem.data, arguments={**problem.data.arguments, "subset": own})
        members.append(Member(name, "final", seed, {"subset": index}, metrics, steps, data))
    if not options.keep_checkpoints:
        members = members[:1]
    make.keep(members, trained.stack.select(range(len(members))), problem)


def _recorded(
    outcomes: Outcomes, examples: Examples, names: Sequence[str], described: Mapping[str, object]
) -> xr.Dataset:
    """Outcomes (T, n) with the labels, and a hash of the examples that they are about."""
    units = {"loss": "nat", "correct": "1", "margin": "nat", "probability": "1"}
    labels = examples.targets.flatten()
    dims = ("member", "example")
    fields = {
        name: (dims, _small(getattr(outcomes, name)), {"units": unit})
        for name, unit in units.items()
    }
    hashes = {
        "label_hash": fingerprint({"labels": labels.cpu()}).hex(),
        "example_hash": fingerprint({"inputs": examples.inputs.cpu()}).hex(),
    }
    return xr.Dataset(
        {**fields, "label": ("example", labels.cpu().numpy(), {"units": "1"})},
        {"member": names},
        {**described, **hashes},
    )


def _small(values: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.int8 | np.float32]]:
    array = values.cpu().numpy()
    return array.astype(np.int8 if array.dtype == bool else np.float32)


def _means(split: str, outcomes: Outcomes, index: int, which: Tensor | slice) -> dict[str, float]:
    """Loss and accuracy of one network on some examples; none where there are none."""
    losses, correct = outcomes.loss[index, which], outcomes.correct[index, which]
    if not len(losses):
        return {}
    return {
        f"{split}_loss": losses.double().mean().item(),
        f"{split}_accuracy": correct.double().mean().item(),
    }
