"""Layer probes: what can be read off each layer of a network, beside what nothing would give.

`fitting` fits the linear ones, `neighbours` asks the nearest, `controls` makes the nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.arrays import ArrayLike, Bools, Floats, Ints, as_floats
from landscape.probes.linear.controls import permuted_labels, untrained_point
from landscape.probes.linear.controls import untrained as drawn_anew
from landscape.probes.linear.depth import Sides, layers_in_turn, naming, projected
from landscape.probes.linear.fitting import LinearProbe, linear_probe
from landscape.probes.linear.neighbours import NUM_NEIGHBOURS, knn_probe
from landscape.result import Result
from landscape.similarity.activations import Pool
from landscape.similarity.bootstrap import Intervals, wilson
from landscape.trainers.data.splits import stratified_split

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["LayerProbes", "probe_layers"]

PENALTIES = tuple(10.0**exponent for exponent in range(-6, 3))  # of standardised features

_TABLES = (
    ("train_accuracy", "1", "training accuracy"),
    ("validation_accuracy", "1", "validation accuracy"),
    ("train_loss", "nat", "training cross-entropy"),
    ("validation_loss", "nat", "validation cross-entropy"),
    ("gradient_norm", "nat", "largest entry of the gradient"),
    ("converged", "1", "whether the solver converged"),
)
_TESTED = {
    "test": "test accuracy at the chosen penalty",
    "knn": "test accuracy of the nearest neighbours",
    "control": "test accuracy on random labels",
    "untrained": "test accuracy, untrained network",
    "network": "test accuracy of the network",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerProbes(Result):
    """Probes of L layers at P penalties; intervals are 95 % and Wilson's, over the test examples.

    Attributes:
        layers: (L,) names, in the order in which they run.
        penalties: (P,) as in `linear_probe`.
        train_accuracy: (L, P); so are `train_loss`, in nats, `validation_accuracy`,
            `validation_loss`, `gradient_norm` (largest entry, where the solver stopped) and
            `converged`.
        chosen: (L,) index of the penalty with the best validation accuracy, of equals the smaller
            loss. The test examples choose nothing.
        test: (L,) test accuracy at the chosen penalty.
        knn: (L,) test accuracy of the nearest training examples' vote.
        control: (L,) test accuracy of the same probe, fitted to permuted labels: chance, or the
            test examples have been seen. NaN without controls.
        control_train_accuracy: (L,) of that probe: its capacity. Near 1, it can fit anything.
        untrained: (L,) test accuracy on the features of the network before training, its penalty
            chosen on its own validation. NaN without controls.
        num_features: (L,) that the probes saw, `width` (L,) that the layer has.
        best: index of the layer with the best validation accuracy, of equals the smaller loss.
        chance: test accuracy of the most common class in training.
        network: () test accuracy of the network itself.
    """

    probe: ClassVar[str] = "linear"

    layers: tuple[str, ...]
    penalties: Floats
    train_accuracy: Floats = field(repr=False)
    train_loss: Floats = field(repr=False)
    validation_accuracy: Floats = field(repr=False)
    validation_loss: Floats = field(repr=False)
    gradient_norm: Floats = field(repr=False)
    converged: Bools = field(repr=False)
    chosen: Ints = field(repr=False)
    test: Intervals = field(repr=False)
    knn: Intervals = field(repr=False)
    control: Intervals = field(repr=False)
    control_train_accuracy: Floats = field(repr=False)
    untrained: Intervals = field(repr=False)
    num_features: Ints = field(repr=False)
    width: Ints = field(repr=False)
    best: int
    chance: float
    network: Intervals = field(repr=False)

    @property
    def status(self) -> str:
        """ "converged", or how many probes are not."""
        lacking, of = int((~self.converged).sum()), self.converged.size
        return f"not converged: {lacking} of {of} probes" if lacking else "converged"

    @property
    def accuracy(self) -> float:
        """Test accuracy of the layer and penalty that validation chose."""
        return float(self.test.value[self.best])

    @property
    def selectivity(self) -> Floats:
        """(L,) test accuracy less that on random labels (Hewitt and Liang 2019)."""
        return self.test.value - self.control.value

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Dimensions `layer` and `penalty`."""
        import xarray as xr

        dataset = xr.Dataset(
            coords={"layer": list(self.layers), "penalty": ("penalty", self.penalties)}
        )

        def put(name: str, dims: tuple[str, ...], values: object, unit: str, of: str) -> None:
            dataset[name] = (dims, values, {"units": unit, "long_name": of})

        for name, unit, of in _TABLES:
            put(name, ("layer", "penalty"), getattr(self, name), unit, of)
        chosen, fitted, layer = self.penalties[self.chosen], self.control_train_accuracy, ("layer",)
        put("chosen_penalty", layer, chosen, "1", "penalty that validation chose")
        put("control_train_accuracy", layer, fitted, "1", "training accuracy on random labels")
        put("selectivity", layer, self.selectivity, "1", "test accuracy less the control's")
        put("num_features", layer, self.num_features, "1", "features that the probes saw")
        put("width", layer, self.width, "1", "features of the layer")
        for name, of in _TESTED.items():
            held: Intervals = getattr(self, name)
            dims = layer if held.value.ndim else ()
            put(f"{name}_accuracy", dims, held.value, "1", of)
            put(f"{name}_low", dims, held.low, "1", f"lower end, {of}")
            put(f"{name}_high", dims, held.high, "1", f"upper end, {of}")
        put("accuracy", (), self.accuracy, "1", "test accuracy of the layer that validation chose")
        put("accuracy_low", (), self.test.low[self.best], "1", "lower end, of the chosen layer")
        put("accuracy_high", (), self.test.high[self.best], "1", "upper end, of the chosen layer")
        put("chosen_layer", (), self.best, "1", "index of the layer that validation chose")
        put("chance", (), self.chance, "1", "test accuracy of the most common class")
        return dataset


