"""Rank measures: how many directions features spread over, as numbers that need not be whole.

They differ by the spectrum that they look at: variances (`participation_ratio`, `alpha_req`) or
singular values (`effective_rank`, `rankme`); with the mean taken off (`center`) or in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.probes.arrays import ArrayLike
from landscape.probes.features.tensors import as_float64

__all__ = ["PowerLaw", "alpha_req", "effective_rank", "participation_ratio", "rankme"]

_RANKME_SHIFT = 1e-7  # Garrido et al. 2023, for singular values that are 0
_FEWEST = 4  # examples for the unbiased traces about an unknown mean
_SPECTRA = ("singular_values", "variances")


@dataclass(frozen=True)
class PowerLaw:
    """lambda_i ~ i^-alpha, fitted to a spectrum on logarithmic axes.

    Attributes:
        alpha: minus the slope; NaN with fewer than two eigenvalues.
        standard_error: of the line's slope; NaN with fewer than three. It says how straight the
            spectrum is. Neighbouring eigenvalues are not independent: it is no error of sampling.
        low, high: the first and the last rank of the fit, from 1 on.
    """

    alpha: float
    standard_error: float
    low: int
    high: int


def participation_ratio(
    features: ArrayLike, *, center: bool = True, unbiased: bool = False
) -> Tensor:
    """(sum lambda)^2 / sum lambda^2 = (tr S)^2 / tr S^2: from 1, for rank 1, to d.

    That of a sample is too small: of N examples of an isotropic Gaussian, about N d / (N + d).

    Args:
        features: (N, d), or a spectrum (d,) of variances, which is taken as it is.
        center: S is the covariance; False: the matrix of second moments about 0.
        unbiased: both traces by U-statistics, whose expectations are those of the population for
            any distribution. Their ratio is not unbiased, but its bias falls as 1 / N with a small
            factor; it may exceed d.

    Returns:
        A float64 scalar; NaN where all features are 0 (or, centred, constant), for fewer than 4
        examples (2 without `center`) and where the unbiased tr S^2 is not positive.

    Raises:
        RequestError: another shape, a negative variance, or `unbiased` for a spectrum.

    Source: the traces, Chen, Zhang and Zhong 2010; in closed form, Himeno and Yamada 2014.
    """
    values = _features(features)
    if values.ndim == 1:
        if unbiased:
            raise RequestError(
                "unbiased=True needs features (N, d): a spectrum does not say how many examples "
                "it is from."
            )
        values = _scaled(values)
        return values.sum() ** 2 / values.square().sum()
    values = _scaled(_centred(values) if center else values)
    squared, square = _unbiased_traces(values, center) if unbiased else _traces(values)
    return torch.where(square > 0, squared / square, torch.nan)


def effective_rank(
    features: ArrayLike,
    *,
    center: bool = True,
    of: Literal["singular_values", "variances"] = "singular_values",
) -> Tensor:
    """exp of the entropy of p = s / sum s: from 1, for rank 1, to min(N, d).

    Args:
        features: (N, d), or a spectrum s (d,), which is taken as it is, whatever `of` says.
        center: take the mean off first. A mean is one more, large singular value: without
            centring it hides the others.
        of: s are the singular values, as Roy and Vetterli have them; or their squares, which the
            large ones rule.

    Returns:
        A float64 scalar; NaN where all features are 0 (or, centred, constant).

    Raises:
        RequestError: another shape, an unknown `of`, or a negative value in a spectrum.

    Source: Roy and Vetterli 2007.
    """
    if of not in _SPECTRA:
        raise unknown_choice("spectrum", str(of), _SPECTRA)
    values = _features(features)
    if values.ndim == 1:
        spectrum = values
    else:
        spectrum = torch.linalg.svdvals(_scaled(_centred(values) if center else values))
        spectrum = spectrum.square() if of == "variances" else spectrum
    return _exp_entropy(spectrum / spectrum.sum())


def rankme(features: ArrayLike) -> Tensor:
    """exp of the entropy of singular values / their sum + 1e-7; the mean is not taken off.

    Args:
        features: (N, d), or their singular values.

    Returns:
        A float64 scalar; NaN where all features are 0.

    Raises:
        RequestError: another shape, or a negative singular value.

    Source: Garrido et al. 2023, arXiv:2210.02885.
    """
    values = _features(features)
    spectrum = values if values.ndim == 1 else torch.linalg.svdvals(_scaled(values))
    return _exp_entropy(spectrum / spectrum.sum() + _RANKME_SHIFT)


def alpha_req(
    features: ArrayLike, *, low: int = 1, high: int | None = None, center: bool = True
) -> PowerLaw:
    """How fast the variances fall: minus the slope of log lambda_i on log i.

    Args:
        features: (N, d), or a spectrum (d,) of variances, in any order.
        low: the first rank of the fit, from 1 on.
        high: the last; None for the last variance that is not 0 (as far as rounding tells).
        center: take the mean off first; a spectrum is taken as it is.

    Raises:
        RequestError: another shape, a negative variance, or ranks that are not there.

    Source: Agrawal et al. 2022, arXiv:2202.05808; Stringer et al. 2019.
    """
    values = _features(features)
    spectrum = _variances(values, center)
    last = len(spectrum) if high is None else high
    if low < 1 or (high is not None and not low < high <= len(spectrum)):
        raise RequestError(
            f"low={low}, high={high}: expected 1 <= low < high <= {len(spectrum)}, the number of "
            "variances that are not 0."
        )
    return _line(spectrum[low - 1 : last].log(), low, last)


def _features(features: ArrayLike) -> Tensor:
    values = as_float64(features, "features")
    if values.ndim not in (1, 2) or not values.numel():
        raise RequestError(
            f"features have shape {tuple(values.shape)}, expected (N, d), or a spectrum (d,). Of "
            "images, average or flatten what follows the first dimension."
        )
    if values.ndim == 1 and (values < 0).any():
        raise RequestError(
            f"the spectrum has {values.min().item():.3g}, expected no negative value. One vector "
            "of features is no spectrum: give (N, d)."
        )
    return values


def _centred(values: Tensor) -> Tensor:
    # The first row goes first: what is constant is then exactly 0, and is no direction.
    moved = values - values[0]
    return moved - moved.mean(0)


def _scaled(values: Tensor) -> Tensor:
    """Divided by the largest magnitude, so that no fourth power overflows or vanishes."""
    largest = values.abs().max()
    return values / largest if largest > 0 else values


def _exp_entropy(shares: Tensor) -> Tensor:
    entropies: Tensor = torch.special.entr(shares)
    return entropies.sum().exp()


def _traces(values: Tensor) -> tuple[Tensor, Tensor]:
    """(tr M)^2 and tr M^2 of M = X'X."""
    few = len(values) < values.shape[1]
    gram = values @ values.T if few else values.T @ values
    return values.square().sum().square(), gram.square().sum()


