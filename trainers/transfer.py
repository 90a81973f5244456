"""Transfer: pre-trained networks and the task that they are fine-tuned on, for the ensembles.

The recipes differ in how they come from a start to members; what is the same for all is here:
starts, new heads, the fine-tuning's plan, and what is kept and recorded of the members in the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from landscape.errors import RequestError
from landscape.factory import JSON, Factory
from landscape.trainers.averaging import (
    angles,
    average,
    barriers,
    clones,
    combined,
    distances,
    log_probabilities,
)
from landscape.trainers.making import Making, Member, last
from landscape.trainers.optimizers import Optimizer
from landscape.trainers.options import option
from landscape.trainers.orders import child_seed
from landscape.trainers.problems import Problem, networks, problem_of
from landscape.trainers.schedules import Schedule, cosine
from landscape.trainers.stacking import Stack, concatenated, stack
from landscape.trainers.starts import starting_points
from landscape.trainers.training import Plan, Trained

__all__ = ["CYCLES", "SAMPLES", "CycleOptions", "Transfer", "TransferOptions", "transfer"]

# Purposes of child seeds; each network of a purpose has its index behind it.
_START, _MEMBER, _SCRATCH, CYCLES, SAMPLES = 0, 1, 2, 3, 4
_PRETRAIN_BATCH, _PRETRAIN_RATE = 32, 0.1


@dataclass(frozen=True)
class TransferOptions:
    """What every recipe for ensembles takes; each adds its own."""

    start: str | None = option(
        None, "family or checkpoints to fine-tune, with commas between; none: pre-train here"
    )
    model: str = option("mlp", "network that is pre-trained")
    data: str = option("digits", "data set that it is pre-trained on")
    num_pretrained: int = option(0, "networks that are pre-trained; 0: as many as needed", low=0)
    pretrain_epochs: int = option(30, "passes over the source's examples", low=1)
    target_modulus: int = option(5, "target labels are source labels modulo this; 0: equal", low=0)
    num_examples: int = option(200, "of the target, as many of each class; 0: all", low=0)
    learning_rate: float = option(0.05, "of fine-tuning, at the start of its cosine", above=0)
    epochs: int = option(20, "of fine-tuning", low=1)
    batch_size: int = option(32, "examples in a step of fine-tuning", low=1)
    momentum: float = option(0.9, "of SGD in fine-tuning", low=0)
    weight_decay: float = option(1e-4, "L2 penalty's factor in fine-tuning", low=0)
    num_members: int = option(5, "networks in the ensemble, model 1 included", low=2)
    num_scratch: int = option(3, "networks trained on the target alone, for comparison", low=0)
    seed: int = option(0, "of all that is drawn", low=0)


@dataclass(frozen=True)
class CycleOptions(TransferOptions):
    """For recipes that go on from model 1, in units of its fine-tuning."""

    lr_ratio: float = option(2.0, "a cycle's greatest rate, in units of fine-tuning's", above=0)
    epoch_ratio: float = option(1.0, "a cycle's length, in units of fine-tuning's", above=0)

    @property
    def cycle_rate(self) -> float:
        return self.lr_ratio * self.learning_rate

    @property
    def cycle_epochs(self) -> int:
        return max(1, round(self.epoch_ratio * self.epochs))


@dataclass(frozen=True)
class Transfer:
    """Starts and target of one recipe.

    Attributes:
        options: what was asked for.
        make: where it is made.
        problem: the target.
        starts: the pre-trained networks, with the source's heads.
        names: of the starts.
    """

    options: TransferOptions
    make: Making
    problem: Problem
    starts: Stack
    names: tuple[str, ...]

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.problem.train) // self.options.batch_size)

    @property
    def fine_tuning_steps(self) -> int:
        return self.options.epochs * self.steps_per_epoch

    def seeds(self, purpose: int, count: int) -> list[int]:
        """Seeds for networks of one purpose, other than those of every other purpose."""
        # Halved, since they are kept as signed numbers.
        return [child_seed(self.options.seed, purpose, i) >> 1 for i in range(count)]

    def networks(self, seeds: Sequence[int], which: Sequence[int] | None) -> Stack:
        """Networks for the target, a seed each, with the weights of starts `which`.

        Where the number of classes changes, the head stays as its seed drew it: those tensors
        whose shape depends on the classes, whatever their names. None for `which` leaves all
        weights as they were drawn.
        """
        new = networks(self.problem.model, seeds, self.make.place.device)
        if which is None:
            return new
        models = []
        for index, start in enumerate(which):
            model, source = new.member(index), self.starts.member(start)
            kept = {**dict(source.named_parameters()), **dict(source.named_buffers())}
            with torch.no_grad():
                for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
                    if tensor.shape == kept[name].shape:
                        tensor.copy_(kept[name])
            models.append(model)
        return stack(models)

    def plan(
        self,
        seeds: Sequence[int],
        *,
        rate: float | None = None,
        epochs: int | None = None,
        schedule: Schedule | None = None,
        snapshots: Sequence[int] = (),
    ) -> Plan:
        """A plan of fine-tuning on the target: by default one cosine to 0, epoch by epoch."""
        options, epoch = self.options, self.steps_per_epoch
        steps = (epochs or options.epochs) * epoch
        return Plan(
            steps=steps,
            learning_rate=[options.learning_rate if rate is None else rate] * len(seeds),
            batch_size=options.batch_size,
            seeds=seeds,
            loss=self.problem.loss,
            schedule=schedule or cosine(steps, hold=epoch),
            optimizer=Optimizer(momentum=options.momentum),
            weight_decay=[options.weight_decay] * len(seeds),
            evaluate_at=sorted({*range(0, steps, epoch), *snapshots}),
            snapshots=snapshots,
        )

    def fit(self, phase: str, start: Stack, plan: Plan, names: Sequence[str]) -> Trained:
        """Train on the target, and evaluate on its splits."""
        problem = self.problem
        return self.make.fit(phase, start, plan, problem.train, problem.evaluations, names)

    def fine_tuned(self, which: Sequence[int]) -> Stack:
        """Fine-tunings of starts `which`, beside as long a training from scratch.

        A note says whether the starts are worth anything on this target. If they are not, there
        is no basin to speak of, whatever the members look like.

        Raises:
            RequestError: a fine-tuning that diverged.
        """
        seeds = self.seeds(_MEMBER, len(which))
        scratch = self.seeds(_SCRATCH, self.options.num_scratch)
        networks = self.networks(seeds, which)
        if scratch:
            networks = concatenated([networks, self.networks(scratch, None)])
        names = [
            *(f"fine-tuned-{i + 1}" for i in range(len(which))),
            *(f"scratch-{i + 1}" for i in range(len(scratch))),
        ]
        trained = self.fit("fine-tuning", networks, self.plan([*seeds, *scratch]), names)
        if not trained.stack.theta[: len(which)].isfinite().all():
            raise RequestError(
                "fine-tuning diverged: the weights are not finite with learning_rate="
                f"{self.options.learning_rate}. Lower it."
            )
        accuracy = trained.curves["test_accuracy"][-1]
        if scratch:
            ours, theirs = accuracy[: len(which)].mean(), accuracy[len(which) :].mean()
            self.make.note(
                f"fine-tuning {'wins over' if ours > theirs else 'DOES NOT win over'} training "
                f"from scratch: test accuracy {ours:.4f} (n={len(which)}) against {theirs:.4f} "
                f"(n={len(scratch)})"
            )
        return trained.stack.select(range(len(which)))

    def keep(
        self,
        members: Stack,
        *,
        steps: Sequence[int],
        settings: Sequence[Mapping[str, JSON]] | None = None,
    ) -> None:
        """Write the members, the first of which is model 1, and their soup, and record all.

        The group "ensemble" has accuracy and loss of members, ensemble and soup on every split,
        the members' diversity, and their distances, angles and barriers to model 1.

        Args:
            steps: of training behind each member, on the target.
            settings: what tells members apart.
        """
        import xarray as xr

        problem, count = self.problem, len(members)
        soup = average(members, problem.train, problem.loss)
        everyone = concatenated([members, soup])
        names = [*(f"model-{i + 1}" for i in range(count)), "soup"]
        roles = ["model 1", *["member"] * (count - 1), "soup"]
        barrier = barriers(everyone, problem.train, problem.loss)
        apart = distances(everyone.theta, members.theta[0])
        angle = angles(everyone.theta, members.theta[0])
        fields: dict[str, Any] = {
            "distance": ("network", apart, _words("1", "distance to model 1")),
            "angle": ("network", angle, _words("rad", "angle to the weights of model 1")),
            "barrier": ("network", barrier, _words("nat", "train loss barrier to model 1")),
        }
        metrics: list[dict[str, float]] = [{} for _ in names]
        for split, examples in problem.evaluations.items():
            predicted = log_probabilities(everyone, examples, problem.loss)
            each = combined(predicted, examples.targets)
            together = combined(predicted[:count], examples.targets)
            for measure, values, value, unit in (
                ("loss", each.losses, together.loss, "nat"),
                ("accuracy", each.accuracies, together.accuracy, "1"),
            ):
                name = f"{split}_{measure}"
                fields[name] = ("network", values, _words(unit, name.replace("_", " ")))
                fields[f"ensemble_{name}"] = ((), value, _words(unit, "of the ensemble"))
                fields[f"soup_{name}"] = ((), float(values[-1]), _words(unit, "of the soup"))
                for index in range(count + 1):
                    metrics[index][name] = float(values[index])
            fields[f"{split}_diversity"] = ((), together.diversity, _words("1", _DIVERSITY))
        self.make.keep(
            [
                Member(
                    name=name,
                    role=roles[index],
                    seed=self.options.seed,
                    settings={
                        "distance": float(apart[index]),
                        "angle": float(angle[index]),
                        "barrier": float(barrier[index]),
                        **(settings[index] if settings and index < count else {}),
                    },
                    metrics=metrics[index],
                    step=steps[index] if index < count else None,
                )
                for index, name in enumerate(names)
            ],
            everyone,
            problem,
        )
        self.make.record("ensemble", xr.Dataset(fields, {"network": names}))
        for index in (~members.theta.isfinite().all(1)).nonzero().flatten().tolist():
            self.make.note(
                f"DIVERGED: the weights of {names[index]} are not finite, and spoil ensemble and "
                "soup. Lower its rate."
            )
        for first, second in clones(members):
            self.make.note(
                f"CLONES: {names[first]} and {names[second]} have equal weights and count as one "
                "member. Take a batch size below the number of examples, so that they differ."
            )
        mean = sum(one["test_accuracy"] for one in metrics[:count]) / count
        ensemble, averaged = (fields[f"{one}_test_accuracy"][1] for one in ("ensemble", "soup"))
        self.make.note(
            f"test accuracy: members {mean:.4f}, ensemble {ensemble:.4f}, soup {averaged:.4f}; "
            f"diversity {fields['test_diversity'][1]:.3f}; greatest train loss barrier between "
            f"model 1 and a member {barrier[:count].max():.4f}"
        )


def transfer(options: TransferOptions, make: Making, *, needed: int = 1) -> Transfer:
    """Read the starts, or pre-train them on the source, and load the target.

    The target's examples are among the source's, under other labels: the starts know the inputs
    and have to learn a coarser task from a few of them.

    Args:
        needed: how many starts to pre-train unless the options say.

    Raises:
        RequestError: starts that were trained on unlike data, or a network or data set that do
            not come with another number of classes.
    """
    if options.start is None:
        source, starts = _pretrained(options, make, options.num_pretrained or needed)
        names = tuple(f"start-{i + 1}" for i in range(len(starts)))
    else:
        given = starting_points(make, options.start)
        if len(given.problems) > 1:
            raise RequestError(
                f"start={options.start!r} holds networks of {len(given.problems)} data sets. Name "
                "checkpoints that were trained on one."
            )
        source, starts, names = given.problems[0], given.stack, tuple(given.names())
    return Transfer(options, make, _target(options, make, source), starts, names)


def _pretrained(options: TransferOptions, make: Making, count: int) -> tuple[Problem, Stack]:
    problem = make.problem(options.data, options.model)
    seeds = [child_seed(options.seed, _START, i) >> 1 for i in range(count)]
    epoch = -(-len(problem.train) // _PRETRAIN_BATCH)
    steps = options.pretrain_epochs * epoch
    plan = Plan(
        steps=steps,
        learning_rate=[_PRETRAIN_RATE] * count,
        batch_size=_PRETRAIN_BATCH,
        seeds=seeds,
        loss=problem.loss,
        schedule=cosine(steps, hold=epoch),
        evaluate_at=range(0, steps, epoch),
    )
    names = [f"start-{i + 1}" for i in range(count)]
    trained = make.fit(
        "pre-training",
        make.networks(problem, seeds),
        plan,
        problem.train,
        problem.evaluations,
        names,
    )
    make.keep(
        [
            Member(name, "start", options.seed, metrics=last(trained, index), step=steps)
            for index, name in enumerate(names)
        ],
        trained.stack,
        problem,
    )
    return problem, trained.stack


def _target(options: TransferOptions, make: Making, source: Problem) -> Problem:
    """The source's data with coarser labels and fewer examples, and a network with such a head."""
    left_out = ("num_examples", "label_noise", "subset")
    arguments = {k: v for k, v in source.data.arguments.items() if k not in left_out}
    model, modulus = source.model, options.target_modulus
    if modulus:
        classes = source.info.num_classes
        if not 2 <= modulus < classes or "num_classes" not in model.arguments:
            raise RequestError(
                f"target_modulus={modulus} does not fit {source.info.name}, which has {classes} "
                f"classes, or {model.path}, whose num_classes it has to change. Choose one below "
                "the number of classes, or 0 to keep the labels."
            )
        arguments["label_modulus"] = modulus
        model = replace(model, arguments={**model.arguments, "num_classes": modulus})
    if options.num_examples:
        arguments["num_examples"] = options.num_examples
    data = Factory(source.data.path, arguments)
    return problem_of(data, model, root=make.place.data_root, device=make.place.device)


_DIVERSITY = "mean pairwise disagreement / mean error"


def _words(units: str, long_name: str) -> dict[str, str]:
    return {"units": units, "long_name": long_name}
