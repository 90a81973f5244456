"""StreamingCKA: many sets of features in one pass over batches, exactly as if they came at once.

`products` adds up, `hsic` holds the algebra. A mean over minibatches of CKA, or of its parts, would
be another number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from torch import Tensor

from landscape.errors import RequestError
from landscape.memory import available_bytes, format_bytes
from landscape.similarity.hsic import LEAST_EXAMPLES, Rows, Sums
from landscape.similarity.products import Pair, Products, rows_by_kernels

__all__ = ["CKAEstimate", "Features", "StreamingCKA"]

Array = NDArray[np.float64]
Features: TypeAlias = Tensor | ArrayLike

_MEMORY_SHARE = 0.8  # of what is free, before a request is refused
_EXACT = 1e-10  # spread of the jackknife below which there is nothing but rounding


@dataclass(frozen=True)
class CKAEstimate:
    """CKA, and how far that of other examples of the same kind may be from it.

    Attributes:
        value: at most 1; NaN where features are constant.
        standard_error: by the jackknife; NaN with too few examples to leave one out.
        interval: (low, high) by Student's t on the scale of atanh(CKA). Where the true CKA is 0 it
            is wider than need be: there the jackknife's variance is about twice the true one.
        confidence: of the interval.
        num_examples: that were seen.
    """

    value: float
    standard_error: float
    interval: tuple[float, float]
    confidence: float
    num_examples: int

    def __float__(self) -> float:
        return self.value


class StreamingCKA:
    """CKA between pairs of named sets of features, batch by batch.

    Features are held as they come while that takes less room than the products X'Y of all pairs;
    then products alone are kept, however many examples follow. Both forms give the same numbers.

    Args:
        pairs: the names to compare, such as `itertools.product(layers_of_a, layers_of_b)`.
        debiased: as in `cka`.

    Attributes:
        num_examples: seen so far.
        names: of the features, each once.
    """

    def __init__(self, pairs: Iterable[Pair], *, debiased: bool = True) -> None:
        wanted = tuple(dict.fromkeys(pairs))
        if not wanted:
            raise RequestError("there are no pairs to compare. Give (name, name) pairs.")
        self.debiased = debiased
        self.num_examples = 0
        self.names = tuple(dict.fromkeys(name for pair in wanted for name in pair))
        own = [(name, name) for name in self.names]
        once = {frozenset(pair): pair for pair in reversed([*own, *wanted])}
        self._needed = tuple(reversed(once.values()))
        self._widths: dict[str, int] = {}
        self._pivots: dict[str, Tensor] = {}
        self._held: list[dict[str, Tensor]] | None = []
        self._products = Products(self._needed)
        self._rows: dict[Pair, list[Rows]] = {}
        self._num_revisited = 0

    @property
    def needs_second_pass(self) -> bool:
        """Whether `estimate` needs each batch once more, by `revisit`: features were not held."""
        return self._held is None

    def update(self, features: Mapping[str, Features]) -> None:
        """Take one batch: for each name (n, ...) of the same n examples.

        Raises:
            RequestError: names that are missing, numbers of examples or widths that do not fit,
                complex features, or too little memory.
        """
        batch = self._checked(features)
        if self._num_revisited:
            raise RequestError("a second pass has begun: all batches come before the first revisit")
        count = len(next(iter(batch.values())))
        if not count:
            return
        if not self._pivots:
            # Exact for features that are constant, and free of cancellation for all others.
            self._pivots = {name: x[0].double().clone() for name, x in batch.items()}
        if self._held is not None:
            own = _bytes(batch)
            if own + sum(map(_bytes, self._held)) <= self._product_bytes():
                # Of one name at a time there is a copy in float64, and what it is made from.
                whole = (self.num_examples + count) * max(self._widths.values())
                self._check_memory(own + 16 * whole, batch)
                # A copy: a loader or an in-place layer may write to the same memory again.
                self._held.append({name: x.clone() for name, x in batch.items()})
            else:
                self._check_memory(self._product_bytes(), batch)
                for part in self._held:
                    self._products.add(self._shifted(part))
                self._held = None
        if self._held is None:
            self._products.add(self._shifted(batch))
        self._rows.clear()
        self.num_examples += count

    def revisit(self, features: Mapping[str, Features]) -> None:
        """Take one batch of the second pass, in any order: what `estimate` needs if not held."""
        if self._held is not None:
            return
        batch = self._checked(features)
        shifted = self._shifted(batch)
        for pair, rows in self._products.rows(shifted).items():
            self._rows.setdefault(pair, []).append(rows)
        self._num_revisited += len(next(iter(batch.values())))

    def value(self, first: str, second: str) -> float:
        """CKA of two names that are a pair, in either order.

        Raises:
            RequestError: no such pair, or fewer than four examples so far.
        """
        one, other, between = (self._sums(pair) for pair in self._triple(first, second))
        return float(
            _ratio(*(np.array(s.hsic(debiased=self.debiased)) for s in (one, other, between)))
        )

    def estimate(self, first: str, second: str, *, confidence: float = 0.95) -> CKAEstimate:
        """`value` with its interval; see `cka_estimate`.

        Raises:
            RequestError: as `value`; a second pass that is needed and not complete; a confidence
                that is not between 0 and 1.
        """
        if not 0 < confidence < 1:
            raise RequestError(f"confidence={confidence}, expected a number between 0 and 1.")
        if self._held is None and self._num_revisited != self.num_examples:
            raise RequestError(
                f"{self._num_revisited} of {self.num_examples} examples came a second time. The "
                "features were too many to hold: call revisit(features) once for each batch."
            )
        value = self.value(first, second)
        left_out = np.full(1, np.nan)
        if self.num_examples > LEAST_EXAMPLES:
            left_out = _ratio(*map(self._without_each, self._triple(first, second)))
        error, interval = _jackknife(value, left_out, confidence)
        return CKAEstimate(value, error, interval, confidence, self.num_examples)

    def _triple(self, first: str, second: str) -> tuple[Pair, Pair, Pair]:
        if self.num_examples < LEAST_EXAMPLES:
            raise RequestError(
                f"{self.num_examples} examples, expected at least {LEAST_EXAMPLES}: of fewer, CKA "
                "is not defined. Give more examples."
            )
        for pair in ((first, second), (second, first)):
            if pair in self._needed:
                return (first, first), (second, second), pair
        raise RequestError(
            f"({first!r}, {second!r}) is none of the pairs to compare. Name it when making this."
        )

    def _without_each(self, pair: Pair) -> Array:
        rows = _joined(self._all_rows()[pair])
        return rows.without_each(self._sums(pair), debiased=self.debiased)

    def _sums(self, pair: Pair) -> Sums:
        if self._held is None:
            return self._products.sums(pair)
        return _joined(self._all_rows()[pair]).sums()

    def _all_rows(self) -> dict[Pair, list[Rows]]:
        if self._held is not None and not self._rows:
            found = rows_by_kernels(self.names, self._centred, self._needed)
            self._rows = {pair: [rows] for pair, rows in found.items()}
        return self._rows

    def _centred(self, name: str) -> Tensor:
        assert self._held is not None
        whole = self._shifted_one(name, torch.cat([part[name] for part in self._held]))
        return whole.sub_(whole.mean(0))

    def _checked(self, features: Mapping[str, Features]) -> dict[str, Tensor]:
        missing = [name for name in self.names if name not in features]
        if missing:
            raise RequestError(f"the features {missing[0]!r} are missing: give all, batch by batch")
        batch = {}
        for name in self.names:
            given = features[name]
            x = (
                given if isinstance(given, Tensor) else torch.as_tensor(np.asarray(given))
            ).detach()
            if x.ndim == 0 or x.is_complex():
                raise RequestError(
                    f"the features {name!r} are a {x.dtype} of shape {tuple(x.shape)}, expected "
                    "real numbers (n, ...), one row an example."
                )
            batch[name] = x.reshape(len(x), math.prod(x.shape[1:]))
        counts = {name: len(x) for name, x in batch.items()}
        if len(set(counts.values())) > 1:
            shown = ", ".join(f"{count} of {name!r}" for name, count in list(counts.items())[:4])
            raise RequestError(
                f"the numbers of examples differ: {shown}. Row i is example i in all."
            )
        for name, x in batch.items():
            if self._widths.setdefault(name, x.shape[1]) != x.shape[1]:
                raise RequestError(
                    f"the features {name!r} were {self._widths[name]} wide, and are now "
                    f"{x.shape[1]}: all batches must be alike."
                )
        return batch

    def _shifted_one(self, name: str, x: Tensor) -> Tensor:
        return x.double() - self._pivots[name].to(x.device)

    def _shifted(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: self._shifted_one(name, x) for name, x in batch.items()}

    def _product_bytes(self) -> int:
        return 8 * sum(self._widths[i] * self._widths[j] for i, j in self._needed)

    def _check_memory(self, wanted: int, batch: Mapping[str, Tensor]) -> None:
        free = available_bytes(next(iter(batch.values())).device)
        if wanted > _MEMORY_SHARE * free:
            raise RequestError(
                f"the features need {format_bytes(wanted)} more, and {format_bytes(free)} are free "
                f"({sum(self._widths.values()):,} features an example). Average images over their "
                "places (pool='spatial'), or name fewer layers or examples."
            )


def _bytes(batch: Mapping[str, Tensor]) -> int:
    return sum(x.numel() * x.element_size() for x in batch.values())


def _joined(parts: list[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    names = ("pairs", "first", "second", "first_of_second", "second_of_first")
    return Rows(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _ratio(one: Array, other: Array, between: Array) -> Array:
    """CKA of HSICs; NaN where a set of features has none of its own."""
    with np.errstate(invalid="ignore", divide="ignore"):
        # Of equal ones the root is taken exactly: identical features have CKA 1, and no less.
        scale = np.where(one == other, one, np.sqrt(one) * np.sqrt(other))
        found = between / scale
    return np.where((one > 0) & (other > 0), np.minimum(found, 1.0), np.nan)


def _jackknife(
    value: float, left_out: Array, confidence: float
) -> tuple[float, tuple[float, float]]:
    """Standard error, and the interval on the scale of atanh, on which it is symmetric."""
    count = len(left_out)
    if math.isnan(value) or not np.isfinite(left_out).all() or count < 2:
        return math.nan, (math.nan, math.nan)

    def spread(values: Array) -> float:
        return float(np.sqrt((count - 1) * np.var(values)))

    error = spread(left_out)
    if error < _EXACT:
        return error, (value, value)
    limit = 1 - np.finfo(np.float64).eps
    center = np.arctanh(np.clip(value, -limit, limit))
    half = stats.t.ppf((1 + confidence) / 2, count - 1) * spread(
        np.arctanh(np.clip(left_out, -limit, limit))
    )
    return error, (float(np.tanh(center - half)), float(np.tanh(center + half)))
