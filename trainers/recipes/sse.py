"""SSE, snapshot ensemble: cosine cycles one after another, each from the end of the last.

Source: Huang et al. 2017, arXiv:1704.00109; in fine-tuning Sadrtdinov et al. 2023,
arXiv:2303.03374.
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
    members = [ground.fine_tuned([0])]
    k, epochs = options.num_members, max(1, round(options.epoch_ratio * options.epochs))
    fine_tuning = options.epochs * ground.steps_per_epoch
    steps = [fine_tuning]
    for index, seed in enumerate(ground.seeds(CYCLES, k - 1), start=2):
        # A phase of its own: the optimizer starts anew, as in each cycle of StarSSE.
        plan = ground.plan([seed], rate=options.lr_ratio * options.learning_rate, epochs=epochs)
        name = f"model-{index}"
        members.append(ground.fit(f"cycle-{index}", members[-1], plan, [name]).stack)
        steps.append(steps[-1] + plan.steps)
    ground.keep(concatenated(members), steps=steps)
