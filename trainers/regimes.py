"""The three regimes of training at a fixed learning rate, by explicit criteria.

1, convergence: the train loss goes on falling towards 0. 2, chaotic equilibrium: it hovers above
0. 3, divergence: the network knows no more than chance. 2A is the part of 2 just above convergence
from which fine-tuning leads to equally good, linearly connected solutions, at whatever rate.

Source: the regimes are those of Kodryan et al. 2022, arXiv:2209.03695, and Sadrtdinov et al. 2024,
arXiv:2410.22113, who drew the borders by hand; the criteria are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from landscape.errors import RequestError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Regimes", "find_regimes", "subregime_border"]

Floats = NDArray[np.float64]

# Of a run's loss in its second half: a trend counts where it is larger than this many standard
# deviations of what is left around it.
_TREND = 2.0
_LOSS_FLOOR = 1e-3  # nats: a loss that stays below has converged, whatever rounding does to it
_CHANCE_ERRORS = 3.0  # standard errors


@dataclass(frozen=True)
class Regimes:
    """Which learning rates converge, hover and diverge.

    Attributes:
        learning_rates: (R,) ascending.
        regime: (R,) 1, 2 or 3.
        converged_share: (R,) share of the runs whose loss goes on falling.
        accuracy: (R,) mean train accuracy over the window and the runs.
        chance: accuracy of guessing, and `chance_error` its standard error.
        convergence_threshold: smallest rate at which less than half of the runs converge; NaN
            where all do.
        divergence_threshold: smallest rate at which the accuracy is chance; NaN without one.
    """

    learning_rates: Floats
    regime: NDArray[np.int64]
    converged_share: Floats
    accuracy: Floats
    chance: float
    chance_error: float
    convergence_threshold: float
    divergence_threshold: float

    def of(self, learning_rate: float) -> int:
        """The regime of one of the rates."""
        return int(self.regime[np.searchsorted(self.learning_rates, learning_rate)])

    def sentences(self) -> list[str]:
        """What was found, and by which criteria."""
        counts = [int((self.regime == regime).sum()) for regime in (1, 2, 3)]
        return [
            f"regimes: {counts[0]} rates converge, {counts[1]} hover, {counts[2]} diverge; "
            f"convergence threshold {self.convergence_threshold:.3g}, "
            f"divergence threshold {self.divergence_threshold:.3g}",
            "a rate converges where at least half of its runs have a train loss that falls in the "
            f"second half by more than {_TREND:g} standard deviations around its trend, or stays "
            f"below {_LOSS_FLOOR:g}; it diverges where the mean train accuracy of the last "
            f"quarter is within {_CHANCE_ERRORS:g} standard errors of chance, or no run is finite",
        ]

    def to_dataset(self) -> xr.Dataset:
        """One entry for each learning rate."""
        import xarray as xr

        words = {
            "regime": "1 convergence, 2 chaotic equilibrium, 3 divergence",
            "converged_share": "share of runs whose loss goes on falling",
            "accuracy": "mean train accuracy in the last quarter",
        }
        data: dict[str, Any] = {
            name: ("learning_rate", getattr(self, name), {"units": "1", "long_name": long_name})
            for name, long_name in words.items()
        }
        for name in ("chance", "chance_error", "convergence_threshold", "divergence_threshold"):
            data[name] = ((), getattr(self, name), {"units": "1", "long_name": name})
        return xr.Dataset(data, {"learning_rate": self.learning_rates})


def find_regimes(
    learning_rates: Floats,
    train_loss: Floats,
    train_accuracy: Floats,
    *,
    num_examples: int,
    num_classes: int,
) -> Regimes:
    """Regimes from the curves of runs at fixed learning rates.

    Args:
        learning_rates: (M,) of each run; several runs of a rate are judged together.
        train_loss, train_accuracy: (T, M), T >= 8, evenly spaced in time.
        num_examples: behind each accuracy.
        num_classes: chance is 1 / num_classes.

    Raises:
        RequestError: too few evaluations to see a trend.
    """
    if len(train_loss) < 8:
        raise RequestError(
            f"{len(train_loss)} evaluations are too few to tell a trend from noise. Take 8 or more."
        )
    rates = np.unique(learning_rates)
    finite = np.isfinite(train_loss[-1])
    falls = np.array([_converges(loss) for loss in train_loss.T])
    window = train_accuracy[-(len(train_accuracy) // 4) :]
    chance = 1 / num_classes
    share, accuracy, regime = np.zeros(len(rates)), np.zeros(len(rates)), np.zeros(len(rates), int)
    error = np.zeros(len(rates))
    for index, rate in enumerate(rates):
        runs = learning_rates == rate
        share[index] = falls[runs].mean()
        # A diverged network's outputs are NaN, and it guesses one class.
        accuracy[index] = np.where(finite[runs], window[:, runs], chance).mean()
        error[index] = np.sqrt(chance * (1 - chance) / (num_examples * window[:, runs].size))
        at_chance = accuracy[index] - chance <= _CHANCE_ERRORS * error[index]
        lost = not finite[runs].any()
        regime[index] = 3 if at_chance or lost else 1 if share[index] >= 0.5 else 2
    return Regimes(
        learning_rates=rates,
        regime=regime,
        converged_share=share,
        accuracy=accuracy,
        chance=chance,
        chance_error=float(error[0]),
        convergence_threshold=_smallest(rates[regime > 1]),
        divergence_threshold=_smallest(rates[regime == 3]),
    )


def subregime_border(
    learning_rates: Floats,
    accuracies: Floats,
    barriers: Floats,
    *,
    greatest_spread: float = 0.02,
    greatest_barrier: float = 0.02,
) -> float:
    """The border between 2A and 2B: the largest rate of regime 2 up to which both criteria hold.

    Args:
        learning_rates: (R,) those of regime 2, ascending.
        accuracies: (R, F) test accuracy after fine-tuning at F rates.
        barriers: (R,) train error barrier between the solutions of the lowest and highest one.
        greatest_spread: of the accuracy over the fine-tuning rates.

    Returns:
        NaN where not even the smallest rate meets them.
    """
    spread = accuracies.max(1) - accuracies.min(1)
    meets = (spread < greatest_spread) & (barriers < greatest_barrier)
    unbroken = np.cumprod(meets).astype(bool)
    return float(learning_rates[unbroken].max()) if unbroken.any() else float("nan")


def _converges(loss: Floats) -> bool:
    """Whether one run's loss (T,) goes on falling in its second half, or stays at the floor."""
    late = loss[len(loss) // 2 :]
    if not np.isfinite(late).all():
        return False
    if late[len(late) // 2 :].max() < _LOSS_FLOOR:
        return True
    logarithm = np.log(np.maximum(late, np.finfo(np.float64).tiny))
    time = np.arange(len(late))
    slope, start = np.polyfit(time, logarithm, 1)
    left = (logarithm - (start + slope * time)).std()
    return bool(-slope * (len(late) - 1) > _TREND * left)


def _smallest(values: Floats) -> float:
    return float(values.min()) if len(values) else float("nan")