def _unbiased_traces(values: Tensor, center: bool) -> tuple[Tensor, Tensor]:
    """U-statistics of (tr S)^2 and tr S^2, both times the same number."""
    count = len(values)
    squared, square = _traces(values)
    fourth = values.square().sum(1).square().sum()
    if not center:
        undefined = count < 2
        squared, square = squared - fourth, square - fourth
    else:
        undefined = count < _FEWEST
        # Himeno and Yamada 2014, with scatter matrices in place of covariances.
        n, rest = count, count * (count - 1) * fourth
        squared, square = (
            2 * square + (n * n - 3 * n + 1) * squared - rest,
            (n - 1) * (n - 2) * square + squared - rest,
        )
    return (squared, torch.full_like(square, torch.nan)) if undefined else (squared, square)


def _variances(values: Tensor, center: bool) -> Tensor:
    """Those that rounding does not explain, the largest first."""
    size, is_spectrum = max(values.shape), values.ndim == 1
    if not is_spectrum:
        values = torch.linalg.svdvals(_scaled(_centred(values) if center else values))
    descending = values.sort(descending=True).values
    floor = size * torch.finfo(torch.float64).eps * descending[0]
    kept = descending[descending > floor]
    return kept if is_spectrum else kept.square()


def _line(logarithms: Tensor, low: int, high: int) -> PowerLaw:
    """Least squares through (log rank, logarithms)."""
    count = len(logarithms)
    if count < 2:
        return PowerLaw(float("nan"), float("nan"), low, high)
    rank = torch.arange(low, high + 1, dtype=torch.float64, device=logarithms.device).log()
    rank = rank - rank.mean()
    spread = rank.square().sum()
    slope = (rank @ logarithms) / spread
    left = logarithms - logarithms.mean() - slope * rank
    error = (
        (left.square().sum() / (count - 2) / spread).sqrt().item() if count > 2 else float("nan")
    )
    return PowerLaw(-slope.item(), error, low, high)
