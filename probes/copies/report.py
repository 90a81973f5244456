"""Report: all that is said of the copies of one training, as a result that is stored."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from landscape.errors import RequestError
from landscape.probes.arrays import Floats
from landscape.probes.copies.classes import ClassLearnability, class_learnability
from landscape.probes.copies.copies import Copies
from landscape.probes.copies.goodness_of_fit import tail_merged_chi_square
from landscape.probes.copies.heterogeneity import NUM_DRAWS, Heterogeneity, heterogeneity
from landscape.probes.copies.matching import first_time_above
from landscape.probes.copies.variance import VarianceComponents, variance_components
from landscape.result import Result
from landscape.similarity.bootstrap import wilson

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["CopiesReport", "copies_report"]

_Put = Callable[[str, tuple[str, ...], object, str], None]  # name, dims, values, meaning

_LEVELS = (0.25, 0.5, 0.75)
_OF_TIME = {
    "mae": "mean |sorted r_t - sorted draw of equally hard objects|",
    "mae_spread": "standard deviation of mae over the draws",
    "mae_null": "mae between draws of equally hard objects",
    "mae_null_spread": "standard deviation of mae_null over the draws",
    "mae_p": "p value of mae",
    "over_dispersion": "variance of the objects' counts / binomial variance",
    "over_dispersion_null": "its mean for equally hard objects",
    "over_dispersion_p": "p value of over_dispersion, one-sided",
    "variance": "variance of the objects' difficulty, without sampling noise",
}
_AT_HALF = (
    "mean_learnability",
    "mae",
    "mae_null",
    "mae_p",
    "over_dispersion",
    "over_dispersion_p",
    "chi_square",
    "chi_square_p",
    "view_mae",
    "view_mae_null",
    "object_share",
    "object_share_low",
    "object_share_high",
    "view_share",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class CopiesReport(Result):
    """Which objects many copies of a network learn, and when.

    Attributes:
        copies: the answers.
        heterogeneity: of r_t, averaged over all augmentations, against its right null.
        view_heterogeneity: of the first augmentation alone, as a sample of single views.
        beyond_views: of r_t, against objects that share nothing but the hardness of their single
            views; None for one augmentation.
        chi_square, chi_square_p: (T,) tail-merged goodness of fit of the first augmentation.
        components: the variance by source.
        classes: of the labels; None without them.
    """

    probe: ClassVar[str] = "copies"

    copies: Copies
    heterogeneity: Heterogeneity = field(repr=False)
    view_heterogeneity: Heterogeneity = field(repr=False)
    beyond_views: Heterogeneity | None = field(repr=False)
    chi_square: Floats = field(repr=False)
    chi_square_p: Floats = field(repr=False)
    components: VarianceComponents = field(repr=False)
    classes: ClassLearnability | None = field(repr=False)

    @property
    def status(self) -> str:
        """ "converged", or that no time tells the objects apart."""
        if np.isnan(self.heterogeneity.mae).all():
            return "undefined: at each time all answers are right, or all are wrong"
        return "converged"

    @property
    def half(self) -> int:
        """Index of the time whose mean r_t is nearest to one half; the first of several."""
        return int(np.abs(self.copies.mean_learnability - 0.5).argmin())

    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Variables over `time`, (`time`, `object`), (`time`, `rank`) and (`time`, `class`).

        The scalars `..._at_half` are those of the time whose mean r_t is nearest to one half.
        """
        import xarray as xr

        copies = self.copies
        coordinates = {
            "time": ("time", copies.times, {"units": "1", "long_name": "time of the record"}),
            "object": ("object", copies.objects, {"long_name": "index of the example"}),
        }
        if self.classes is not None:
            coordinates["class"] = ("class", self.classes.classes, {"long_name": "class"})
        dataset = xr.Dataset(coords=coordinates)

        def put(name: str, dims: tuple[str, ...], values: object, meaning: str) -> None:
            dataset[name] = (dims, values, {"units": "1", "long_name": meaning})

        self._put_over_time(put)
        self._put_objects(put)
        if self.classes is not None:
            held, shown, mean = self.classes, ("time", "class"), "mean r_t of a class"
            ends = held.learnability
            put("class_learnability", shown, ends.value, mean)
            put("class_learnability_low", shown, ends.low, f"lower end of its interval, {mean}")
            put("class_learnability_high", shown, ends.high, f"upper end of its interval, {mean}")
            put("class_size", ("class",), held.num_objects, "objects of a class")
            put("class_share", ("time",), held.share, "share of the systematic variance: class")
            put("class_p", ("time",), held.p_value, "p value of the differences between classes")
        half = self.half
        for name in _AT_HALF:
            meaning = f"{dataset[name].attrs['long_name']}, where mean r_t is nearest 1/2"
            put(f"{name}_at_half", (), float(dataset[name][half]), meaning)
        put("time_at_half", (), float(copies.times[half]), "time where mean r_t is nearest 1/2")
        for level, first in zip(_LEVELS, first_time_above(copies, _LEVELS), strict=True):
            put(f"time_above_{100 * level:.0f}", (), first, f"first time of mean r_t > {level}")
        put("chance", (), copies.chance, "accuracy of guessing")
        put("num_copies", (), copies.num_copies, "copies")
        put("num_diverged", (), copies.num_dropped, "copies that diverged and were left out")
        put("num_augmentations", (), copies.num_augmentations, "fixed views of each object")
        return dataset

    def _put_over_time(self, put: _Put) -> None:
        of_time = ("time",)
        put("mean_learnability", of_time, self.copies.mean_learnability, "mean r_t over objects")
        error = "standard error of mean r_t, over copies"
        put("mean_learnability_standard_error", of_time, self.copies.standard_error, error)
        for name, meaning in _OF_TIME.items():
            put(name, of_time, getattr(self.heterogeneity, name), meaning)
            single = f"{meaning}; one fixed augmentation"
            put(f"view_{name}", of_time, getattr(self.view_heterogeneity, name), single)
        if self.beyond_views is not None:
            null = "mae between draws of objects that differ by single views only"
            put("mae_null_beyond_views", of_time, self.beyond_views.mae_null, null)
            p_value = "p value of mae against objects that differ by single views only"
            put("mae_p_beyond_views", of_time, self.beyond_views.mae_p, p_value)
        put("chi_square", of_time, self.chi_square, "tail-merged chi-square, one augmentation")
        put("chi_square_p", of_time, self.chi_square_p, "p value of chi_square")
        for name, meaning in (
            ("object_share", "share of the systematic variance: object"),
            ("view_share", "share of the systematic variance: single view of an object"),
        ):
            held = getattr(self.components, name)
            put(name, of_time, held.value, meaning)
            put(f"{name}_low", of_time, held.low, f"lower end, {meaning}")
            put(f"{name}_high", of_time, held.high, f"upper end, {meaning}")
        for name in ("object", "view", "systematic", "copy", "copy_object", "residual"):
            values = getattr(self.components, name).value
            put(f"variance_{name}", of_time, values, f"variance of an answer: {name}")

    def _put_objects(self, put: _Put) -> None:
        copies, each = self.copies, ("time", "object")
        # The views of an object are dependent for one copy, so that only copies count as trials.
        interval = wilson(copies.learnability * copies.num_copies, copies.num_copies)
        put("learnability", each, copies.learnability, "share of right copies and views: r_t")
        put("learnability_low", each, interval.low, "lower end of its 95% interval")
        put("learnability_high", each, interval.high, "upper end of its 95% interval")
        if copies.labels is not None:
            put("label", ("object",), copies.labels, "class of the object")
        ranked, against = ("time", "rank"), self.heterogeneity
        put("sorted_learnability", ranked, np.sort(copies.learnability, 1), "sorted r_t")
        put("null_curve", ranked, against.null_curve, "sorted r_t of equally hard objects, mean")
        put("null_low", ranked, against.null_low, "lower end of their 95% band")
        put("null_high", ranked, against.null_high, "upper end of their 95% band")


