"""BendState: how far the training of a curve has come, in memory and in a file."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from landscape.atomic import appearing
from landscape.errors import RequestError

__all__ = ["BendState"]


@dataclass
class BendState:
    """How far a training has come: all that it goes on from.

    Attributes:
        bends: (B, n) the vertices between the ends.
        first, second: (B, n) moments of their gradients.
        best, best_loss: the bends after the steps, of those looked at, of the least mean loss.
        losses: of each step so far.
    """

    bends: Tensor
    first: Tensor
    second: Tensor
    best: Tensor
    best_loss: float = math.inf
    losses: list[float] = field(default_factory=list)

    @classmethod
    def start(cls, bends: Tensor) -> BendState:
        """Before the first step."""
        return cls(bends.clone(), torch.zeros_like(bends), torch.zeros_like(bends), bends.clone())

    def write(self, path: Path, request: Mapping[str, object]) -> None:
        """Keep it in a file, together with what it is the state of.

        Raises:
            RequestError: the file cannot be written; it is as it was.
        """
        held = io.BytesIO()
        torch.save({"request": json.dumps(request, sort_keys=True), **vars(self)}, held)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with appearing(path) as temporary:
                temporary.write_bytes(held.getbuffer())
        except OSError as error:
            raise RequestError(
                f"cannot keep the state of the curve in {path}: {error}. Name a file in a folder "
                "that can be written and has room."
            ) from error

    @classmethod
    def read(cls, path: Path, request: Mapping[str, object], device: torch.device) -> BendState:
        """From a file that `write` made for the same request.

        Raises:
            RequestError: a file of another curve, or one that cannot be read.
        """
        try:
            held: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
            of = held.pop("request")
            found = cls(**held)
        except Exception as error:  # a damaged archive fails in whatever it is read by
            raise RequestError(
                f"{path} cannot be read as the state of a curve: {error}. Name another file, or "
                "delete it to start anew."
            ) from error
        if of != json.dumps(request, sort_keys=True):
            raise RequestError(
                f"{path} belongs to another curve: other ends, data or options. Name another "
                "file, or delete it to start anew."
            )
        return found
