"""The report: from logits, how good an ensemble is, how sure it is, and what it gains by its size.

`family` makes the logits from checkpoints.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from landscape.errors import RequestError
from landscape.fingerprint import fingerprint
from landscape.probes.arrays import ArrayLike, Floats
from landscape.probes.ensembles.calibration import NUM_BINS, calibration_error
from landscape.probes.ensembles.calibration_report import CalibrationReport, calibration_report
from landscape.probes.ensembles.differences import HEADLINE, headline
from landscape.probes.ensembles.diversity import Diversity, diversity_of
from landscape.probes.ensembles.evaluation import Evaluation, evaluate
from landscape.probes.ensembles.gains import (
    Equivalent,
    GainCurve,
    deep_ensemble_equivalent,
    gain_curve,
)
from landscape.probes.ensembles.ood import OOD_SCORES, Separation, ood_scores, separation
from landscape.probes.ensembles.probabilities import Members
from landscape.probes.ensembles.temperature import CalibratedNll, calibrated_nll
from landscape.result import Result
from landscape.similarity.bootstrap import Intervals

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["EnsembleReport", "SoupScores", "ensemble_report"]

Variables = Iterator[tuple[str, tuple[str, ...], object, str, str]]


@dataclass(frozen=True)
class SoupScores:
    """Of one network with the mean of the members' weights.

    Attributes:
        accuracy: share of examples that are right.
        nll: loss in nats.
    """

    accuracy: float
    nll: float


@dataclass(frozen=True, kw_only=True, eq=False)
class EnsembleReport(Result):
    """K networks and their ensemble, the mean of their probabilities, on N examples.

    Attributes:
        headline: intervals by name, see `differences.HEADLINE`.
        member_accuracy, member_nll, member_brier, member_ece: (K,) of each member.
        calibration: of the ensemble.
        diversity: of the members.
        temperature: the loss at a temperature from other examples.
        gains: means over subsets of the members, by size.
        equivalent: size of the reference that is as good; None without a reference.
        ood: by score, how well examples from outside are told; empty without these.
        soup: the mean of the weights; None where it was not asked for.
    """

    probe: ClassVar[str] = "ensemble"

    num_examples: int
    headline: Mapping[str, Intervals] = field(repr=False)
    member_accuracy: Floats
    member_nll: Floats
    member_brier: Floats
    member_ece: Floats
    calibration: CalibrationReport = field(repr=False)
    diversity: Diversity = field(repr=False)
    temperature: CalibratedNll = field(repr=False)
    gains: GainCurve = field(repr=False)
    equivalent: Equivalent | None = None
    ood: Mapping[str, Separation] = field(default_factory=dict, repr=False)
    soup: SoupScores | None = None

    @property
    def status(self) -> str:
        """ "converged", or what is wrong with the temperature."""
        if not self.temperature.converged:
            return "not converged: the slope of the loss by the temperature is not 0"
        if not np.isfinite(self.temperature.value):
            return "the calibrated loss is infinite: half of the examples has no wrong answer"
        return "converged"

    @property
    def accuracy(self) -> float:
        """Of the ensemble."""
        return float(self.headline["ensemble_accuracy"].value)

    @property
    def nll(self) -> float:
        """Of the ensemble, in nats."""
        return float(self.headline["ensemble_nll"].value)

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Members along `member`, gains along `size`, the reliability diagram along `bin`."""
        import xarray as xr

        variables = {
            name: (dims, values, {"units": unit, "long_name": meaning})
            for part in (
                self._of_members(),
                self._of_ensemble(),
                self._of_calibration(),
                self._of_temperature(),
                self._of_sizes(),
                self._of_others(),
            )
            for name, dims, values, unit, meaning in part
        }
        size = ("size", self.gains.sizes, {"units": "1", "long_name": "members of a subset"})
        return xr.Dataset(variables, coords={"size": size})

    def _of_members(self) -> Variables:
        yield "num_members", (), len(self.member_nll), "1", "members of the ensemble"
        yield "num_examples", (), self.num_examples, "1", "examples"
        for name, values, unit, what in (
            ("accuracy", self.member_accuracy, "1", "share of examples that a member gets right"),
            ("nll", self.member_nll, "nat", "loss of a member"),
            ("brier", self.member_brier, "1", "Brier score of a member, a sum over classes"),
            ("ece", self.member_ece, "1", "expected calibration error of a member"),
        ):
            yield name, ("member",), values, unit, what

    def _of_ensemble(self) -> Variables:
        for name, (unit, what) in HEADLINE.items():
            held = self.headline[name]
            yield name, (), held.value, unit, what
            yield f"{name}_low", (), held.low, unit, f"lower end, {what}"
            yield f"{name}_high", (), held.high, unit, f"upper end, {what}"
        apart = self.diversity
        yield "kappa", (), apart.kappa, "1", "Cohen's kappa of right and wrong, mean over pairs"
        correlation = "correlation of right and wrong, mean over pairs"
        yield "error_correlation", (), apart.error_correlation, "1", correlation
        cosine = "cosine between residuals p - onehot(y), mean over pairs"
        yield "residual_cosine", (), apart.residual_cosine, "1", cosine

    def _of_calibration(self) -> Variables:
        held = self.calibration
        ece = "expected calibration error of the ensemble"
        for name, value, what in (
            ("ensemble_ece", held.ece, ece),
            ("ensemble_ece_debiased", held.ece_debiased, f"{ece} - its mean under the null"),
            ("ece_null_mean", held.ece_null.mean, "mean of the error of a perfect predictor"),
            ("ece_null_low", held.ece_null.low, "low quantile of a perfect predictor's error"),
            ("ece_null_high", held.ece_null.high, "high quantile of a perfect predictor's error"),
            ("squared_ece", held.squared_ece, "squared calibration error, unbiased"),
            ("adaptive_ece", held.adaptive_ece, f"{ece}, bins of equal mass"),
            ("adaptive_ece_null_high", held.adaptive_ece_null.high, "its high quantile, perfect"),
            ("classwise_ece", held.classwise_ece, "static calibration error, mean over classes"),
            ("tace", held.tace, "thresholded adaptive calibration error"),
            ("ks_error", held.ks_error, "Kolmogorov-Smirnov calibration error"),
            ("ks_null_high", held.ks_null.high, "its high quantile for a perfect predictor"),
            ("smooth_ece", held.smooth_ece, "smooth calibration error"),
            ("aurc", held.aurc, "area under the risk-coverage curve"),
        ):
            yield name, (), value, "1", what
        bins = held.reliability
        yield "bin_count", ("bin",), bins.count, "1", "examples in a bin of confidence"
        yield "bin_confidence", ("bin",), bins.confidence, "1", "mean confidence in a bin"
        yield "bin_accuracy", ("bin",), bins.accuracy, "1", "accuracy in a bin"
        yield "bin_accuracy_low", ("bin",), bins.low, "1", "lower end, accuracy in a bin"
        yield "bin_accuracy_high", ("bin",), bins.high, "1", "upper end, accuracy in a bin"

    def _of_temperature(self) -> Variables:
        held = self.temperature
        fitted = "inverse temperature of the smallest loss on all examples"
        yield "inverse_temperature", (), held.fitted.beta, "1", fitted
        yield "temperature", (), held.fitted.temperature, "1", "temperature of the smallest loss"
        slope = "slope of the loss by the inverse temperature that is left"
        yield "temperature_gradient", (), held.fitted.gradient, "nat", slope
        spread = "standard deviation of the calibrated loss over the shuffles"
        yield "calibrated_nll_spread", (), held.spread, "nat", spread

    def _of_sizes(self) -> Variables:
        gains, size = self.gains, ("size",)
        yield "gain_num_subsets", size, gains.num_subsets, "1", "subsets of members of a size"
        for (name, values, unit, what), spread in zip(
            (
                ("gain_accuracy", gains.accuracy, "1", "accuracy"),
                ("gain_nll", gains.nll, "nat", "loss"),
                ("gain_brier", gains.brier, "1", "Brier score"),
                ("gain_calibrated_nll", gains.calibrated_nll, "nat", "calibrated loss"),
            ),
            gains.spreads,
            strict=True,
        ):
            yield name, size, values, unit, f"{what} of a subset, mean over subsets"
            yield f"{name}_spread", size, spread, unit, f"{what}: deviation over subsets"

    def _of_others(self) -> Variables:
        if self.equivalent is not None:
            what = "members of the reference with this calibrated loss"
            yield "deep_ensemble_equivalent", (), self.equivalent.size, "1", what
            side = {"less": -1, "equal": 0, "more": 1}[self.equivalent.relation]
            beyond = "-1: worse than the smallest reference, 1: better than the largest, 0: between"
            yield "deep_ensemble_beyond", (), side, "1", beyond
        for score, held in self.ood.items():
            of = OOD_SCORES[score]
            yield f"ood_auroc_{score}", (), held.auroc, "1", f"AUROC: {of}"
            yield f"ood_auroc_error_{score}", (), held.auroc_error, "1", f"error of AUROC: {of}"
            yield f"ood_aupr_out_{score}", (), held.aupr_out, "1", f"AUPR, outside sought: {of}"
            yield f"ood_aupr_in_{score}", (), held.aupr_in, "1", f"AUPR, inside sought: {of}"
            yield f"ood_fpr95_{score}", (), held.fpr95, "1", f"FPR at 95 % recall of inside: {of}"
        if self.soup is not None:
            yield "soup_accuracy", (), self.soup.accuracy, "1", "accuracy of the averaged weights"
            yield "soup_nll", (), self.soup.nll, "nat", "loss of the averaged weights"


