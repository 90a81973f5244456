"""Company: the other checkpoints and the further data that a checkpoint is measured with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.request import Source, load_objective, load_point

__all__ = ["Company"]

Point = tuple[Tensor, dict[str, Tensor]]  # theta (n,), buffers by name


class Company:
    """Of one checkpoint.

    Args:
        objective: of the checkpoint.
        checkpoint, source: where it came from, and so where the others come from.
        options: as for `load_objective`.
    """

    def __init__(
        self,
        objective: Objective,
        checkpoint: Path,
        source: Source,
        options: Mapping[str, object],
    ) -> None:
        self.objective, self.checkpoint, self.source = objective, checkpoint, source
        self._options = options
        self._held: dict[tuple[Path, ...], list[Point]] = {}

    def points(self, paths: Sequence[Path]) -> list[Point]:
        """Points and buffers of other checkpoints; they are read once."""
        key = tuple(paths)
        if key not in self._held:
            self._held[key] = [load_point(path, self.source, self.objective) for path in paths]
        return self._held[key]

    def test(self, data: str | None, arguments: Mapping[str, Any]) -> dict[str, Objective]:
        """The test data as "test"; empty where none were asked for.

        Args:
            data: a factory, instead of the checkpoint's own.
            arguments: that change single ones of the factory.

        Raises:
            RequestError: they are the data of the objective itself.
        """
        if data is None and not arguments:
            return {}
        source = replace(
            self.source,
            data=data or self.source.data,
            data_arguments={**self.source.data_arguments, **arguments},
        )
        found = load_objective(self.checkpoint, source, **self._options)  # type: ignore[arg-type]
        if found.batches.fingerprint == self.objective.batches.fingerprint:
            raise RequestError(
                "the test data are the very data of the objective. Say what differs: --test-args "
                '\'{"split": "test"}\', or --test-data.'
            )
        return {"test": found}
