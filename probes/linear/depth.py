"""Prediction depth: the layer from which on an example's neighbours say what the network will say.

`neighbours` finds them; `layer_probes` draws planes through the same features, layer by layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from landscape.batches import batch_length
from landscape.errors import RequestError, unknown_choice
from landscape.objective import BatchNormPolicy, Objective
from landscape.probes.answers import Answers, answers
from landscape.probes.arrays import ArrayLike, Floats, Ints, as_floats, as_labels
from landscape.probes.linear.neighbours import Metric, nearest_neighbours, vote
from landscape.result import Result
from landscape.similarity.activations import Pool, activations, check_named, layers_of, recorded
from landscape.similarity.bootstrap import Intervals, wilson

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "PredictionDepth",
    "Sides",
    "consensus",
    "depths",
    "layers_in_turn",
    "naming",
    "prediction_depth",
    "projected",
]

NUM_NEIGHBOURS = 30  # Baldock et al.
_HELD = 2**30  # bytes of features that are held at a time, unless one layer alone has more
_ROWS = 1024  # of a projection that are held at a time
_TARGETS = ("model", "label")


@dataclass(frozen=True, kw_only=True, eq=False)
class PredictionDepth(Result):
    """From which probe on the neighbours of N examples agree with a class.

    The probes are numbered from 0: the input, the layers in the order in which they run, the
    network's softmax.

    Attributes:
        layers: (L,) names of the probes, "input" and "softmax" at the ends.
        depth: (N,) the smallest l such that all probes >= l agree with the target; 0 where all do,
            NaN where the last does not: it is never settled.
        target: (N,) the class that is agreed with.
        label: (N,) of the data.
        final_class: (N,) of the network.
        votes: (L, N) classes of the neighbours.
        knn_accuracy: (L,) share of votes that are the label, with 95 % intervals (Wilson).
        knn_agreement: (L,) share of votes that are the network's final class.
    """

    probe: ClassVar[str] = "depth"

    layers: tuple[str, ...]
    depth: Floats = field(repr=False)
    target: Ints = field(repr=False)
    label: Ints = field(repr=False)
    final_class: Ints = field(repr=False)
    votes: Ints = field(repr=False)
    knn_accuracy: Intervals = field(repr=False)
    knn_agreement: Intervals = field(repr=False)

    @property
    def status(self) -> str:
        """ "converged": every number is exact for these examples."""
        return "converged"

    @property
    def mean_depth(self) -> float:
        """Over the examples that are settled; NaN without any."""
        settled = self.depth[np.isfinite(self.depth)]
        return float(settled.mean()) if len(settled) else np.nan

    @property
    def num_undefined(self) -> int:
        """Examples that are never settled."""
        return int(np.isnan(self.depth).sum())

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Dimensions `example` and `layer`; `count` is of the examples with that depth."""
        import xarray as xr

        settled = self.depth[np.isfinite(self.depth)]
        count = np.bincount(settled.astype(np.int64), minlength=len(self.layers))
        error = settled.std(ddof=1) / np.sqrt(len(settled)) if len(settled) > 1 else np.nan
        right = self.final_class == self.label
        described = {
            "depth": ("example", self.depth, "layer", "first probe from which on all agree"),
            "target": ("example", self.target, "1", "class that is agreed with"),
            "label": ("example", self.label, "1", "class of the data"),
            "final_class": ("example", self.final_class, "1", "class of the network"),
            "count": ("layer", count, "1", "examples with this depth"),
            "mean_depth": ((), self.mean_depth, "layer", "mean depth of the settled examples"),
            "mean_depth_error": ((), error, "layer", "standard error of the mean depth"),
            "num_undefined": ((), self.num_undefined, "1", "examples that are never settled"),
            "network_accuracy": ((), right.mean(), "1", "accuracy of the network"),
        }
        for name, held, of in (
            ("knn_accuracy", self.knn_accuracy, "neighbours' votes that are the label"),
            ("knn_agreement", self.knn_agreement, "neighbours' votes that are the network's class"),
        ):
            described[name] = ("layer", held.value, "1", f"share of {of}")
            described[f"{name}_low"] = ("layer", held.low, "1", f"lower end, share of {of}")
            described[f"{name}_high"] = ("layer", held.high, "1", f"upper end, share of {of}")
        return xr.Dataset(
            {
                name: (dims, values, {"units": unit, "long_name": meaning})
                for name, (dims, values, unit, meaning) in described.items()
            },
            coords={"layer": list(self.layers)},
        )


