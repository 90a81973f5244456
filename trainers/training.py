"""Training: a stack moved along its gradients, resumable at any step.

A `Plan` says how; `fit` carries it out. What `gradients`, `optimizers`, `sphere`, `schedules` and
`orders` each do is put together here, and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.trainers.examples import Examples, Outcomes, evaluate, loss_task, mean_outcomes
from landscape.trainers.gradients import Gradients, Task, choose_chunk, num_threads
from landscape.trainers.optimizers import Optimizer, State
from landscape.trainers.orders import Orders, child_seed
from landscape.trainers.schedules import Schedule, constant
from landscape.trainers.sphere import Sphere
from landscape.trainers.stacking import Stack

__all__ = ["Plan", "Trained", "Watch", "fit"]

# augment(images (N, ...), uniforms (N, k)) -> images
Augment = Callable[[Tensor, Tensor], Tensor]
Outcome = Callable[[Stack, Examples], Outcomes]

_KEPT = ("step", "seconds", "chunk", "threads", "snapshots", "steps", "curves", "sums", "summed")
_NOISE, _DROPOUT = 1, 2  # purposes of child seeds, beside the orders'


@dataclass(frozen=True)
class Plan:
    """One phase of training for the M members of a stack.

    Attributes:
        steps: how many.
        learning_rate: one for each member; on a sphere the effective one.
        batch_size: n or more is full-batch training.
        seeds: one for each member, of its batches, augmentations and noise.
        loss: "cross_entropy" or "bce", for evaluation; and for training, unless `task` is given.
        task: another training loss, `task(network, *views, targets)`.
        schedule: factor on the learning rate at a step; `noise_schedule` on the optimizer's noise.
        weight_decay: one for each member.
        groups: names of parameters that lie on one sphere, group by group; none is no sphere.
        sphere: how the weights are kept on it.
        augment: with `num_uniforms` uniform numbers an example; `views` of it are made.
        subsets: (M, m) indices that each member may see.
        evaluate_at: steps after which all `evaluations` are taken; the last one is always.
        outcome: what a stack makes of the examples of an evaluation, where `evaluate` with `loss`
            does not say it: contrastive training, for one.
        record: evaluations of which the outcome on every example is kept each time.
        snapshots: steps after which the weights are kept.
        chunk: members in one graph; None chooses by a measured trial, and the number of threads.
    """

    steps: int
    learning_rate: Sequence[float]
    batch_size: int
    seeds: Sequence[int]
    loss: str
    task: Task | None = None
    schedule: Schedule = field(default_factory=constant)
    optimizer: Optimizer = field(default_factory=Optimizer)
    noise_schedule: Schedule = field(default_factory=constant)
    weight_decay: Sequence[float] | None = None
    groups: Sequence[Sequence[str]] = ()
    sphere: Literal["projected", "riemannian"] = "projected"
    augment: Augment | None = None
    num_uniforms: int = 0
    views: int = 1
    subsets: Tensor | None = None
    evaluate_at: Sequence[int] = ()
    outcome: Outcome | None = None
    record: Sequence[str] = ()
    snapshots: Sequence[int] = ()
    chunk: int | None = None


@dataclass
class Trained:
    """What came of a phase.

    Attributes:
        stack: at the end.
        steps: (T,) steps done at each evaluation.
        curves: (T, M) by name, such as "train_loss"; "running_loss" is the mean over the batches
            since the evaluation before, and "gradient_norm" likewise.
        outcomes: for each recorded evaluation (T, M, n) "loss", "correct", "margin", "probability".
        snapshots: theta (M, P) and buffers by step.
        chunk: members in one graph, and the `threads` of an operation; 0 for torch's own number.
        graph_bytes: most that a graph of one step held at a time, of this start.
        seconds: time in training, over all starts.
    """

    stack: Stack
    steps: np.ndarray[Any, np.dtype[np.int64]]
    curves: dict[str, np.ndarray[Any, np.dtype[np.float64]]]
    outcomes: dict[str, dict[str, np.ndarray[Any, Any]]]
    snapshots: dict[int, tuple[Tensor, dict[str, Tensor]]]
    chunk: int
    threads: int
    graph_bytes: int
    seconds: float

    def at(self, step: int) -> Stack:
        """The stack as it was after a step of which a snapshot was taken."""
        return self.stack.at(*self.snapshots[step])


@dataclass
class Watch:
    """What follows a phase from outside: where it is kept, and who is told.

    Attributes:
        load: the state that was kept, or None.
        keep: keeps a state; called every `interval` seconds, and at the end.
        report: told (steps done, steps, words).
        interval: most seconds of work that a kill may cost.
    """

    load: Callable[[], dict[str, Any] | None] = lambda: None
    keep: Callable[[dict[str, Any]], None] = lambda state: None
    report: Callable[[int, int, str], None] = lambda done, total, words: None
    interval: float = 10.0


def fit(
    stack: Stack,
    plan: Plan,
    examples: Examples,
    evaluations: Mapping[str, Examples] | None = None,
    watch: Watch | None = None,
) -> Trained:
    """Train the members of a stack, which is left as it is.

    Args:
        examples: what is trained on.
        evaluations: what is evaluated, by name.

    Returns:
        The trained stack with its curves. A member whose loss is no longer finite stays in it.

    Raises:
        RequestError: lists in the plan that do not have one entry a member.
    """
    run = _Run(stack, plan, examples, evaluations or {}, watch or Watch())
    return run.to_the_end()


class _Run:
    """The mutable half of `fit`: everything that a state on disk has to bring back."""

    def __init__(
        self,
        stack: Stack,
        plan: Plan,
        examples: Examples,
        evaluations: Mapping[str, Examples],
        watch: Watch,
    ) -> None:
        self.plan, self.examples, self.evaluations, self.watch = plan, examples, evaluations, watch
        for name in ("learning_rate", "seeds", "weight_decay"):
            values = getattr(plan, name)
            if values is not None and len(values) != len(stack):
                raise RequestError(
                    f"{name} has {len(values)} entries for {len(stack)} members. Give one each."
                )
        self.stack = stack.clone()
        device = self.stack.theta.device
        self.orders = Orders(
            plan.seeds, len(examples), plan.batch_size, plan.subsets,
            num_uniforms=plan.num_uniforms * plan.views, device=device,
        )  # fmt: skip
        self.rate = _column(plan.learning_rate, device)
        theta, space = self.stack.theta, self.stack.space
        self.sphere = None
        if plan.groups:
            self.sphere = Sphere.around(theta, space, plan.groups, method=plan.sphere)
            radius_squared = replace(self.sphere, radius=self.sphere.radius.double())
            self.rate = radius_squared.learning_rates(self.rate, space.size)
        self.decay = None
        if plan.weight_decay is not None and any(plan.weight_decay):
            self.decay = _column(plan.weight_decay, device).to(theta)
        is_plain = plan.optimizer == Optimizer() and self.decay is None
        if plan.groups and plan.sphere == "riemannian" and not is_plain:
            raise RequestError(
                "sphere='riemannian' takes plain gradient steps: it would leave out momentum, "
                "weight decay, clipping and noise. Take sphere='projected' for these."
            )
        self.draws = any(  # a network with random numbers of its own says `draws = True`
            type(m).__name__.startswith("Dropout") or getattr(m, "draws", False)
            for m in stack.template.modules()
        )
        self.optimizer_state: State = {}
        self.step, self.seconds, self.chunk, self.threads = 0, 0.0, plan.chunk or 0, 0
        self.graph_bytes = 0
        self.snapshots: dict[int, tuple[Tensor, dict[str, Tensor]]] = {}
        self.steps: list[int] = []
        self.curves: dict[str, list[Tensor]] = {}
        self.outcomes: dict[str, dict[str, list[Any]]] = {}
        self.sums = torch.zeros(2, len(stack), dtype=torch.float64, device=device)
        self.summed = 0

    # -- the loop --

    def to_the_end(self) -> Trained:
        plan, watch = self.plan, self.watch
        held = watch.load()
        if held is not None:
            self._restore(held)
        if self.step < plan.steps:
            self._train()
        return Trained(
            stack=self.stack,
            steps=np.array(self.steps, dtype=np.int64),
            curves={k: torch.stack(v).cpu().double().numpy() for k, v in self.curves.items()},
            outcomes={
                name: {field: np.stack(values) for field, values in fields.items()}
                for name, fields in self.outcomes.items()
            },
            snapshots=self.snapshots,
            chunk=self.chunk,
            threads=self.threads,
            graph_bytes=self.graph_bytes,
            seconds=self.seconds,
        )

    def _train(self) -> None:
        plan, watch, stack = self.plan, self.watch, self.stack
        began = kept = reported = time.perf_counter()
        done_before = self.seconds
        evaluate_at, snapshots = {*plan.evaluate_at, plan.steps}, set(plan.snapshots)
        if self.step == 0:
            self._look(evaluate_at, snapshots)
        with stack.mode(training=True):
            gradients = self._gradients()
        with stack.mode(training=True), num_threads(self.threads):
            while self.step < plan.steps:
                self._move(gradients)
                self.graph_bytes = gradients.peak_bytes
                self._look(evaluate_at, snapshots)
                now = time.perf_counter()
                self.seconds = done_before + now - began
                if now - reported > 0.1 or self.step == plan.steps:
                    watch.report(self.step, plan.steps, self._words())
                    reported = now
                if now - kept > watch.interval or self.step == plan.steps:
                    watch.keep(self._state())
                    kept = time.perf_counter()

    def _move(self, gradients: Gradients) -> None:
        plan, theta = self.plan, self.stack.theta
        batch = self._batch(self.step)
        with torch.random.fork_rng(devices=[], enabled=self.draws):
            if self.draws:  # so that a run which goes on draws what it would have drawn
                torch.manual_seed(child_seed(plan.seeds[0], _DROPOUT, self.step) >> 1)
            losses, gradient = gradients(theta, self.stack.rest, batch)
        self.sums[0] += losses
        self.sums[1] += torch.linalg.vector_norm(gradient, dim=1)
        self.summed += 1
        rate = (self.rate * plan.schedule(self.step)).to(theta.dtype)
        if self.sphere is not None and self.sphere.method == "riemannian":
            self.sphere.move(theta, gradient, rate)
        else:
            plan.optimizer.step(
                theta,
                gradient,
                self.optimizer_state,
                learning_rate=rate,
                weight_decay=self.decay,
            )
            loudness = plan.noise_schedule(self.step) if plan.optimizer.noise else 0.0
            if loudness:
                plan.optimizer.add_noise(theta, rate, self._normal().mul_(loudness))
        if self.sphere is not None:
            self.sphere.project(theta)
        self.step += 1

    def _batch(self, step: int) -> list[Tensor]:
        indices, uniforms = self.orders.batch(step)
        inputs, targets = self.examples.gather(indices)
        augment, views = self.plan.augment, self.plan.views
        if augment is None:
            return [inputs] * views + [targets]
        flat = inputs.flatten(0, 1)
        seen = [
            augment(flat, part.flatten(0, 1)).view_as(inputs) for part in uniforms.chunk(views, -1)
        ]
        return [*seen, targets]

    def _normal(self) -> Tensor:
        size = self.stack.space.size
        rows = {
            seed: torch.randn(
                size,
                generator=torch.Generator("cpu").manual_seed(child_seed(seed, _NOISE, self.step)),
                dtype=self.stack.theta.dtype,
                device="cpu",
            )
            for seed in set(self.plan.seeds)
        }
        return torch.stack([rows[seed] for seed in self.plan.seeds]).to(self.stack.theta)

    def _gradients(self) -> Gradients:
        task = self.plan.task or loss_task(self.plan.loss)
        if not self.chunk:
            trial = choose_chunk(self.stack, task, self._batch(self.step))
            self.chunk, self.threads = trial.chosen, trial.threads
        return Gradients(self.stack, task, self.chunk)

    # -- what is kept along the way --

    def _look(self, evaluate_at: set[int], snapshots: set[int]) -> None:
        if self.step in snapshots:
            buffers = {name: tensor.clone() for name, tensor in self.stack.buffers.items()}
            self.snapshots[self.step] = (self.stack.theta.clone(), buffers)
        if self.step not in evaluate_at:
            return
        self.steps.append(self.step)
        means = self.sums / self.summed if self.summed else torch.full_like(self.sums, torch.nan)
        self._add("running_loss", means[0])
        self._add("gradient_norm", means[1])
        self.sums, self.summed = torch.zeros_like(self.sums), 0
        for name, examples in self.evaluations.items():
            if self.plan.outcome is None:
                outcomes = evaluate(self.stack, examples, self.plan.loss)
            else:
                outcomes = self.plan.outcome(self.stack, examples)
            for measure, values in mean_outcomes(outcomes).items():
                self._add(f"{name}_{measure}", values)
            if name in self.plan.record:
                fields = self.outcomes.setdefault(name, {})
                for field_name, value in vars(outcomes).items():
                    array = value.cpu().numpy()
                    small = array if array.dtype == bool else array.astype(np.float32)
                    fields.setdefault(field_name, []).append(small)

    def _add(self, name: str, values: Tensor) -> None:
        self.curves.setdefault(name, []).append(values)

    def _words(self) -> str:
        if "train_loss" not in self.curves:
            return ""
        losses = self.curves["train_loss"][-1]
        finite = losses[losses.isfinite()]
        return f"train loss {finite.median():.4f}" if len(finite) else "train loss not finite"

    def _state(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in _KEPT},
            "outcomes": {
                name: {
                    field: [torch.from_numpy(v) for v in values] for field, values in all_.items()
                }
                for name, all_ in self.outcomes.items()
            },
            "theta": self.stack.theta,
            "buffers": self.stack.buffers,
            "optimizer_state": self.optimizer_state,
        }

    def _restore(self, held: dict[str, Any]) -> None:
        for name in _KEPT:
            setattr(self, name, held[name])
        self.outcomes = {
            name: {field: [v.numpy() for v in values] for field, values in all_.items()}
            for name, all_ in held["outcomes"].items()
        }
        self.stack = self.stack.at(held["theta"], held["buffers"])
        self.optimizer_state = held["optimizer_state"]


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=device)[:, None]  # (M, 1)
