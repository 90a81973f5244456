"""Starts: the members of a family, or single checkpoints, as a stack to go on training from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from landscape.checkpoint import Checkpoint, build_model, read_checkpoint
from landscape.errors import RequestError
from landscape.trainers.family import INDEX, load_family
from landscape.trainers.making import Making
from landscape.trainers.problems import Problem, problem_of, side_by_side
from landscape.trainers.stacking import Stack, stack

__all__ = ["Starts", "starting_points"]


@dataclass(frozen=True)
class Starts:
    """Networks to go on from, and what they were trained on.

    Attributes:
        stack: the networks, in training mode.
        checkpoints: whence each came.
        problems: the distinct data sets, and `which` of them each start has.
    """

    stack: Stack
    checkpoints: tuple[Checkpoint, ...]
    problems: tuple[Problem, ...]
    which: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.checkpoints)

    def setting(self, index: int, name: str) -> float:
        """A number among the settings of a start's own recipe.

        Raises:
            RequestError: its recipe has no such number.
        """
        value = self.checkpoints[index].recipe.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise RequestError(
                f"{self.checkpoints[index].path.name} does not say its {name}. Give it by option."
            )
        return float(value)

    def names(self) -> list[str]:
        return [checkpoint.path.stem for checkpoint in self.checkpoints]

    def side_by_side(self, members: Sequence[int]) -> Problem:
        """The problem of a stack whose member m comes from start `members[m]`."""
        return side_by_side(self.problems, [self.which[member] for member in members])


def starting_points(make: Making, source: str, role: str = "final") -> Starts:
    """The starts in a family's folder, or in checkpoints, with commas between.

    Args:
        role: of the members to start from, where a family has several roles.

    Raises:
        RequestError: nothing named, no such file, or networks or data that do not fit together.
    """
    if not source:
        raise RequestError(
            "start is missing. Give the folder of a family, such as one of lr-sweep, or a "
            "checkpoint: --start runs"
        )
    paths: list[Path] = []
    for entry in source.split(","):
        path = Path(entry).expanduser()
        if path.is_dir() or path.name == INDEX:
            family = load_family(path if path.is_dir() else path.parent)
            found = family.select(role=role)
            if not found:
                roles = sorted(set(family.members["role"]))
                raise RequestError(
                    f"{path} has no member of role {role!r}; its roles are {', '.join(roles)}."
                )
            paths += found
        else:
            paths.append(path)
    checkpoints = [read_checkpoint(path) for path in paths]
    problems: list[Problem] = []
    which = []
    for checkpoint in checkpoints:
        if checkpoint.data is None or checkpoint.model is None:
            raise RequestError(
                f"{checkpoint.path} does not say what it was trained on. Start from a checkpoint "
                "that landscape train made."
            )
        known = [problem.data for problem in problems]
        if checkpoint.data not in known:
            problems.append(
                problem_of(
                    checkpoint.data,
                    checkpoint.model,
                    root=make.place.data_root,
                    device=make.place.device,
                )
            )
            known.append(checkpoint.data)
        which.append(known.index(checkpoint.data))
    models = [build_model(checkpoint).to(make.place.device).train() for checkpoint in checkpoints]
    return Starts(stack(models), tuple(checkpoints), tuple(problems), tuple(which))
