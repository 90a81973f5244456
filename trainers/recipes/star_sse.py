"""StarSSE: every cycle starts from model 1, so that the members are trained together.

Source: Sadrtdinov et al. 2023, arXiv:2303.03374.
"""

from __future__ import annotations

from dataclasses import dataclass

from landscape.trainers.making import Making
from landscape.trainers.options import option
from landscape.trainers.stacking import concatenated
from landscape.trainers.transfer import CYCLES, TransferOptions, transfer

__all__ = ["Options", "run"]


@dataclass(frozen=True)
class Options(TransferOptions):
    lr_ratio: float = option(1.0, "a cycle's greatest rate, in units of fine-tuning's", above=0)
    epoch_ratio: float = option(1.0, "a cycle's length, in units of fine-tuning's", above=0)


def run(options: Options, make: Making) -> None:
    ground = transfer(options, make)
    model_1 = ground.fine_tuned([0])
    k, epochs = options.num_members, max(1, round(options.epoch_ratio * options.epochs))
    plan = ground.plan(
        ground.seeds(CYCLES, k - 1), rate=options.lr_ratio * options.learning_rate, epochs=epochs
    )
    names = [f"model-{i + 2}" for i in range(k - 1)]
    children = ground.fit("cycles", model_1.select([0] * (k - 1)), plan, names).stack
    fine_tuning = options.epochs * ground.steps_per_epoch
    ground.keep(
        concatenated([model_1, children]),
        steps=[fine_tuning, *[fine_tuning + plan.steps] * (k - 1)],
    )
