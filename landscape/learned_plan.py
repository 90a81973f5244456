"""LearnedPlan: what is asked of what networks learned. `learned_probes` carries it out.

Importing this page loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from landscape.trainers.options import option

__all__ = ["LEARNED_PROBES", "OF_SEVERAL", "LearnedPlan"]

LEARNED_PROBES = (
    "linear",
    "depth",
    "features",
    "bands",
    "sparsity",
    "ensemble",
    "dynamics",
    "memorization",
)
OF_SEVERAL = ("ensemble", "dynamics", "memorization")  # checkpoints, not of one

_TEST = ("test_data", "test_arguments")
# The options that a probe depends on: another value of another option is not measured again.
_OPTIONS = {
    "linear": (
        "layers",
        "layer_pool",
        "penalties",
        "validation_share",
        "controls",
        "num_neighbors",
        *_TEST,
    ),
    "depth": ("layers", "layer_pool", "num_neighbors", "target", *_TEST),
    "features": ("blocks",),
    "bands": ("borders", "band_norm"),
    "sparsity": ("layers", "layer_pool", "dormant_below"),
    "ensemble": ("num_bins", *_TEST),
    "dynamics": (),
    "memorization": ("shown",),
}


@dataclass(frozen=True)
class LearnedPlan:
    """What a network learned, and which examples it memorized.

    Attributes:
        test_arguments: changes of the data factory's arguments that give the test data.
        members: the checkpoints of an ensemble, of dynamics (in order) or of memorization.
        See the help of each for the others.
    """

    layers: tuple[str, ...] = option(("*",), "names or globs of modules")
    layer_pool: Literal["none", "spatial", "tokens"] = option(
        "spatial", "what is averaged of a layer's output: an image's places, a text's positions"
    )
    penalties: tuple[float, ...] = option(
        (), "of linear probes, lambda / 2 ||W||^2; by default 1e-6 to 100", low=0
    )
    validation_share: float = option(0.2, "of the data, which chooses the penalty", above=0)
    controls: bool = option(True, "linear probes of random labels and of an untrained network")
    num_neighbors: int | None = option(
        None, "of nearest-neighbour probes; by default 20, of a depth 30", low=1
    )
    target: Literal["model", "label"] = option(
        "model", "with what the probes of a depth have to agree"
    )
    blocks: int | None = option(
        None, "inputs that are one feature; by default 2 of tick data", low=1
    )
    borders: tuple[int, ...] = option(
        (),
        "last frequency of each band, but 0 and the highest; 8,24 of 32 x 32 if not given",
        above=0,
    )
    band_norm: Literal["1", "2", "inf"] = option("1", "of the frequencies: |kx| + |ky|, ...")
    dormant_below: float = option(0.025, "share of a layer's mean activation", low=0)
    num_bins: int = option(15, "of confidences", low=1)
    masks: str | None = option(
        None, "npy (checkpoints, examples): who was trained on what; families know it"
    )
    shown: int = option(16, "most memorized examples that are kept to be drawn", low=0)
    test_data: str | None = option(None, "further data, as for --data")
    # What the command line asks for in its own way.
    test_arguments: Mapping[str, Any] = field(default_factory=dict)
    members: tuple[Path, ...] = ()

    def settings(self, probe: str) -> dict[str, object]:
        """What identifies a record: the options that the probe depends on, as they are."""
        asked = {name: getattr(self, name) for name in _OPTIONS[probe]}
        return {name: _plain(value) for name, value in asked.items() if value not in (None, {}, ())}


def _plain(value: object) -> object:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value
