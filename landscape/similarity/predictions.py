"""Predictions: where networks answer differently, how far their probabilities are apart.

Each measure follows from sums over examples, so `bootstrap` gives it an interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from landscape.accuracy import correctness
from landscape.errors import RequestError
from landscape.losses import Loss, Term
from landscape.memory import available_bytes, format_bytes
from landscape.similarity.bootstrap import Intervals, bootstrap, wilson

__all__ = ["MEASURES", "PredictionSums", "js_divergence", "kl_divergence"]

Array = NDArray[np.float64]

_NUM_BINS = 15  # of confidences, as in Guo et al. 2017
_MEMORY_SHARE = 0.5
_ROUNDING = 1e-13

# Unit and meaning; those of one network first, then those of two.
MEASURES = {
    "accuracy": ("1", "share of elements that are right"),
    "calibration_error": ("1", f"expected calibration error, {_NUM_BINS} equal bins"),
    "disagreement": ("1", "share of elements whose predicted classes differ"),
    "normalized_disagreement": ("1", "disagreement / (1 - mean of both accuracies)"),
    "error_overlap": ("1", "elements that both get wrong / that one or both get wrong"),
    "error_kappa": ("1", "Cohen's kappa of right and wrong"),
    "js_divergence": ("nat", "Jensen-Shannon divergence of the probabilities"),
    "kl_divergence": ("nat", "KL(network || other network)"),
    "output_correlation": ("1", "correlation of outputs (logits: less their mean over classes)"),
    "calibration_difference": ("1", "calibration error of the other network - of the network"),
}
OF_ONE = ("accuracy", "calibration_error")
_OF_PAIR = ("differ", "both_wrong", "js", "kl", "lk", "crossed")


@dataclass(frozen=True, eq=False)
class _Answers:
    """One network's on one batch, element by element.

    Attributes:
        outputs: (n, e, C) float64; of classes logits less their mean, else C = 1.
        log_probabilities: (n, e, C) of classes.
        counted: (n, e) bool.
        right: (n, e) float64; NaN where it is unknown.
    """

    outputs: Tensor
    log_probabilities: Tensor | None
    counted: Tensor
    right: Tensor


class PredictionSums:
    """What each example adds to the measures of T networks, batch by batch.

    Args:
        loss: says what the outputs are: "cross_entropy" and the like have classes, "bce" two for
            each element; any other has outputs alone.
    """

    def __init__(self, loss: Loss, num_networks: int) -> None:
        self._loss, self._num_networks = loss, num_networks
        self._pairs = list(combinations_with_replacement(range(num_networks), 2))
        self._columns: list[Tensor] = []
        self._has_classes = True
        self._single = True

    def update(self, terms: Sequence[Term]) -> None:
        """Take the terms of all networks on one batch; without outputs there is nothing to take.

        Raises:
            RequestError: too little memory for so many pairs of networks.
        """
        if any(term.output is None or term.target is None for term in terms):
            return
        answers = [_answers(self._loss, term) for term in terms]
        self._has_classes = self._has_classes and answers[0].log_probabilities is not None
        self._single = self._single and answers[0].counted.shape[1] == 1
        own = [part for one in answers for part in self._of_one(one)]
        between = [part for i, j in self._pairs for part in self._of_pair(answers[i], answers[j])]
        columns = torch.stack([*own, *between], 1).cpu()
        free = available_bytes(columns.device)
        if columns.nbytes > _MEMORY_SHARE * free:
            raise RequestError(
                f"{len(self._pairs)} pairs of networks need {format_bytes(columns.nbytes)} more, "
                f"and {format_bytes(free)} are free. Compare fewer networks or examples."
            )
        self._columns.append(columns)

    def intervals(self, *, confidence: float = 0.95, seed: int = 0) -> dict[str, Intervals]:
        """Every measure by name, of T networks (T,) or of each two (T, T); see `MEASURES`.

        Accuracy and disagreement have Wilson's intervals where an example is one element; all
        others have the bootstrap's. Measures of classes are left out where there are none.
        """
        if not self._columns:
            return {}
        columns = torch.cat(self._columns)
        found = bootstrap(columns, self._measures, confidence=confidence, seed=seed)
        if self._single and self._has_classes:
            sums = self._named(columns.sum(0).numpy())
            exact = {"accuracy": sums["right"], "disagreement": self._square(sums["differ"])}
            counted = float(sums["counted"][0])
            found |= {n: wilson(hits, counted, confidence) for n, hits in exact.items()}
        return found

    def _of_one(self, answers: _Answers) -> list[Tensor]:
        z, counted = answers.outputs, answers.counted.double()
        elements = counted.unsqueeze(-1).expand_as(z)
        parts = [
            counted.sum(1),
            elements.sum((1, 2)),
            _total(z, answers.counted),
            _total(z.square(), answers.counted),
        ]
        if answers.log_probabilities is None:
            return parts
        confidence = answers.log_probabilities.exp().amax(-1)
        bins = (confidence * _NUM_BINS).ceil().long().clamp(1, _NUM_BINS) - 1
        gaps = torch.where(answers.counted, answers.right - confidence, 0.0)
        by_bin = torch.zeros(len(z), _NUM_BINS, dtype=torch.float64, device=z.device)
        by_bin.scatter_add_(1, bins, gaps)
        return [*parts, _total(answers.right, answers.counted), *by_bin.unbind(1)]

    def _of_pair(self, a: _Answers, b: _Answers) -> list[Tensor]:
        crossed = _total(a.outputs * b.outputs, a.counted)
        if a.log_probabilities is None or b.log_probabilities is None:
            return [crossed]
        log_p, log_q = a.log_probabilities, b.log_probabilities
        differ = (log_p.argmax(-1) != log_q.argmax(-1)).double()
        values = (
            differ,
            (1 - a.right) * (1 - b.right),
            js_divergence(log_p, log_q),
            kl_divergence(log_p, log_q),
            kl_divergence(log_q, log_p),
        )
        return [*(_total(value, a.counted) for value in values), crossed]

    def _named(self, sums: Array) -> dict[str, Array]:
        """Sums (..., F) by what they are of: (..., T), with bins (..., T, B), or (..., pairs)."""
        of_one = ["counted", "elements", "output", "output_squares"]
        width = len(of_one) + (1 + _NUM_BINS if self._has_classes else 0)
        split = self._num_networks * width
        own = sums[..., :split].reshape(*sums.shape[:-1], self._num_networks, width)
        found = {name: own[..., index] for index, name in enumerate(of_one)}
        if self._has_classes:
            found |= {"right": own[..., len(of_one)], "gaps": own[..., len(of_one) + 1 :]}
        names = _OF_PAIR if self._has_classes else ("crossed",)
        pairs = sums[..., split:].reshape(*sums.shape[:-1], len(self._pairs), len(names))
        return found | {name: pairs[..., index] for index, name in enumerate(names)}

    def _square(self, upper: Array, lower: Array | None = None) -> Array:
        """(..., T, T) of values (..., pairs); below the diagonal others may stand."""
        found = np.empty((*upper.shape[:-1], self._num_networks, self._num_networks))
        for index, (i, j) in enumerate(self._pairs):
            found[..., j, i] = (upper if lower is None else lower)[..., index]
            found[..., i, j] = upper[..., index]
        return found

    def _measures(self, sums: Array) -> dict[str, Array]:
        own = self._named(sums)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = own["output"] / own["elements"]
            squares = own["output_squares"] / own["elements"]
            # Of constant outputs only rounding is left, and no correlation.
            variance = np.where(squares - mean**2 > _ROUNDING * squares, squares - mean**2, np.nan)
            covariance = (
                self._square(own["crossed"]) / own["elements"][..., None]
                - mean[..., :, None] * mean[..., None, :]
            )
            spread = np.sqrt(variance)
            correlation = covariance / (spread[..., :, None] * spread[..., None, :])
            found = {"output_correlation": np.clip(correlation, -1, 1)}
            return found | self._of_classes(own) if self._has_classes else found

    def _of_classes(self, own: dict[str, Array]) -> dict[str, Array]:
        counted = own["counted"]
        pairs = counted[..., None]
        accuracy = own["right"] / counted
        error = 1 - accuracy
        calibration = np.abs(own["gaps"]).sum(-1) / counted
        disagreement = self._square(own["differ"]) / pairs
        both = self._square(own["both_wrong"]) / pairs
        first, second = error[..., :, None], error[..., None, :]
        expected = first * second + (1 - first) * (1 - second)
        observed = 1 - first - second + 2 * both
        return {
            "accuracy": accuracy,
            "calibration_error": calibration,
            "disagreement": disagreement,
            "normalized_disagreement": disagreement / ((first + second) / 2),
            "error_overlap": both / (first + second - both),
            "error_kappa": (observed - expected) / (1 - expected),
            "js_divergence": self._square(own["js"]) / pairs,
            "kl_divergence": self._square(own["kl"], own["lk"]) / pairs,
            "calibration_difference": calibration[..., None, :] - calibration[..., :, None],
        }


def js_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen-Shannon divergence (...) in nats, from 0 to log 2, of log-probabilities (..., C)."""
    found = (_towards_the_mean(log_p, log_q) + _towards_the_mean(log_q, log_p)) / 2
    return found.clamp(min=0.0)


