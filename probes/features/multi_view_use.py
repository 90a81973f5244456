"""Feature use: which features of multi-view data a network goes by, and how many.

A feature is a block of the inputs; `swaps` exchanges blocks between examples, and `trainers.data`
draws such data. `band_use` asks the same of the frequencies of images.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from scipy import special
from torch import Tensor

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.answers import answers
from landscape.probes.arrays import ArrayLike, Floats, as_labels
from landscape.probes.features.network import Network, inputs_of, opened
from landscape.probes.features.sparsity_measures import gini
from landscape.probes.features.swaps import (
    answered,
    crossed_gains,
    flips,
    same_class,
    some_other_class,
)
from landscape.result import Result
from landscape.similarity.bootstrap import Intervals, bootstrap, wilson
from landscape.trainers.data.multi_view import single_feature_sets, ticks

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["FeatureUse", "feature_use", "tick_use"]

_NUM_TICKS = 16
_SUMMARIES = {
    "effective_number": ("feature", "exp of the entropy of the use of features"),
    "gini": ("1", "Gini index of the use of features"),
    "participation_ratio": ("feature", "participation ratio of the use of features"),
    "gap": ("1", "use of the first feature - use of the second"),
}
_MEANINGS = {
    "accuracy": "accuracy above chance on this feature alone",
    "flip_rate": "share of answers that another class's feature changes",
}


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureUse(Result):
    """How much a network goes by each of F features.

    Attributes:
        accuracy: (F,) on examples in which this feature alone tells the class, with Wilson
            intervals; NaN where there are no such examples.
        flip_rate: (F,) share of examples whose answer changes when the feature is replaced by that
            of a random example of another class, with Wilson intervals.
        control_rate: (F,) the same, of an example of the same class: changes that do not come from
            the class.
        use: (F,) see `use_of`: at least 0, and exactly 0 of a feature that is not looked at. With
            bootstrap intervals over examples.
        use_of: "accuracy": above chance, each example shown once with each class's feature, so
            that the rest of it cannot tell; "flip_rate" where there are no such examples.
        summaries: `effective_number`, exp of the entropy of use / its sum; `gini`;
            `participation_ratio`, (sum use)^2 / sum use^2; `gap` between the first two. With
            bootstrap intervals, too. NaN, but for the gap, where no feature is used.
        full_accuracy: on the data that was swapped, with Wilson's interval.
        chance: of answering by no feature, 1 / classes.
        num_examples: that were swapped.
    """

    probe: ClassVar[str] = "features"

    accuracy: Intervals
    flip_rate: Intervals
    control_rate: Intervals
    use: Intervals
    use_of: Literal["accuracy", "flip_rate"]
    summaries: Mapping[str, Intervals]
    full_accuracy: Intervals
    chance: float
    num_examples: int

    @property
    def status(self) -> str:
        """ "converged", or that there is nothing to sum up."""
        return "converged" if self.use.value.any() else "no feature is used: its numbers are NaN"

    @property
    def effective_number(self) -> float:
        """How many features are used: 1 if one alone, F if all alike."""
        return float(self.summaries["effective_number"].value)

    @property
    def gini(self) -> float:
        """Gini index of the use: 0 if all features alike, 1 - 1 / F if one alone."""
        return float(self.summaries["gini"].value)

    @property
    def participation_ratio(self) -> float:
        """As `effective_number`, but with more weight on the features that are used most."""
        return float(self.summaries["participation_ratio"].value)

    @property
    def gap(self) -> float:
        """Use of the first feature above that of the second."""
        return float(self.summaries["gap"].value)

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Along `feature`; `sorted_use` along `rank`, the most used first."""
        import xarray as xr

        count = len(self.use.value)
        dataset = xr.Dataset(coords={"feature": np.arange(count), "rank": np.arange(1, count + 1)})

        def put(name: str, dims: tuple[str, ...], values: object, unit: str, meaning: str) -> None:
            dataset[name] = (dims, values, {"units": unit, "long_name": meaning})

        def put_intervals(
            names: tuple[str, str, str],
            dims: tuple[str, ...],
            held: Intervals,
            unit: str,
            meaning: str,
        ) -> None:
            put(names[0], dims, held.value, unit, meaning)
            put(names[1], dims, held.low, unit, f"lower end, {meaning}")
            put(names[2], dims, held.high, unit, f"upper end, {meaning}")

        by_feature = ("feature",)
        alone = "accuracy on this feature alone"
        put_intervals(("accuracy", "low", "high"), by_feature, self.accuracy, "1", alone)
        for prefix, held, whose in (
            ("flip", self.flip_rate, "another class's"),
            ("control", self.control_rate, "the same class's"),
        ):
            names = (f"{prefix}_rate", f"{prefix}_low", f"{prefix}_high")
            meaning = f"share of answers that {whose} feature changes"
            put_intervals(names, by_feature, held, "1", meaning)
        meaning = _MEANINGS[self.use_of]
        put_intervals(("use", "use_low", "use_high"), by_feature, self.use, "1", meaning)
        put("sorted_use", ("rank",), np.sort(self.use.value)[::-1], "1", f"{meaning}, sorted")
        for name, (unit, meaning) in _SUMMARIES.items():
            names = (name, f"{name}_low", f"{name}_high")
            put_intervals(names, (), self.summaries[name], unit, meaning)
        names = ("full_accuracy", "full_low", "full_high")
        put_intervals(names, (), self.full_accuracy, "1", "accuracy on the data")
        put("chance", (), self.chance, "1", "accuracy by no feature")
        put("num_examples", (), self.num_examples, "1", "examples that were swapped")
        return dataset