def ensemble_report(
    logits: ArrayLike | Members,
    labels: ArrayLike,
    *,
    num_bins: int = NUM_BINS,
    seed: int = 0,
    reference: ArrayLike | Members | GainCurve | None = None,
    ood: ArrayLike | Members | None = None,
    confidence: float = 0.95,
) -> EnsembleReport:
    """Everything about an ensemble that follows from its members' logits.

    Args:
        logits: (K, N, C); one network (N, C); one logit for two classes (K, N, 1) or (K, N).
        labels: (N,) classes, of 2 or more examples.
        num_bins: of confidences.
        seed: of folds, subsets, simulated nulls and resamples.
        reference: logits (K', N, C) of a deep ensemble on the same examples, or its `gain_curve`
            with the same seed; then `equivalent` is known.
        ood: logits (K, M, C) of the same members on examples from outside.
        confidence: of all intervals and null bands.

    Raises:
        RequestError: logits or labels that do not fit, a member whose logits are not finite,
            fewer than 2 examples, no bins, or a confidence outside (0, 1).
    """
    began = time.perf_counter()
    held = evaluate(logits, labels)
    calibrated = calibrated_nll(held.log_probability, held.labels, seed=seed)
    right = held.member_correct
    return EnsembleReport(
        settings={
            "num_members": held.num_members,
            "num_bins": num_bins,
            "seed": seed,
            "confidence": confidence,
            "reference": reference is not None,
            "ood": ood is not None,
        },
        provenance=_provenance(held),
        notes=tuple(_notes(held, calibrated)),
        num_examples=held.num_examples,
        headline=headline(held, calibrated.per_example, confidence=confidence, seed=seed),
        member_accuracy=right.mean(1),
        member_nll=held.member_nll.mean(1),
        member_brier=held.member_brier.mean(1),
        member_ece=np.asarray(
            [
                calibration_error(sure, member, num_bins=num_bins)
                for sure, member in zip(held.member_confidence, right, strict=True)
            ]
        ),
        calibration=calibration_report(held, num_bins=num_bins, seed=seed, level=confidence),
        diversity=diversity_of(held),
        temperature=calibrated,
        gains=gain_curve(held.members, held.labels, seed=seed),
        equivalent=_equivalent(calibrated.value, reference, held, seed),
        ood=_separations(held.members, ood),
        wall_time=time.perf_counter() - began,
    )


