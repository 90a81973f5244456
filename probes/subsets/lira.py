"""LiRA: was a model trained on an example? The likelihood ratio of its log odds says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from landscape.errors import RequestError, unknown_choice
from landscape.probes.arrays import ArrayLike, Bools, Floats, Ints, as_bools, as_floats
from landscape.probes.ranking import Roc, roc

__all__ = ["Lira", "lira"]

_CHOICES = {
    "attack": ("online", "offline"),
    "variance": ("per_example", "pooled"),
    "center": ("median", "mean"),
}


@dataclass(frozen=True, eq=False)
class Lira:
    """Scores of K attacked models on n examples; higher where it seems to have been trained on one.

    Attributes:
        attack: how they were made.
        score: (K, n) of "online" log N(phi; mu_in, s_in) - log N(phi; mu_out, s_out); of
            "offline" (phi - mu_out) / s_out, standard deviations above the models that never saw
            the example: its normal cdf is the published score, which saturates. NaN where too few
            of the other models saw the example, or did not.
        member: (K, n) whether it was trained on it.
        num_in: (K, n) other models that saw the example.
        num_out: (K, n) other models that did not.
        targets: (K,) the attacked models.
    """

    attack: Literal["online", "offline"]
    score: Floats = field(repr=False)
    member: Bools = field(repr=False)
    num_in: Ints = field(repr=False)
    num_out: Ints = field(repr=False)
    targets: Ints

    @property
    def num_undefined(self) -> int:
        """Pairs of a model and an example without a score."""
        return int(np.isnan(self.score).sum())

    def roc(self) -> Roc:
        """Of all scores together; pairs of a model and an example count as independent."""
        return roc(self.score.ravel(), self.member.ravel())


def lira(
    masks: ArrayLike,
    values: ArrayLike,
    targets: Sequence[int] | None = None,
    *,
    attack: Literal["online", "offline"] = "online",
    variance: Literal["per_example", "pooled"] = "per_example",
    center: Literal["median", "mean"] = "median",
    progress: Callable[[int, int, str], None] | None = None,
) -> Lira:
    """Attack each target with all other models, whose membership is known.

    Args:
        masks: (T, n) which examples a model was trained on.
        values: (T, n) log odds of the true class, see `log_odds`; they are left as they are.
        targets: models that are attacked; by default each in turn.
        attack: "online" uses the models that saw an example and those that did not; "offline" the
            latter only.
        variance: "pooled" over the examples is steadier below some 64 models.
        center: of the values, for the means.
        progress: called with (targets done, targets, words).

    Raises:
        RequestError: shapes that do not go together, values that are not finite, an unknown choice,
            or a single model: there is no other to compare it with.

    Source: Carlini et al. 2022, arXiv:2112.03570.
    """
    for name, choice in (("attack", attack), ("variance", variance), ("center", center)):
        if choice not in _CHOICES[name]:
            raise unknown_choice(name, choice, _CHOICES[name])
    inside, held = as_bools(masks, "masks", "(T, n)"), as_floats(values, "values", "(T, n)")
    if inside.shape != held.shape:
        raise RequestError(f"masks has shape {inside.shape} and values {held.shape}. Give equal.")
    if not np.isfinite(held).all():
        raise RequestError("values are not finite. Take them from logits by log_odds.")
    models = len(inside)
    if models < 3:
        raise RequestError(
            f"there are {models} models: beside the attacked one there must be two at least, or "
            "the spread of the values is unknown. Train more; 64 are usual."
        )
    chosen = np.arange(models) if targets is None else np.asarray(targets, dtype=np.int64)
    if not len(chosen) or chosen.min() < 0 or chosen.max() >= models:
        raise RequestError(f"targets={chosen.tolist()}, expected models in 0 ... {models - 1}.")
    score = np.empty((len(chosen), inside.shape[1]))
    for row, target in enumerate(chosen):
        others = np.arange(models) != target
        phi, known, seen = held[target], held[others], inside[others]
        middle, spread = _normal(known, ~seen, center, variance)
        with np.errstate(divide="ignore", invalid="ignore"):
            unseen = (phi - middle) / spread
            score[row] = unseen
            if attack == "online":
                middle, own_spread = _normal(known, seen, center, variance)
                own = (phi - middle) / own_spread
                score[row] = (unseen**2 - own**2) / 2 + np.log(spread) - np.log(own_spread)
        if progress is not None:
            progress(row + 1, len(chosen), "targets")
    score[~np.isfinite(score)] = np.nan  # a spread of 0 says nothing
    num_in = inside.sum(0) - inside[chosen]
    return Lira(attack, score, inside[chosen], num_in, models - 1 - num_in, chosen)


def _normal(values: Floats, group: Bools, center: str, variance: str) -> tuple[Floats, Floats]:
    """Middle (n,) and standard deviation (n,) of the values of a group; NaN where it is small."""
    count = group.sum(0)
    filled = np.where(group, values, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.where(group, values, 0.0).sum(0) / count
        squares = np.where(group, np.square(values - mean), 0.0).sum(0)
        if variance == "pooled":
            some = count > 1
            spread = np.full(len(count), np.sqrt(squares[some].sum() / (count[some] - 1).sum()))
        else:
            spread = np.where(count > 1, np.sqrt(squares / (count - 1)), np.nan)
    if center == "median":
        ranked = np.sort(filled, axis=0)  # NaN last
        low, high = np.maximum(count - 1, 0) // 2, count // 2
        columns = np.arange(len(count))
        mean = (ranked[low, columns] + ranked[np.minimum(high, len(values) - 1), columns]) / 2
    return mean, spread
