"""Copies of one classifier on permuted labels, and which objects they have learnt at which epoch.

r_t(x) is the share of copies and fixed augmentations on which object x gets the label that the one
permutation, the same for all copies, gave it.

Measured with the defaults, 3 families of 10 copies (seeds 0, 1, 2) on one core of a CPU, 6 to 18 s
each: mean r_t is .10 in untrained networks, .40 after 5 epochs, .65 after 10 and above .99 after
20; test accuracy is 10 to 11 %. With `--augment mask --epochs 120` (12 to 25 s) it is much slower:
.35 to .38 after 10, .58 to .60 after 20, .76 to .78 after 40 and .87 to .88 after 120. At the first
epoch with mean r_t above .75 the sorted r_t are .081 to .094 away from those of equally hard
objects (mean absolute difference to binomial samples), and .030 to .034 with augmentation, where
r_t is a mean over ten views instead of one. `supervised`, with its ten views: .139 to .145.

On the digits, permuted labels are not learnt as evenly: an object whose label agrees with its
neighbours' is easy for all copies (60 epochs, 4 copies, 1 family: the standard deviation of r_t is
.35 at a mean of .56, against .26 to .27 at .5 or just above here). The two settings of the source
were not run here:

    landscape train random-labels --data cifar10 --model resnet18 --num-copies 30 --epochs 20 \\
        --cosine-epochs 200 --learning-rate 3e-4 --batch-size 256 --num-objects 1024 --out runs
    landscape train random-labels --data cifar10 --model resnet18 --augment crop-flip \\
        --num-copies 30 --epochs 500 --cosine-epochs 200 --learning-rate 3e-4 --batch-size 256 \\
        --num-objects 1024 --out runs

Source: Sadrtdinov et al. 2021, arXiv:2107.10143; Zhang et al. 2017, arXiv:1611.03530.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from landscape.factory import JSON
from landscape.trainers.augment import augmentation
from landscape.trainers.learnability import child_seeds, fixed_views, learnability
from landscape.trainers.making import Making, Member, last
from landscape.trainers.optimizers import Optimizer
from landscape.trainers.options import option
from landscape.trainers.orders import child_seed
from landscape.trainers.problems import problem_of
from landscape.trainers.schedules import cosine, delayed
from landscape.trainers.training import Plan

__all__ = ["Options", "run"]

_LABELS = 19  # the purpose of a child seed, beside those of `learnability`


@dataclass(frozen=True)
class Options:
    model: str = option("mlp-layernorm", "network")
    data: str = option("prototypes", "data set, of classes")
    num_examples: int | None = option(None, "training examples; all if not given", low=2)
    augment: str = option("none", "none, mask (vectors), shift, crop-flip or simclr (images)")
    num_copies: int = option(10, "networks, each with its own seed", low=1)
    epochs: int = option(60, "passes over the training examples", low=1)
    batch_size: int = option(128, "examples in a step", low=1)
    learning_rate: float = option(0.03, "of SGD", above=0)
    momentum: float = option(0.9, "of SGD", low=0)
    weight_decay: float = option(1e-4, "L2 penalty's factor", low=0)
    flat_epochs: int = option(10, "epochs before the cosine begins", low=0)
    cosine_epochs: int | None = option(None, "its length; to the last epoch if not given", low=1)
    num_objects: int = option(128, "recorded training objects", low=1)
    num_augmentations: int = option(10, "fixed views of each; one without augmentation", low=1)
    record_every: int = option(1, "epochs between records", low=1)
    chunk: int | None = option(None, "copies in one graph; as is fastest if not given", low=1)
    seed: int = option(0, "of the copies, the labels, the objects and their views", low=0)


def run(options: Options, make: Making) -> None:
    true = make.problem(options.data, options.model, num_examples=options.num_examples)
    # One permutation of the labels for all copies: each class keeps its size.
    noise: dict[str, JSON] = {
        "kind": "permuted",
        "rate": 1.0,
        "seed": child_seed(options.seed, _LABELS) >> 1,
    }
    data = replace(true.data, arguments={**true.data.arguments, "label_noise": noise})
    place = make.place
    problem = problem_of(data, true.model, root=place.data_root, device=place.device)
    augment = augmentation(options.augment, problem.info.input_shape)
    views = fixed_views(
        problem.train,
        augment,
        num_uniforms=augment.num_uniforms,
        num_objects=options.num_objects,
        num_augmentations=options.num_augmentations,
        seed=options.seed,
    )
    seeds = child_seeds(options.seed, options.num_copies)
    epoch = -(-len(problem.train) // options.batch_size)
    steps, flat = options.epochs * epoch, options.flat_epochs * epoch
    cosine_epochs = options.cosine_epochs or max(1, options.epochs - options.flat_epochs)
    plan = Plan(
        steps=steps,
        learning_rate=[options.learning_rate] * len(seeds),
        batch_size=options.batch_size,
        seeds=seeds,
        loss=problem.loss,
        schedule=delayed(flat, cosine(cosine_epochs * epoch, hold=epoch)),
        optimizer=Optimizer(momentum=options.momentum),
        weight_decay=[options.weight_decay] * len(seeds),
        augment=augment,
        num_uniforms=augment.num_uniforms,
        evaluate_at=range(0, steps, options.record_every * epoch),
        record=("views",),
        chunk=options.chunk,
    )
    evaluations = {**problem.evaluations, "views": views.examples}
    names = [f"random-labels-copy{index}" for index in range(len(seeds))]
    stack = make.networks(problem, seeds)
    trained = make.fit("training", stack, plan, problem.train, evaluations, names)
    recorded = learnability(
        trained,
        views,
        "views",
        names,
        chance=1 / problem.info.num_classes,
        steps_per_epoch=epoch,
        settings={"augment": options.augment},
    )
    recorded["true_label"] = ("object", true.train.targets.cpu().numpy()[recorded["object"]])
    make.record("learnability/training", recorded)
    make.keep(
        [
            Member(name, "final", seed, {"copy": index}, last(trained, index), steps)
            for index, (name, seed) in enumerate(zip(names, seeds, strict=True))
        ],
        trained.stack,
        problem,
    )
