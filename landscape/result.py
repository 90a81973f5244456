"""What every measurement carries beside its numbers; `store` writes it, `figures` draw it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Result"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Result(ABC):
    """A measurement, the request that it answers, and how much of it can be believed.

    Attributes:
        settings: the request, in values that JSON can hold (`k`, `tol`, `seed`, ...).
        provenance: what was measured: fingerprints of parameters and data, the loss, its
            reduction, the BatchNorm policy. Empty for a bare matrix.
        num_products: products with the operator that the measurement took.
        wall_time: seconds that it took.
        notes: sentences for the reader, such as what was switched off for the products.
    """

    settings: Mapping[str, object] = field(repr=False)
    provenance: Mapping[str, object] = field(default_factory=dict, repr=False)
    num_products: int = 0
    wall_time: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    @abstractmethod
    def probe(self) -> str:
        """The analysis; the result file keeps it in the group of this name."""

    @property
    @abstractmethod
    def status(self) -> str:
        """ "converged" when the result is as exact as was asked, else what is lacking."""

    @abstractmethod
    def to_dataset(self, *, vectors: bool = False) -> xr.Dataset:
        """Named dimensions, each variable with `units` and `long_name`.

        Scalars are the headline: each becomes a column of `Results.table()`. What is as long as
        the parameters, such as eigenvectors, is in it only if `vectors` is true.
        """