def copies_report(
    copies: Copies, *, seed: int, num_draws: int = NUM_DRAWS, confidence: float = 0.95
) -> CopiesReport:
    """Measure all of it at each time.

    Args:
        seed: of the draws from the nulls and of the bootstrap.
        num_draws: from each null.
        confidence: of the intervals.

    Raises:
        RequestError: one copy, of which nothing can be told from chance.
    """
    if copies.num_copies < 2:
        raise RequestError("there is one copy: what it learns by chance is unknown. Train several.")
    began = time.perf_counter()
    seeds = [int(child.generate_state(1)[0]) for child in np.random.SeedSequence(seed).spawn(5)]
    one_view, several = copies.view(0), copies.num_augmentations > 1
    view_heterogeneity = heterogeneity(one_view, num_draws=num_draws, seed=seeds[0])
    averaged, beyond = view_heterogeneity, None
    if several:
        averaged = heterogeneity(copies, num_draws=num_draws, seed=seeds[1])
        beyond = heterogeneity(copies, null="views", num_draws=num_draws, seed=seeds[2])
    fits = [
        tail_merged_chi_square(counts, copies.num_copies)
        for counts in one_view.correct[..., 0].sum(1)
    ]
    components = variance_components(copies, confidence=confidence, seed=seeds[3])
    classes = None
    if copies.labels is not None:
        classes = class_learnability(
            copies, components.systematic.value, confidence=confidence, seed=seeds[4]
        )
    notes: tuple[str, ...] = ()
    if copies.num_dropped:
        notes = (f"{copies.num_dropped} copies diverged and were left out",)
    return CopiesReport(
        settings={"seed": seed, "num_draws": num_draws, "confidence": confidence},
        wall_time=time.perf_counter() - began,
        notes=notes,
        copies=copies,
        heterogeneity=averaged,
        view_heterogeneity=view_heterogeneity,
        beyond_views=beyond,
        chi_square=np.array([one.statistic for one in fits]),
        chi_square_p=np.array([one.p_value for one in fits]),
        components=components,
        classes=classes,
    )
