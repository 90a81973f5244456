"""SSE, snapshot ensemble: cosine cycles one after another, each from the end of the last.

Claim, with the defaults (as in `deep_ensemble`), mean and standard error over 5 seeds, by lr_ratio:

    lr_ratio  members %    ensemble %  soup %      diversity    barrier, nats  from model 1
    0.25      94.1 (0.2)   94.0 (0.2)  94.0 (0.2)  0.07 (0.02)  0.00           0.36
    1         94.4 (0.1)   94.3 (0.1)  94.3 (0.1)  0.13 (0.02)  0.00           0.89
    2         94.7 (0.2)   94.7 (0.2)  94.6 (0.1)  0.16 (0.04)  0.00           1.7
    4         93.1 (0.3)   93.4 (0.4)  93.1 (0.3)  0.36 (0.02)  0.22 (0.15)    14
    8         47 (9)       91.0 (1.1)  34 (9)      1.37 (0.06)  1.23 (0.04)    120

(members: the children alone; model 1 has 93.6 (0.2).) The distance grows with the cycle's index: at
lr_ratio 1 it is 0.60, 0.84, 1.00, 1.12. From 16 on children guess, and the ensemble is model 1.

Source: Huang et al. 2017, arXiv:1704.00109; in fine-tuning Sadrtdinov et al. 2023,
arXiv:2303.03374.
"""

from __future__ import annotations

from dataclasses import dataclass

from landscape.trainers.making import Making
from landscape.trainers.stacking import concatenated
from landscape.trainers.transfer import CYCLES, CycleOptions, transfer

__all__ = ["Options", "run"]


@dataclass(frozen=True)
class Options(CycleOptions):
    pass


def run(options: Options, make: Making) -> None:
    ground = transfer(options, make)
    members, steps = [ground.fine_tuned([0])], [ground.fine_tuning_steps]
    for index, seed in enumerate(ground.seeds(CYCLES, options.num_members - 1), start=2):
        # A phase of its own: the optimizer starts anew, as in each cycle of StarSSE.
        plan = ground.plan([seed], rate=options.cycle_rate, epochs=options.cycle_epochs)
        trained = ground.fit(f"cycle-{index}", members[-1], plan, [f"model-{index}"])
        members.append(trained.stack)
        steps.append(steps[-1] + plan.steps)
    ground.keep(concatenated(members), steps=steps)
