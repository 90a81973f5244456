"""Copies of one classifier, and which training objects they get right at which epoch.

r_t(x) is the share of copies and fixed augmentations on which object x gets its label.

Measured with the defaults, 3 families of 10 copies (seeds 0, 1, 2) on one core of a CPU, 7 to 15 s
each: mean r_t is .10 in untrained networks, .41 after 2 epochs, .72 after 5, .83 after 10 and .95
after 60, where test accuracy is 75 %. At the first epoch with mean r_t above .75 (6 or 7), the
sorted r_t are .139 to .145 away from those of equally hard objects (mean absolute difference to
binomial samples), against .039 to .050 in `simclr`: some objects are easy for all copies, others
for none. Differences between objects are 77 to 81 % of the variance of the single views' shares.

The default data have their difficulty built in (each object shows its class more or less strongly),
so they show what the measurement sees and are no evidence about images. The setting of the source,
whose learning rate is not recorded (3e-4 is its program's default), was not run here:

    landscape train supervised --data cifar10 --model resnet18 --augment crop-flip \\
        --num-copies 30 --epochs 50 --cosine-epochs 200 --learning-rate 3e-4 --batch-size 256 \\
        --num-objects 1024 --out runs

Source: Sadrtdinov et al. 2021, arXiv:2107.10143.
"""

from __future__ import annotations

from dataclasses import dataclass

from landscape.trainers.augment import augmentation
from landscape.trainers.learnability import child_seeds, fixed_views, learnability
from landscape.trainers.making import Making, Member, last
from landscape.trainers.optimizers import Optimizer
from landscape.trainers.options import option
from landscape.trainers.schedules import cosine, delayed
from landscape.trainers.training import Plan

__all__ = ["Options", "run"]


@dataclass(frozen=True)
class Options:
    model: str = option("mlp-layernorm", "network")
    data: str = option("prototypes", "data set, of classes")
    num_examples: int | None = option(None, "training examples; all if not given", low=2)
    augment: str = option("mask", "mask (vectors), shift, crop-flip, simclr (images) or none")
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
    seed: int = option(0, "of the copies, the objects and their views", low=0)


def run(options: Options, make: Making) -> None:
    problem = make.problem(options.data, options.model, num_examples=options.num_examples)
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
    names = [f"supervised-copy{index}" for index in range(len(seeds))]
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
    make.record("learnability/training", recorded)
    make.keep(
        [
            Member(name, "final", seed, {"copy": index}, last(trained, index), steps)
            for index, (name, seed) in enumerate(zip(names, seeds, strict=True))
        ],
        trained.stack,
        problem,
    )
