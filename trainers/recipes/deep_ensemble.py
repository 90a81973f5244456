"""Deep ensemble: independent fine-tunings, of one start (local) or each of its own (global).

Claim, with the defaults (digits MLP, 5 members, target digit modulo 5 from 200 examples), mean and
standard error over 5 seeds: single networks reach 94.1 % (0.2) test accuracy either way, against
88.2 (0.4) from scratch. Local: ensemble 94.5 (0.2), soup 94.2 (0.2), diversity 0.34 (0.04), train
loss barrier to model 1 at most 0.004 nats. Global: ensemble 94.9 (0.1), soup 53 (4), diversity 0.50
(0.05), barrier 0.61 (0.02). About 4 s on one core of a CPU.

Source: Lakshminarayanan et al. 2017, arXiv:1612.01474; local and global after Sadrtdinov et al.
2023, arXiv:2303.03374.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from landscape.errors import RequestError
from landscape.trainers.making import Making
from landscape.trainers.options import option
from landscape.trainers.transfer import TransferOptions, transfer

__all__ = ["Options", "run"]


@dataclass(frozen=True)
class Options(TransferOptions):
    kind: Literal["local", "global"] = option("local", "one start for all, or one for each")


def run(options: Options, make: Making) -> None:
    k = options.num_members
    ground = transfer(options, make, needed=k if options.kind == "global" else 1)
    if options.kind == "global" and len(ground.starts) == 1:
        raise RequestError(
            "kind='global' with one start is a local ensemble. Give several starts, or choose "
            "kind='local'."
        )
    which = [i % len(ground.starts) if options.kind == "global" else 0 for i in range(k)]
    members = ground.fine_tuned(which)
    ground.keep(
        members,
        steps=[options.epochs * ground.steps_per_epoch] * k,
        settings=[{"start": ground.names[start]} for start in which],
    )