def probe_layers(
    objective: Objective,
    *,
    layers: str | Sequence[str] = "*",
    penalties: ArrayLike = PENALTIES,
    test: Objective | None = None,
    validation_share: float = 0.2,
    pool: Pool = "spatial",
    standardize: bool = True,
    k: int = NUM_NEIGHBOURS,
    controls: bool = True,
    untrained: nn.Module | None = None,
    max_features: int = 2048,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> LayerProbes:
    """Fits linear probes to every layer, chooses by validation, and says what the test says.

    Args:
        objective: the network, and the labelled examples to fit and choose on.
        layers: as in `layers_of`.
        penalties: (P,) as in `linear_probe`.
        test: the same network on examples that fit and choose nothing. Without, as many of the
            objective's own are set aside as for validation.
        validation_share: of the objective's examples, by class.
        pool: as in `activations`; the default averages images over space.
        standardize: the features, by the training examples' deviations.
        k: neighbours, by cosine.
        controls: fit random labels and the untrained network's features, too.
        untrained: the network before training; by default `controls.untrained` draws it.
        max_features: a layer with more, after pooling, is multiplied by a random matrix of signs,
            which keeps distances to about sqrt(2 / max_features) (Achlioptas 2003).
        seed: of the split, the random labels, the untrained weights and the projections.
        progress: called with (layers done, all, name).

    Raises:
        RequestError: parts that leave nothing to fit, choose or test on; what `linear_probe`,
            `knn_probe` and `activations` refuse; a test objective of another network.

    Source: Alain and Bengio 2016, arXiv:1610.01644; Hewitt and Liang 2019, arXiv:1909.03368.
    """
    if max_features < 1:
        raise RequestError(f"max_features={max_features}, expected at least 1.")
    began = time.perf_counter()
    grid = as_floats(penalties, "penalties", "(P,)")
    sides = Sides(objective, test)
    names, groups = layers_in_turn(objective, layers, pool)
    known, asked = sides.answers()
    draws = np.random.SeedSequence(seed).spawn(4)  # split, labels, weights, projections
    split = _split(known.labels, None if test is None else asked.labels, validation_share, draws[0])
    notes = [] if test is not None else [_OWN_TEST]
    bare = None
    if controls:
        try:
            fresh = drawn_anew(objective.model, seed=draws[2]) if untrained is None else untrained
            bare = untrained_point(objective, fresh)
        except RequestError as error:
            if untrained is not None:
                raise
            notes.append(f"no untrained network: {error}")
    random = _permuted(split.labels, draws[1]) if controls else None
    task = _Task(split, random, grid, standardize, k, max_features, draws[3])
    found: dict[str, _Layer] = {}
    for group in groups:
        trained = sides.features(group, pool)
        plain = None if bare is None else sides.features(group, pool, bare)
        for name in trained[0]:
            with naming(name):
                found[name] = task.layer(name, trained, plain)
            if progress is not None:
                progress(len(found), len(names), name)
    wide = [name for name in names if found[name].width > max_features]
    if wide:
        notes.append(f"projected at random to {max_features} features: {', '.join(wide)}")
    final = asked.logits.argmax(1).cpu()[split.rows[2]]
    return replace(
        _gathered({name: found[name] for name in names}, grid, split, final),
        settings={
            "layers": layers if isinstance(layers, str) else list(layers),
            "penalties": grid.tolist(),
            "test": test is not None,
            "validation_share": validation_share,
            "pool": pool,
            "standardize": standardize,
            "k": k,
            "controls": controls,
            "max_features": max_features,
            "seed": seed,
        },
        provenance=objective.provenance(),
        wall_time=time.perf_counter() - began,
        notes=tuple(notes),
    )


_OWN_TEST = (
    "the test examples were set aside from the objective's data: if the network was trained on "
    "them, its features have seen their labels"
)

Parts = tuple[Tensor, Tensor, Tensor]  # training, validation, test
Features = tuple[dict[str, Tensor], dict[str, Tensor] | None]  # as of `Sides.features`


@dataclass(frozen=True, eq=False)
class _Split:
    """Rows of the three parts, the last of the others' where there are any; and their labels."""

    rows: Parts
    labels: Parts


@dataclass(frozen=True, eq=False)
class _Layer:
    width: int
    num_features: int
    probe: LinearProbe
    knn: float
    control: LinearProbe | None
    untrained: LinearProbe | None


@dataclass(frozen=True, eq=False)
class _Task:
    """What is the same at every layer; `random` are the permuted labels, if they are asked for."""

    split: _Split
    random: Parts | None
    penalties: Floats
    standardize: bool
    k: int
    max_features: int
    signs: np.random.SeedSequence

    def layer(self, name: str, trained: Features, plain: Features | None) -> _Layer:
        """Its probes; `plain` are the features of the untrained network."""
        labels = self.split.labels
        parts = self._parts(name, trained)
        probe = self._fitted(parts, labels, self.penalties)
        chosen = self.penalties[[_choice(probe)]]
        control, untrained = None, None
        if self.random is not None:
            control = self._fitted(parts, self.random, chosen)
        if plain is not None:
            untrained = self._fitted(self._parts(name, plain), labels, self.penalties)
        knn = knn_probe(parts[0], labels[0], test=(parts[2], labels[2]), k=self.k)
        width = trained[0][name].shape[1]
        return _Layer(width, parts[0].shape[1], probe, knn.accuracy, control, untrained)

    def _parts(self, name: str, features: Features) -> Parts:
        known = projected(features[0][name], self.max_features, self.signs)
        asked = known
        if features[1] is not None:
            asked = projected(features[1][name], self.max_features, self.signs)
        train, validation, test = (rows.to(known.device) for rows in self.split.rows)
        return known[train], known[validation], asked[test]

    def _fitted(self, parts: Parts, labels: Parts, penalties: Floats) -> LinearProbe:
        pairs = list(zip(parts, labels, strict=True))
        return linear_probe(
            *pairs[0], penalties, validation=pairs[1], test=pairs[2], standardize=self.standardize
        )


def _split(
    labels: Tensor, others: Tensor | None, share: float, seed: np.random.SeedSequence
) -> _Split:
    labels = labels.cpu()
    held = round(share * len(labels)) if 0 < share < 1 else 0
    sizes = [held] if others is not None else [held, held]
    sizes = [len(labels) - sum(sizes), *sizes]
    if min(sizes) < 1:
        raise RequestError(
            f"validation_share={share} of {len(labels)} examples makes parts of {sizes}: expected "
            "a share that leaves some to fit and some to choose on. Give test=, or other examples."
        )
    drawn = stratified_split(labels, sizes, seed=int(seed.generate_state(1)[0]))
    train, validation = drawn[:2]
    test = drawn[2] if others is None else torch.arange(len(others))
    theirs = labels if others is None else others.cpu()
    return _Split((train, validation, test), (labels[train], labels[validation], theirs[test]))


def _permuted(labels: Parts, seed: np.random.SeedSequence) -> Parts:
    first, second, third = (
        torch.from_numpy(permuted_labels(part, seed=child))
        for part, child in zip(labels, seed.spawn(3), strict=True)
    )
    return first, second, third


def _choice(probe: LinearProbe) -> int:
    assert probe.chosen is not None  # there was validation
    return int(probe.chosen)


def _tested(probes: Sequence[LinearProbe | None], count: int) -> Intervals:
    """(L,) test accuracies at what validation chose; NaN where there is no probe."""
    shares = []
    for probe in probes:
        held = None if probe is None else probe.test_accuracy
        shares.append(np.nan if probe is None or held is None else float(held[_choice(probe)]))
    return _shares(shares, count)


def _shares(shares: float | Sequence[float], count: int) -> Intervals:
    return wilson(np.round(np.asarray(shares) * count), float(count))


def _gathered(
    found: Mapping[str, _Layer], penalties: Floats, split: _Split, final: Tensor
) -> LayerProbes:
    held = list(found.values())
    probes = [layer.probe for layer in held]
    chosen = np.array([_choice(probe) for probe in probes])

    def table(name: str) -> Floats:
        return np.stack([getattr(probe, name).double().numpy() for probe in probes])

    accuracy, loss = table("validation_accuracy"), table("validation_loss")
    rows = np.arange(len(held))
    # Accuracies of equal counts may differ by the rounding of their sums.
    order = np.lexsort((loss[rows, chosen], -accuracy[rows, chosen].round(12)))
    right, count = split.labels[2], len(split.labels[2])
    controls = [layer.control for layer in held]
    return LayerProbes(
        settings={},
        layers=tuple(found),
        penalties=penalties,
        train_accuracy=table("train_accuracy"),
        train_loss=table("train_loss"),
        validation_accuracy=accuracy,
        validation_loss=loss,
        gradient_norm=table("gradient_norm"),
        converged=np.stack([probe.converged.numpy() for probe in probes]),
        chosen=chosen,
        test=_tested(probes, count),
        knn=_shares([layer.knn for layer in held], count),
        control=_tested(controls, count),
        control_train_accuracy=np.array(
            [np.nan if probe is None else float(probe.train_accuracy[0]) for probe in controls]
        ),
        untrained=_tested([layer.untrained for layer in held], count),
        num_features=np.array([layer.num_features for layer in held]),
        width=np.array([layer.width for layer in held]),
        best=int(order[0]),
        chance=float((right == split.labels[0].mode().values).double().mean()),
        network=_shares(float((right == final).double().mean()), count),
    )
