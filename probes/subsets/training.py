"""Training on subsets: T networks side by side, of which only the outcomes are kept.

The recipe `landscape train subsets` makes a family of checkpoints; `learners` takes any learner.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from landscape.atomic import appearing
from landscape.errors import RequestError
from landscape.fingerprint import fingerprint
from landscape.probes.arrays import ArrayLike, Bools, Ints, as_bools, as_labels
from landscape.probes.subsets.learners import Labelled, indexable, require_masks, scored
from landscape.probes.subsets.subset_runs import SubsetRuns
from landscape.trainers.data.splits import SubsetDesign, subset_masks
from landscape.trainers.examples import Examples
from landscape.trainers.learnability import child_seeds
from landscape.trainers.optimizers import Optimizer
from landscape.trainers.orders import child_seed
from landscape.trainers.schedules import constant, cosine
from landscape.trainers.stacking import Stack, stack
from landscape.trainers.training import Plan, fit

__all__ = ["Training", "run_subsets"]

_SUBSETS = 22  # the purpose of a child seed
_EVALUATION_BYTES = 2**28  # of activations, roughly
_WIDENING = 16  # activations of a small network, in units of its input


@dataclass(frozen=True)
class Training:
    """How each network is trained, by SGD.

    Attributes:
        epochs: passes over its subset.
        chunk: networks that are trained side by side; the others wait.
    """

    epochs: int = 60
    batch_size: int = 32
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "cosine"] = "constant"
    chunk: int = 32

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch_size, self.chunk) < 1 or not self.learning_rate > 0:
            raise RequestError(
                f"{self}: expected epochs, batch_size and chunk from 1 on, and a learning rate "
                "above 0."
            )


def run_subsets(
    model: Callable[[int], nn.Module] | Callable[[], nn.Module],
    data: Labelled,
    test: Labelled | None = None,
    *,
    masks: ArrayLike | None = None,
    num_subsets: int = 64,
    ratio: float = 0.7,
    design: SubsetDesign = "balanced",
    seed: int = 0,
    training: Training | None = None,
    state: str | Path | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> SubsetRuns:
    """Train T networks of one shape on random subsets, and ask them about all examples.

    Args:
        model: makes a network from a seed, or without one: torch's generator is then seeded for it.
            Its outputs are (n, C) logits.
        data: inputs (n, ...) and labels (n,).
        test: inputs and labels that no network is trained on.
        masks: (T, n) in place of drawn ones; the next three are then not used.
        num_subsets: T.
        ratio: share of the examples in a subset.
        design: how the subsets are drawn, see `subset_masks`.
        seed: of the subsets and, by a child for each, of the networks and their batches.
        training: how they are trained.
        state: a folder in which finished networks are kept until all are: the same call goes on
            with the others. Results are equal bit for bit.
        progress: called with (networks done, networks, words).

    Returns:
        Runs whose `values` are the log odds of the true class.

    Raises:
        RequestError: data that do not go together, an empty subset, outputs that are no logits of
            the labels' classes, or a state of another request.
    """
    training = training or Training()
    train, held_out = _labelled(data, "data"), None if test is None else _labelled(test, "test")
    if masks is None:
        subset_seed = child_seed(seed, _SUBSETS) >> 1
        share = None if design == "loo" else ratio
        drawn = subset_masks(len(train), num_subsets, share, seed=subset_seed, design=design)
        table = drawn.numpy()
    else:
        table = as_bools(masks, "masks", "(T, n)")
    require_masks(table, len(train))
    seeds = child_seeds(seed, len(table))
    provenance = {
        "design": "given" if masks is not None else design,
        "ratio": float(table.mean()),
        "seed": seed,
        "convention": "size_matched",
        "label_hash": fingerprint({"labels": train.targets}).hex(),
        "example_hash": fingerprint({"inputs": train.inputs}).hex(),
    }
    asked = [train] if held_out is None else [train, held_out]
    groups = _groups(table, training.chunk)
    folder = None
    if state is not None:
        request = {
            **provenance,
            **asdict(training),
            "masks": fingerprint({"masks": torch.from_numpy(table)}).hex(),
            "model": _identity(_made(model, seeds[0])),
            "test": "" if held_out is None else _content(held_out),
        }
        folder = _State(Path(state).expanduser(), request)
    rows: dict[str, list[Any]] = {}
    done = 0
    for index, group in enumerate(groups):
        found = None if folder is None else folder.load(index)
        if found is None:
            networks = stack([_made(model, seeds[each]) for each in group])
            _require_logits(networks, train, 1 + max(int(e.targets.max()) for e in asked))
            trained = _trained(networks, table[group], [seeds[e] for e in group], train, training)
            found = {}
            for examples, suffix in zip(asked, ("", "_test"), strict=False):
                found |= _outcomes(trained, examples, suffix)
            if folder is not None:
                folder.keep(index, found)
        for name, part in found.items():
            rows.setdefault(name, []).append(part)
        done += len(group)
        if progress is not None:
            progress(done, len(table), "networks")
    order = np.argsort(np.concatenate(groups))
    joined = {name: np.concatenate(parts)[order] for name, parts in rows.items()}
    runs = SubsetRuns(
        table,
        **joined,
        labels=train.targets,
        labels_test=None if held_out is None else held_out.targets,
        provenance=provenance,
    )
    if folder is not None:
        folder.remove(len(groups))
    return runs


class _State:
    """A folder with the outcomes of finished groups, for one request."""

    def __init__(self, folder: Path, request: dict[str, Any]) -> None:
        self.folder = folder
        wanted = json.dumps(request, sort_keys=True)
        held = folder / "request.json"
        if held.is_file():
            if held.read_text() != wanted:
                raise RequestError(
                    f"state={str(folder)!r} holds networks of another request: other data, "
                    "subsets, model or training. Name another folder, or delete it to start anew."
                )
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with appearing(held) as temporary:
                temporary.write_text(wanted)
        except OSError as error:  # now, and not when there is something to lose
            raise RequestError(
                f"state={str(folder)!r} cannot be written: {error}. Name another folder."
            ) from error

    def load(self, index: int) -> dict[str, Any] | None:
        if not self._path(index).is_file():
            return None
        with np.load(self._path(index), allow_pickle=False) as found:
            return dict(found)

    def keep(self, index: int, found: dict[str, Any]) -> None:
        with appearing(self._path(index)) as temporary, temporary.open("wb") as file:
            np.savez(file, **found)

    def remove(self, count: int) -> None:
        for index in range(count):
            self._path(index).unlink(missing_ok=True)
        (self.folder / "request.json").unlink(missing_ok=True)

    def _path(self, index: int) -> Path:
        return self.folder / f"networks-{index:05d}.npz"


def _made(model: Callable[..., nn.Module], seed: int) -> nn.Module:
    """A network whose initial weights follow from the seed alone."""
    parameters = inspect.signature(model).parameters.values()
    required = [p for p in parameters if p.default is p.empty and p.kind < p.VAR_POSITIONAL]
    device = torch.get_default_device()
    # Drawn on the CPU, so that a seed means the same on every device.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        if any(p.name == "seed" for p in parameters):
            network = model(seed=seed)
        else:
            network = model(seed) if required else model()
    on_cpu = all(parameter.device.type == "cpu" for parameter in network.parameters())
    return network.to(device) if on_cpu else network


def _content(examples: Examples) -> str:
    return fingerprint({"inputs": examples.inputs, "labels": examples.targets}).hex()


def _identity(network: nn.Module) -> str:
    return f"{network!r} {fingerprint(network.state_dict()).hex()}"


def _groups(masks: Bools, chunk: int) -> list[Ints]:
    """Indices of models that are trained side by side: their subsets have the same size."""
    sizes = masks.sum(1)
    groups = []
    for size in np.unique(sizes):
        alike = np.flatnonzero(sizes == size)
        groups += [alike[start : start + chunk] for start in range(0, len(alike), chunk)]
    return groups


def _trained(
    networks: Stack, masks: Bools, seeds: list[int], train: Examples, training: Training
) -> Stack:
    device = networks.theta.device
    subsets = torch.from_numpy(np.nonzero(masks)[1].reshape(len(masks), -1)).to(device)
    steps = training.epochs * -(-subsets.shape[1] // training.batch_size)
    plan = Plan(
        steps=steps,
        learning_rate=[training.learning_rate] * len(seeds),
        batch_size=training.batch_size,
        seeds=seeds,
        loss="cross_entropy",
        schedule=cosine(steps) if training.schedule == "cosine" else constant(),
        optimizer=Optimizer(momentum=training.momentum),
        weight_decay=[training.weight_decay] * len(seeds),
        subsets=subsets,
        # As it was asked and never by a trial: the sums of another width round otherwise.
        chunk=len(seeds),
    )
    return fit(networks, plan, train.to(device)).stack


def _require_logits(networks: Stack, examples: Examples, num_classes: int) -> None:
    with torch.no_grad(), networks.mode(training=False):
        shape = tuple(networks(examples.inputs[:1].to(networks.theta.device)).shape[1:])
    if len(shape) != 2 or shape[1] < max(2, num_classes):
        raise RequestError(
            f"the model's outputs for one example have shape {shape}, expected (1, C) logits with "
            f"C >= {max(2, num_classes)}, as the labels have {num_classes} classes."
        )


def _outcomes(networks: Stack, examples: Examples, suffix: str) -> dict[str, Any]:
    """`correct` and `values` (M, n), in evaluation mode."""
    device, labels = networks.theta.device, examples.targets.numpy()
    size = examples.inputs[:1].numel() * examples.inputs.element_size()
    step = max(1, _EVALUATION_BYTES // (size * _WIDENING * len(networks)))
    found: dict[str, list[Any]] = {}
    with torch.no_grad(), networks.mode(training=False):
        for start in range(0, len(examples), step):
            part = slice(start, start + step)
            logits = networks(examples.inputs[part].to(device)).double().cpu().numpy()
            for name, rows in scored(logits, labels[part]).items():
                found.setdefault(name + suffix, []).append(rows)
    return {name: np.concatenate(parts, axis=1) for name, parts in found.items()}


def _labelled(data: Labelled, name: str) -> Examples:
    inputs, labels = data
    classes = as_labels(labels, f"{name} labels")
    held = indexable(inputs, f"{name} inputs", len(classes))
    tensor = held.detach().cpu() if isinstance(held, Tensor) else torch.from_numpy(held)
    return Examples(tensor, torch.from_numpy(classes))
