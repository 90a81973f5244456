"""Probabilities: what the members of an ensemble predict, in logarithms from the logits on.

Nothing leaves the logarithms, so what every member finds impossible keeps a finite loss. How good
the predictions are is in `proper_scores` and `calibration`, how they differ in `diversity`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Floats, as_floats

__all__ = ["Members", "ensemble_log_probabilities", "log_odds", "log_probabilities"]

_BLOCK = 2**22  # probabilities that are held at a time, 32 MiB
_SUBNORMAL = 1e-290  # below it, a product with a probability loses digits


@dataclass(frozen=True, eq=False)
class Members:
    """Logits of K networks on the same N examples, looked at and not copied.

    Attributes:
        logits: (K, N, C), or (K, N, 1): one logit of two classes.
    """

    logits: NDArray[np.generic]

    @classmethod
    def of(cls, logits: ArrayLike | Members, num_examples: int | None = None) -> Members:
        """From what a user hands over.

        Args:
            logits: (K, N, C); one logit for two classes: (K, N, 1) or (K, N). If the number of
                examples is known, (N, C) is one network; lists hold one array for each member.

        Raises:
            RequestError: members of unlike shapes, logits that are not finite, another number of
                examples, or a shape (N, N), which may be N members or N classes.
        """
        if isinstance(logits, Members):
            _check_examples(logits.logits, num_examples)
            return logits
        held = _stacked(_array(logits), num_examples)
        if held.ndim != 3 or not held.size:
            raise RequestError(
                f"logits has shape {held.shape}, expected (K, N, C): members, examples, classes."
            )
        _check_examples(held, num_examples)
        for index, member in enumerate(held):
            _check_finite(member, index)
        return cls(held)

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def num_examples(self) -> int:
        return int(self.logits.shape[1])

    @property
    def num_classes(self) -> int:
        return max(int(self.logits.shape[2]), 2)

    def blocks(self, copies: int = 1) -> Iterator[tuple[slice, Tensor]]:
        """Examples in order, as many at a time as memory holds.

        Args:
            copies: how often (n, C) is held beside the members.

        Yields:
            Which examples, and their logits (K, n, C) float64; one logit z is (0, z).
        """
        size = max(1, _BLOCK // (self.num_classes * (len(self) + copies)))
        for start in range(0, self.num_examples, size):
            rows = slice(start, min(start + size, self.num_examples))
            held = torch.from_numpy(self.logits[:, rows].astype(np.float64))
            single = held.shape[-1] == 1
            yield rows, torch.cat([torch.zeros_like(held), held], -1) if single else held

    def ensembles(self, subsets: Sequence[Sequence[int]]) -> Iterator[Tensor]:
        """Logarithms of the mean probabilities of some members: (N, C) for each subset."""
        together = max(1, 4 * _BLOCK // (self.num_examples * self.num_classes))
        for start in range(0, len(subsets), together):
            some = subsets[start : start + together]
            blocks = [_means(one.log_softmax(-1), some) for _, one in self.blocks(len(some))]
            yield from torch.cat(blocks, 1)


def log_probabilities(logits: ArrayLike) -> Floats:
    """(K, N, C) log-probabilities of each member, finite for finite logits of any size.

    Args:
        logits: (K, N, C). One logit z of two classes, (K, N, 1) or (K, N), gives two columns, of
            the classes 0 and 1, like the logits (0, z).

    Raises:
        RequestError: another shape, or logits that are not finite.
    """
    members = Members.of(logits)
    parts = [block.log_softmax(-1).numpy() for _, block in members.blocks()]
    return np.concatenate(parts, axis=1)


def ensemble_log_probabilities(log_probability: ArrayLike) -> Floats:
    """(N, C) logarithms of the mean of the members' probabilities: logsumexp_k log p_k - log K.

    Args:
        log_probability: (K, N, C); -inf is a probability of 0.

    Raises:
        RequestError: another shape.
    """
    found: Floats = log_mean_exp(torch.from_numpy(_log_probability(log_probability))).numpy()
    return found


def log_mean_exp(values: Tensor) -> Tensor:
    """Log of the mean of exp over the first axis; of equal values exactly these."""
    # The mean inside: log K - log K would leave rounding between copies of one member.
    peak = values.amax(0).clamp(min=-torch.finfo(values.dtype).max)
    return (values - peak).exp().mean(0).log() + peak


def log_odds(log_probability: ArrayLike) -> Floats:
    """(N,) log-odds of the most probable class, log p - log(1 - p), of (N, C).

    It orders examples like p itself, and still does so where p rounds to 1.
    """
    values = torch.from_numpy(as_floats(log_probability, "log_probability", "(N, C)"))
    top = values.argmax(1, keepdim=True)
    others = values.scatter(1, top, -math.inf).logsumexp(1)
    found: Floats = (values.gather(1, top).squeeze(1) - others).numpy()
    return found


def _log_probability(values: ArrayLike) -> Floats:
    held = as_floats(values, "log_probability", "(K, N, C)")
    if not held.size or np.isnan(held).any() or held.max() > 1e-6:
        raise RequestError(
            f"log_probability has shape {held.shape} and the largest entry is "
            f"{held.max(initial=-math.inf):.3g}, expected (K, N, C) logarithms of probabilities, "
            "at most 0. Use log_probabilities(logits)."
        )
    return held


def _means(log_probability: Tensor, subsets: Sequence[Sequence[int]]) -> Tensor:
    """(S, n, C) of (K, n, C): all subsets by one product of matrices."""
    weights = torch.zeros(len(subsets), len(log_probability), dtype=torch.float64)
    for row, subset in enumerate(subsets):
        weights[row, list(subset)] = 1 / len(subset)
    peak = log_probability.amax(0)
    shares = (log_probability - peak).exp().flatten(1)
    means = (weights @ shares).view(len(subsets), *peak.shape)
    lost = (means < _SUBNORMAL).flatten(1).any(1)
    found = means.clamp(min=_SUBNORMAL).log() + peak
    for row in lost.nonzero().flatten().tolist():  # the member at the peak is not in the subset
        found[row] = log_mean_exp(log_probability[list(subsets[row])])
    return found


def _array(values: ArrayLike) -> NDArray[np.generic]:
    if isinstance(values, Tensor):
        held = values.detach().cpu()
        array: NDArray[np.generic] = (
            held.float() if held.dtype == torch.bfloat16 else held
        ).numpy()
    elif isinstance(values, list | tuple) and values:
        parts = [_array(part) for part in values]
        for index, part in enumerate(parts):
            if part.shape != parts[0].shape:
                raise RequestError(
                    f"member {index} has logits of shape {part.shape}, member 0 of shape "
                    f"{parts[0].shape}: expected the same examples and classes."
                )
        array = np.stack(parts)
    else:
        array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise RequestError(f"logits holds {array.dtype}, expected numbers (K, N, C).")
    return array


def _stacked(array: NDArray[np.generic], num_examples: int | None) -> NDArray[np.generic]:
    """With its three axes, where two were given."""
    if array.ndim != 2:
        return array
    if num_examples is None or array.shape[0] != num_examples:
        return array[:, :, None]  # (K, N): one logit
    if array.shape[1] == num_examples:
        raise RequestError(
            f"logits has shape {array.shape} for {num_examples} labels, which may be members with "
            "one logit or one member with as many classes. Give (K, N, 1), or (1, N, C)."
        )
    return array[None]


def _check_examples(held: NDArray[np.generic], num_examples: int | None) -> None:
    if num_examples is not None and held.shape[1] != num_examples:
        raise RequestError(
            f"logits has {held.shape[1]:,} examples and there are {num_examples:,} labels: "
            "expected (K, N, C) and (N,)."
        )


def _check_finite(member: NDArray[np.generic], index: int) -> None:
    finite = np.isfinite(member).all(-1)
    if not finite.all():
        bad = np.flatnonzero(~finite)
        raise RequestError(
            f"member {index} has logits that are not finite at {len(bad):,} of {len(finite):,} "
            f"examples, the first is {bad[0]}. Leave the member out, or give float64 logits."
        )