def prediction_depth(
    objective: Objective,
    *,
    layers: str | Sequence[str] = "*",
    k: int = NUM_NEIGHBOURS,
    target: str | ArrayLike = "model",
    test: Objective | None = None,
    pool: Pool = "none",
    metric: Metric = "euclidean",
    progress: Callable[[int, int, str], None] | None = None,
) -> PredictionDepth:
    """Asks, after the input, every layer and the softmax, what the k nearest examples are.

    Args:
        objective: the network, and the labelled examples that are asked.
        layers: as in `layers_of`; name what the whole signal passes: of a network with branches
            its blocks.
        k: neighbours.
        target: what the votes are compared with: "model", the network's own class; "label", the
            data's; or classes (N,), such as the `consensus` of an ensemble.
        test: the same network on other examples, whose depth is sought. Without, it is that of the
            objective's own examples, each of which is asked of the others: not of itself.
        pool: as in `activations`; "spatial" and "tokens" save memory, and see less.
        metric: "euclidean" or "cosine".
        progress: called with (probes done, all, name).

    Raises:
        RequestError: fewer than k neighbours, no class for each example, a test objective with
            other weights, an unknown layer, target or metric, features that are not finite.

    Source: Baldock, Maennel and Neyshabur 2021, arXiv:2106.09647. There, an example of the training
    data may find itself; at k=1 it then always does, and has depth 0.
    """
    if isinstance(target, str) and target not in _TARGETS:
        raise unknown_choice("target", target, (*_TARGETS, "(an array of classes)"))
    began = time.perf_counter()
    sides = Sides(objective, test)
    names, groups = layers_in_turn(objective, layers, pool)
    known, asked, inputs = _ends(sides)
    final = asked.logits.argmax(1).cpu().numpy()
    right, bank = asked.labels.cpu().numpy(), known.labels.cpu().numpy()
    if isinstance(target, str):
        aim = final if target == "model" else right
    else:
        aim = as_labels(target, "target")
        if len(aim) != len(final):
            raise RequestError(f"target holds {len(aim)} classes, expected {len(final)}, one each.")
    order = [*([] if inputs is None else ["input"]), *names, "softmax"]
    votes: dict[str, Ints] = {}

    def ask(name: str, held: Tensor, queries: Tensor | None) -> None:
        with naming(name):
            votes[name] = vote(nearest_neighbours(held, queries, k=k, metric=metric), bank)
        if progress is not None:
            progress(len(votes), len(order), name)

    if inputs is not None:
        ask("input", *inputs)
    for group in groups:
        held, queries = sides.features(group, pool)
        for name, values in held.items():
            ask(name, values, None if queries is None else queries[name])
    ask("softmax", known.logits.softmax(1), None if test is None else asked.logits.softmax(1))
    table = np.stack([votes[name] for name in order])
    return PredictionDepth(
        settings={
            "layers": layers if isinstance(layers, str) else list(layers),
            "k": k,
            "target": target if isinstance(target, str) else "given",
            "test": test is not None,
            "pool": pool,
            "metric": metric,
        },
        provenance=(objective if test is None else test).provenance(),
        wall_time=time.perf_counter() - began,
        notes=() if inputs is not None else (_NO_INPUT,),
        layers=tuple(order),
        depth=depths(table, aim),
        target=aim,
        label=right,
        final_class=final,
        votes=table,
        knn_accuracy=_shares(table == right),
        knn_agreement=_shares(table == final),
    )


_NO_INPUT = "the inputs are no row of real numbers each: the first probe is after the first layer"


def depths(votes: ArrayLike, target: ArrayLike) -> Floats:
    """(N,) the smallest l such that votes[l:] (L, N) all are the target (N,); NaN where none is."""
    table, aim = _table(votes, "votes"), as_labels(target, "target")
    if table.shape[1] != len(aim):
        raise RequestError(f"votes are of {table.shape[1]} examples, target of {len(aim)}.")
    wrong = table != aim
    # From the end on: how many agree before the first that does not.
    agreeing = np.where(wrong.any(0), wrong[::-1].argmax(0), len(table))
    return np.where(agreeing > 0, len(table) - agreeing, np.nan)


def consensus(classes: ArrayLike) -> Ints:
    """(N,) the class that most of T networks give (T, N); of equals the lowest."""
    table = _table(classes, "classes")
    votes = np.stack([(table == label).sum(0) for label in range(int(table.max()) + 1)])
    return np.asarray(votes.argmax(0))


@contextmanager
def naming(layer: str) -> Iterator[None]:
    """What is refused inside is refused with the name of the layer."""
    try:
        yield
    except RequestError as error:
        raise RequestError(f"at {layer!r}: {error}") from error


def _table(classes: ArrayLike, name: str) -> Ints:
    rows = as_floats(classes, name, "(L, N)")
    return as_labels(rows.astype(np.int64).ravel(), name).reshape(rows.shape)