def feature_use(
    network: Objective | Network,
    data: tuple[ArrayLike, ArrayLike] | None = None,
    *,
    num_features: int | None = None,
    block: int = 2,
    blocks: Sequence[Sequence[int]] | None = None,
    single: tuple[ArrayLike, ArrayLike] | None = None,
    theta: Tensor | None = None,
    seed: int = 0,
) -> FeatureUse:
    """Which features a network uses: by what each tells alone, and by exchanging it.

    A swap gives an example the feature of another: both stay points of the data. Where several
    features tell the same, one of them alone may change no answer: what a network could go by is
    seen in `single`. Two classes may be one logit, class 1 where it is above 0, or two.

    Args:
        network: an objective, or a function of inputs (n, ...) that gives logits.
        data: inputs (N, ...) and labels (N,) to swap. None: those of the objective; of a function,
            2,000 ticks, and `single` their single-feature sets.
        num_features, block: features are so many blocks of `block` neighbouring entries of an
            input, flattened. None: as many as there are, 16 of ticks.
        blocks: entries of each feature, if they are not neighbours.
        single: for each feature, inputs (F, n, ...) and labels (F, n), in which it alone tells the
            class, as `single_feature_sets` draws them.
        theta: (n,) where; by default the objective's own point.
        seed: of the partners in swaps, of the bootstrap, and of ticks.

    Raises:
        RequestError: shapes or blocks that do not fit together, a single class, several inputs.

    Source: Sadrtdinov et al. 2024, arXiv:2410.22113, for single features.
    """
    began = time.perf_counter()
    drawn = data is None and not isinstance(network, Objective)
    if drawn:
        count = _NUM_TICKS if num_features is None else num_features
        data = ticks("test", seed, num_features=count)
        single = single_feature_sets(seed, count) if single is None else single
    partners, resampling = np.random.SeedSequence(seed).spawn(2)
    generator = np.random.default_rng(partners)
    with opened(network, theta) as asked:
        inputs, labels = _data_of(network, theta) if data is None else _checked(*data)
        features = _blocks(inputs, num_features, block, blocks)
        others = [some_other_class(labels, generator) for _ in features]
        alike = [same_class(labels, generator) for _ in features]
        changed, control = (
            torch.stack(
                [flips(asked, inputs, *pair) for pair in zip(features, donors, strict=True)], 1
            )
            for donors in (others, alike)
        )
        right = (answered(asked, inputs) == labels).sum().item()
        alone = None if single is None else _alone(asked, single, inputs, features, generator)
    size = float(len(labels))
    gains = changed if alone is None else alone.gains
    summaries = _summaries(gains, int(resampling.generate_state(1)[0]))
    nothing = np.full(len(features), np.nan)
    return FeatureUse(
        settings={
            "num_features": len(features),
            "seed": seed,
            "data": "ticks" if drawn else "own",
            "single": alone is not None,
        },
        provenance=network.provenance() if isinstance(network, Objective) else {},
        wall_time=time.perf_counter() - began,
        accuracy=Intervals(nothing, nothing, nothing) if alone is None else alone.accuracy,
        flip_rate=wilson(changed.sum(0).numpy(), size),
        control_rate=wilson(control.sum(0).numpy(), size),
        use=summaries.pop("use"),
        use_of="flip_rate" if alone is None else "accuracy",
        summaries=summaries,
        full_accuracy=wilson(np.asarray(float(right)), size),
        chance=1 / len(torch.unique(labels)),
        num_examples=len(labels),
    )


def tick_use(
    objective: Objective,
    *,
    seed: int,
    num_features: int = _NUM_TICKS,
    num_examples: int = 1000,
    margin: float = 0.1,
    shape: str = "tick",
    theta: Tensor | None = None,
) -> FeatureUse:
    """`feature_use` of a network that was trained on ticks, with their single-feature sets.

    Args:
        objective: its data are `ticks`; they are what is swapped.
        seed: of the data that the network saw, see `single_feature_sets`.
        num_features, margin, shape: of the data, as in `ticks`.
        num_examples: of each set.
        theta: (n,) where; by default the objective's own point.

    Raises:
        RequestError: data of another width, or what `single_feature_sets` refuses.

    Source: Sadrtdinov et al. 2024, arXiv:2410.22113.
    """
    single = single_feature_sets(seed, num_features, num_examples, margin, shape)
    return feature_use(objective, num_features=num_features, single=single, theta=theta, seed=seed)