def kl_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q) (...) in nats of log-probabilities (..., C); infinite where q alone is 0."""
    return torch.where(log_p > -math.inf, log_p.exp() * (log_p - log_q), 0.0).sum(-1)


def _towards_the_mean(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || (p + q) / 2)."""
    zero = log_p.new_zeros(())
    log_ratio = math.log(2) - torch.logaddexp(zero, log_q - log_p)  # exactly 0 for equal ones
    return torch.where(log_p > -math.inf, log_p.exp() * log_ratio, 0.0).sum(-1)


def _total(values: Tensor, counted: Tensor) -> Tensor:
    """(n,) sums over the elements that count."""
    mask = counted if values.ndim == 2 else counted.unsqueeze(-1)
    return torch.where(mask, values, 0.0).flatten(1).sum(1)


def _answers(loss: Loss, term: Term) -> _Answers:
    assert term.output is not None
    assert term.target is not None
    output, target = term.output.detach().double(), term.target
    told = correctness(loss, term)
    count = len(output)
    if told is None:
        outputs = output.reshape(count, -1, 1)
        counted = torch.ones(outputs.shape[:2], dtype=torch.bool, device=output.device)
        return _Answers(outputs, None, counted, torch.full_like(outputs[..., 0], math.nan))
    counted = told.counted.reshape(count, -1)
    right = told.right.double().reshape(count, -1)
    if isinstance(loss.function, (nn.BCEWithLogitsLoss, nn.BCELoss)):
        flat = output.reshape(count, -1)
        two = torch.stack([torch.zeros_like(flat), flat], -1).log_softmax(-1)
        if isinstance(loss.function, nn.BCELoss):  # probabilities already
            two = torch.stack([torch.log1p(-flat), flat.log()], -1)
        return _Answers(flat.unsqueeze(-1), two, counted, right)
    if target.shape == (*output.shape[:-1], 1):
        target = target.squeeze(-1)
    if output.shape[:1] + output.shape[2:] == target.shape:
        output = output.movedim(1, -1)
    logits = output.reshape(count, -1, output.shape[-1])
    centred = logits - logits.mean(-1, keepdim=True)
    return _Answers(centred, logits.log_softmax(-1), counted, right)