class Sides:
    """A network on the examples that are known and, if there are others, on those asked about."""

    def __init__(self, objective: Objective, test: Objective | None) -> None:
        # Statistics of the training data, as they are when the network is used.
        policy: BatchNormPolicy = "eval" if objective.bn == "recalibrate" else objective.bn
        with objective.evaluation():
            found = objective.buffers_at(objective.theta)
        self.theta, self.buffers = objective.theta, {**objective.buffers, **(found or {})}
        self.known = objective.under(policy)
        self.asked = test
        if test is None:
            return
        ours, theirs = objective.provenance(), test.provenance()
        if ours["parameters_fingerprint"] != theirs["parameters_fingerprint"]:
            raise RequestError(
                "the test objective holds another network than the training objective. Build both "
                "from one model, with the same params= and dtype=."
            )
        self.asked = test.under(policy)

    @property
    def models(self) -> list[nn.Module]:
        """Of the known and of those asked."""
        return [side.model for side in (self.known, self.asked) if side is not None]

    def features(
        self,
        layers: Sequence[str],
        pool: Pool,
        at: tuple[Tensor, Mapping[str, Tensor]] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
        """Features of the known and of those asked, by layer.

        Args:
            at: theta and buffers of other weights.
        """
        theta, buffers = (self.theta, self.buffers) if at is None else at
        known = activations(self.known, theta, layers=layers, pool=pool, buffers=buffers)
        if self.asked is None:
            return known, None
        return known, activations(self.asked, theta, layers=layers, pool=pool, buffers=buffers)

    def answers(self) -> tuple[Answers, Answers]:
        """Of the known and of those asked, which may be the same.

        Raises:
            RequestError: examples that have no class, or more than one.
        """
        sides = [self.known] + ([] if self.asked is None else [self.asked])
        found = [answers(side, self.theta, buffers=self.buffers) for side in sides]
        held = [len(said.labels) for said in found]
        counts = [side.batches.num_examples for side in sides]
        if held != counts:
            raise RequestError(
                f"there are {held} labels for {counts} examples: expected one class for each "
                "example. Leave out examples without a label; a sequence needs one class."
            )
        return found[0], found[-1]


def layers_in_turn(
    objective: Objective, layers: str | Sequence[str], pool: Pool
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Names of the features in the order of the forward pass; and the modules to record at a time.

    Raises:
        RequestError: as in `activations`.
    """
    modules = layers_of(objective.model, layers)
    batch = next(iter(objective.batches))
    count = batch_length(batch)
    with (
        objective.evaluation(),
        torch.no_grad(),
        recorded(objective.model, modules, count, pool) as found,
    ):
        objective.term(objective.space.split(objective.theta.to(objective.device)), batch)
    check_named(layers, modules, found)
    sizes: dict[str, int] = {}
    for name, values in found.items():
        module = name if name in modules else name.rpartition(":")[0]
        size = values[0].numel() * values.element_size() * objective.batches.num_examples
        sizes[module] = sizes.get(module, 0) + size
    groups: list[tuple[str, ...]] = []
    free = 0
    for module, size in sizes.items():
        if groups and size <= free:
            groups[-1] += (module,)
            free -= size
        else:
            groups.append((module,))
            free = _HELD - size
    return tuple(found), groups


def projected(features: Tensor, max_features: int, seed: np.random.SeedSequence) -> Tensor:
    """(N, d) as they are up to `max_features`, else times a random matrix of +-1 / sqrt(m).

    Lengths keep their mean square. The matrix is the seed's: the same for all who have one.
    """
    width = features.shape[1]
    if width <= max_features:
        return features
    generator = torch.Generator().manual_seed(int(seed.generate_state(1, np.uint64)[0]) >> 1)
    out = torch.zeros(len(features), max_features, dtype=torch.float64, device=features.device)
    for block in torch.split(features, _ROWS, 1):
        size = (block.shape[1], max_features)
        signs = 2 * torch.randint(2, size, generator=generator, dtype=torch.int8) - 1
        out += block.double() @ signs.to(block.device, torch.float64)
    return out.div_(max_features**0.5)


def _ends(sides: Sides) -> tuple[Answers, Answers, tuple[Tensor, Tensor | None] | None]:
    """Answers of both sides, and the inputs if they are real numbers."""
    inputs: list[Tensor] = []

    def record(_: object, arguments: tuple[object, ...], named: Mapping[str, object]) -> None:
        given = [part for part in (*arguments, *named.values()) if isinstance(part, Tensor)]
        inputs.extend(part.detach().reshape(len(part), -1) for part in given[:1])

    # A test objective may have the same model, or one of its own with the same weights.
    models = {id(model): model for model in sides.models}.values()
    handles = [model.register_forward_pre_hook(record, with_kwargs=True) for model in models]
    try:
        known, asked = sides.answers()
    finally:
        for handle in handles:
            handle.remove()
    if not all(part.is_floating_point() for part in inputs):
        return known, asked, None
    whole, count = torch.cat(inputs), len(known.labels)
    if len(whole) != count + (0 if sides.asked is None else len(asked.labels)):
        return known, asked, None
    return known, asked, (whole[:count], None if sides.asked is None else whole[count:])


def _shares(hits: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Intervals:
    return wilson(hits.sum(1).astype(np.float64), float(hits.shape[1]))