@dataclass(frozen=True, eq=False)
class _Alone:
    """Accuracy (F,) on single-feature sets, and what each example adds to the use (n, F)."""

    accuracy: Intervals
    gains: Tensor


def _alone(
    network: Network,
    single: tuple[ArrayLike, ArrayLike],
    inputs: Tensor,
    features: Sequence[Sequence[int]],
    generator: np.random.Generator,
) -> _Alone:
    sets = _tensor(single[0]).to(inputs.device)
    if sets.shape[:1] != (len(features),) or sets.shape[2:] != inputs.shape[1:]:
        raise RequestError(
            f"the inputs of single have shape {tuple(sets.shape)}, expected ({len(features)}, n, "
            f"{', '.join(map(str, inputs.shape[1:]))}): a set for each feature."
        )
    classes = _tensor(single[1])
    if classes.shape != sets.shape[:2]:
        raise RequestError(
            f"the labels of single have shape {tuple(classes.shape)}, expected "
            f"{tuple(sets.shape[:2])}: (features, n)."
        )
    right, gains = [], []
    for shown, targets, block in zip(sets, classes, features, strict=True):
        labels = torch.from_numpy(as_labels(targets, "the labels of single"))
        right.append((answered(network, shown) == labels).sum().item())
        gains.append(crossed_gains(network, shown, labels, block, generator))
    return _Alone(wilson(np.array(right, float), float(sets.shape[1])), torch.stack(gains, 1))


def _summaries(gains: Tensor, seed: int) -> dict[str, Intervals]:
    count = len(gains)

    def statistic(sums: Floats) -> dict[str, Floats]:
        use = np.clip(sums / count, 0, None)
        total = use.sum(-1)
        with np.errstate(invalid="ignore"):  # no feature is used: NaN
            entropy = special.entr(use / total[..., None]).sum(-1)
            ratio = total**2 / np.square(use).sum(-1)
        ascending = np.sort(use, -1)
        alone = use.shape[-1] == 1
        return {
            "use": use,
            "effective_number": np.exp(entropy),
            "gini": gini(use).numpy(),
            "participation_ratio": ratio,
            "gap": ascending[..., -1] - (np.nan if alone else ascending[..., -2]),
        }

    return bootstrap(gains, statistic, seed=seed)


def _data_of(network: Objective | Network, theta: Tensor | None) -> tuple[Tensor, Tensor]:
    assert isinstance(network, Objective)  # a function has data of its own by now
    inputs = torch.cat([inputs_of(batch) for batch in network.batches])
    labels = answers(network, theta).labels.cpu()
    if len(inputs) != len(labels):
        raise RequestError(
            f"there are {len(labels)} classes for {len(inputs)} inputs: swaps need one class for "
            "each input."
        )
    return inputs, labels


def _checked(inputs: ArrayLike, labels: ArrayLike) -> tuple[Tensor, Tensor]:
    held, classes = _tensor(inputs), torch.from_numpy(as_labels(labels, "labels"))
    if held.ndim < 2 or len(held) != len(classes) or not len(held):
        raise RequestError(
            f"inputs have shape {tuple(held.shape)} and labels {tuple(classes.shape)}, expected "
            "(N, ...) and (N,)."
        )
    return held, classes


def _tensor(values: ArrayLike) -> Tensor:
    return values.detach() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))


def _blocks(
    inputs: Tensor,
    num_features: int | None,
    block: int,
    blocks: Sequence[Sequence[int]] | None,
) -> list[list[int]]:
    width = inputs[0].numel()
    if blocks is None:
        if block < 1:
            raise RequestError(f"block={block}, expected 1 or more entries.")
        count = width // block if num_features is None else num_features
        if count < 1 or count * block > width or (num_features is None and width % block):
            raise RequestError(
                f"an input has {width} entries, which are not {num_features or 'whole'} blocks of "
                f"{block}. Give num_features and block, or the entries of each feature: blocks."
            )
        return [list(range(k * block, (k + 1) * block)) for k in range(count)]
    found = [[int(entry) for entry in entries] for entries in blocks]
    if num_features not in (None, len(found)):
        raise RequestError(f"num_features={num_features}, and there are {len(found)} blocks.")
    if not found or any(not block or min(block) < 0 or max(block) >= width for block in found):
        raise RequestError(
            f"blocks={found}, expected lists of entries from 0 to {width - 1}, none of them empty."
        )
    return found
