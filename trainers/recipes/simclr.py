"""Contrastive copies of one network, and which objects they recognize at which epoch.

r_t(x) is the share of copies and fixed augmentations on which object x is more similar to its own
other view than to all other views of a fixed set of objects.

Measured with the defaults, 3 families of 10 copies (seeds 0, 1, 2) on one core of a CPU, 33 to 54 s
each: mean r_t is .61 in untrained networks (.605, .615, .624; chance .004), .78 after 5 epochs, .84
after 10, .93 after 40 and .95 after 100. At the first epoch with mean r_t above .75, the sorted r_t
are .039 to .050 away from those of equally hard objects (mean absolute difference to binomial
samples), while the share of copies under one single augmentation is .111 to .141 away: objects are
equally hard on average, their single views are not. Differences between objects are 9 to 13 % of
the variance of the single views' shares; in `supervised`, 77 to 81 %.

The default data have their difficulty built in (each object shows its class more or less strongly),
so they show what the measurement sees and are no evidence about images. The 8x8 digits under the
"simclr" augmentation are hardly learnt: mean r_t is .06 after 20 epochs (4 copies, 1 family). The
setting of the source, which takes a GPU and was not run here:

    landscape train simclr --data cifar10 --model resnet18 --augment simclr --num-copies 30 \\
        --epochs 200 --cosine-epochs 195 --learning-rate 3e-4 --batch-size 256 \\
        --num-objects 1024 --num-candidates 256 --out runs

Source: Sadrtdinov et al. 2021, arXiv:2107.10143; Chen et al. 2020, arXiv:2002.05709.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from landscape.errors import RequestError
from landscape.trainers.augment import augmentation
from landscape.trainers.contrastive import chance_of_pair, contrastive_outcome, nt_xent_task
from landscape.trainers.learnability import child_seeds, fixed_views, learnability
from landscape.trainers.making import Making, Member, last
from landscape.trainers.optimizers import Optimizer
from landscape.trainers.options import option
from landscape.trainers.schedules import cosine, delayed
from landscape.trainers.training import Plan

__all__ = ["Options", "run"]


@dataclass(frozen=True)
class Options:
    model: str = option("mlp-layernorm", "network; its last layer gives the embedding")
    data: str = option("prototypes", "data set, of which the labels are not used")
    num_examples: int | None = option(None, "training examples; all if not given", low=2)
    augment: str = option("mask", "of the views: mask (vectors), shift, crop-flip, simclr (images)")
    dim: int = option(128, "numbers in an embedding", low=1)
    temperature: float = option(0.07, "of the similarities", above=0)
    num_copies: int = option(10, "networks, each with its own seed", low=1)
    epochs: int = option(100, "passes over the training examples", low=1)
    batch_size: int = option(128, "objects in a step, with two views each", low=2)
    learning_rate: float = option(3e-3, "of Adam", above=0)
    weight_decay: float = option(1e-4, "L2 penalty's factor", low=0)
    flat_epochs: int = option(10, "epochs before the cosine begins", low=0)
    cosine_epochs: int | None = option(None, "its length; to the last epoch if not given", low=1)
    num_objects: int = option(128, "recorded training objects", low=2)
    num_augmentations: int = option(10, "fixed pairs of views of each", low=1)
    num_candidates: int = option(128, "objects that are told from each other", low=2)
    record_every: int = option(1, "epochs between records", low=1)
    chunk: int | None = option(None, "copies in one graph; as is fastest if not given", low=1)
    seed: int = option(0, "of the copies, the objects and their views", low=0)


def run(options: Options, make: Making) -> None:
    if options.augment == "none":
        raise RequestError(
            "augment='none' makes both views of an object the same, which any network recognizes. "
            "Choose mask for vectors, or shift, crop-flip or simclr for images."
        )
    if options.num_objects % options.num_candidates:
        raise RequestError(
            f"num_candidates={options.num_candidates} does not divide num_objects="
            f"{options.num_objects}. Choose {options.num_objects}, or another divisor."
        )
    problem = make.problem(
        options.data,
        options.model,
        num_examples=options.num_examples,
        model_arguments={"num_classes": options.dim},
    )
    augment = augmentation(options.augment, problem.info.input_shape)
    views = fixed_views(
        problem.train,
        augment,
        num_uniforms=augment.num_uniforms,
        num_objects=options.num_objects,
        num_augmentations=options.num_augmentations,
        views=2,
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
        task=nt_xent_task(options.temperature),
        schedule=delayed(flat, cosine(cosine_epochs * epoch, hold=epoch)),
        optimizer=Optimizer("adam"),
        weight_decay=[options.weight_decay] * len(seeds),
        augment=augment,
        num_uniforms=augment.num_uniforms,
        views=2,
        evaluate_at=range(0, steps, options.record_every * epoch),
        outcome=contrastive_outcome(
            options.temperature, options.num_augmentations, options.num_candidates
        ),
        record=("views",),
        chunk=options.chunk,
    )
    names = [f"simclr-copy{index}" for index in range(len(seeds))]
    stack = make.networks(problem, seeds)
    trained = make.fit("training", stack, plan, problem.train, {"views": views.examples}, names)
    recorded = learnability(
        trained,
        views,
        "views",
        names,
        chance=chance_of_pair(options.num_candidates),
        steps_per_epoch=epoch,
        settings={"augment": options.augment, "num_candidates": options.num_candidates},
    )
    make.record("learnability/training", recorded)
    # Not the labels' loss: these networks have no classes among their outputs.
    as_trained = replace(problem, loss="nt_xent")
    make.keep(
        [
            Member(name, "final", seed, {"copy": index}, last(trained, index), steps)
            for index, (name, seed) in enumerate(zip(names, seeds, strict=True))
        ],
        trained.stack,
        as_trained,
    )