def _equivalent(
    value: float,
    reference: ArrayLike | Members | GainCurve | None,
    held: Evaluation,
    seed: int,
) -> Equivalent | None:
    if reference is None:
        return None
    if not isinstance(reference, GainCurve):
        reference = gain_curve(reference, held.labels, seed=seed)
    known = np.isfinite(reference.calibrated_nll)
    if not known.any() or not np.isfinite(value):
        return None
    return deep_ensemble_equivalent(value, reference.sizes[known], reference.calibrated_nll[known])


def _separations(members: Members, ood: ArrayLike | Members | None) -> dict[str, Separation]:
    if ood is None:
        return {}
    strange = Members.of(ood)
    if (len(strange), strange.num_classes) != (len(members), members.num_classes):
        raise RequestError(
            f"ood has logits of {len(strange)} members and {strange.num_classes} classes, logits "
            f"of {len(members)} and {members.num_classes}. Give those of the same members."
        )
    inside, outside = ood_scores(members), ood_scores(strange)
    return {name: separation(inside[name], outside[name]) for name in OOD_SCORES}


def _provenance(held: Evaluation) -> dict[str, object]:
    named = {
        str(index): torch.from_numpy(member.copy())
        for index, member in enumerate(held.members.logits)
    }
    return {
        "logits_fingerprint": fingerprint(named).hex(),
        "labels_fingerprint": fingerprint({"labels": torch.from_numpy(held.labels)}).hex(),
    }


def _notes(held: Evaluation, calibrated: CalibratedNll) -> Iterator[str]:
    if held.num_members == 1:
        yield "one member: it disagrees with nobody, and measures of pairs are NaN"
    for verdict, meaning in (
        ("separable", "no answer there is wrong, and the inverse temperature is infinite"),
        ("anti-correlated", "the ensemble is worse than guessing there"),
        ("flat", "all probabilities there are equal"),
    ):
        count = sum(one == verdict for one in calibrated.verdicts)
        if count:
            yield f"{count} of {len(calibrated.verdicts)} halves are {verdict}: {meaning}"
