"""Family: a folder of checkpoints that one recipe made, and what was recorded on the way.

`<folder>/family.h5` is the index: the command, the members and their files, curves, outcomes on
single examples. `making` writes it; the results of probing lie beside each checkpoint as always.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from landscape.errors import RequestError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["INDEX", "Family", "load_family"]

INDEX = "family.h5"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Family(Sequence[Path]):
    """Checkpoints of one recipe; as a sequence it is that of their paths.

    Attributes:
        folder: where it lies.
        recipe: its name.
        options: those of the recipe, as it was run.
        command: the line that makes it again.
        notes: sentences on what was found.
    """

    folder: Path
    recipe: str
    options: Mapping[str, Any]
    command: str
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Family({str(self.folder)!r}, {self.recipe}, {len(self)} checkpoints)"

    def __fspath__(self) -> str:
        return str(self.folder)

    def __len__(self) -> int:
        return len(self.checkpoints)

    def __iter__(self) -> Iterator[Path]:
        return iter(self.checkpoints)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Path, ...]: ...
    def __getitem__(self, index: int | slice) -> Path | tuple[Path, ...]:
        return self.checkpoints[index]

    @property
    def checkpoints(self) -> tuple[Path, ...]:
        """The files, each once, in the order of the members."""
        names = dict.fromkeys(name for name in self.members["file"] if name)
        return tuple(self.folder / name for name in names)

    @property
    def members(self) -> pd.DataFrame:
        """One row a member: its name, role, file ("" where it diverged), settings and metrics.

        Members whose weights are equal share a file.
        """
        table = self.group("members").to_dataframe()
        return table.reset_index(drop="name" in table.columns)

    @property
    def results(self) -> xr.DataTree:
        """All that was recorded, in memory: `members`, `curves/<phase>`, `outcomes/<phase>`, ..."""
        import xarray as xr

        with xr.open_datatree(self.folder / INDEX, engine="h5netcdf") as tree:
            return tree.load()

    def group(self, name: str) -> xr.Dataset:
        """One of the groups of `results`, such as "curves/training".

        Raises:
            RequestError: no such group.
        """
        import xarray as xr

        try:
            with xr.open_dataset(self.folder / INDEX, engine="h5netcdf", group=name) as held:
                return held.load()
        except OSError:
            found = [path.strip("/") for path in self.results.groups if path != "/"]
            raise RequestError(
                f"{self.folder / INDEX} has no group {name!r}. It has: {', '.join(found)}."
            ) from None

    def select(self, **wanted: object) -> list[Path]:
        """Files of the members with these settings: `family.select(role="final", seed=0)`.

        Raises:
            RequestError: a setting that the members do not have.
        """
        table = self.members
        for name, value in wanted.items():
            if name not in table:
                raise RequestError(
                    f"the members of {self.folder} have no {name!r}. They have: "
                    f"{', '.join(table.columns)}."
                )
            table = table[table[name] == value]
        return [self.folder / name for name in dict.fromkeys(table["file"]) if name]


def load_family(folder: str | Path) -> Family:
    """The family in a folder.

    Raises:
        RequestError: no family there, one that is not finished, or one of a newer format.
    """
    import h5py

    folder = Path(folder).expanduser()
    index = folder / INDEX
    if not index.is_file():
        unfinished = (folder / ".state").is_dir()
        raise RequestError(
            f"the family in {folder} is not finished. Give the same `landscape train` again: it "
            "goes on where it stopped."
            if unfinished
            else f"no family in {folder}: there is no {INDEX}. `landscape train RECIPE --out "
            f"{folder}` makes one."
        )
    try:
        with h5py.File(index, "r") as file:
            held = {name: _decoded(value) for name, value in file.attrs.items()}
    except OSError as error:
        raise RequestError(f"{index} cannot be read: {error}.") from None
    if held.get("kind") != "family":
        raise RequestError(f"{index} was not written by landscape train. Name another folder.")
    if int(held["format_version"]) > FORMAT_VERSION:
        raise RequestError(
            f"{index} has format version {held['format_version']}, and this landscape reads up to "
            f"{FORMAT_VERSION}. Upgrade: pip install -U landscape-geometry."
        )
    return Family(
        folder,
        recipe=str(held["recipe"]),
        options=json.loads(held["options"]),
        command=str(held["command"]),
        notes=tuple(json.loads(held["notes"])),
    )


def _decoded(value: Any) -> Any:
    """An attribute, which netCDF keeps as an array of one."""
    return value.item() if hasattr(value, "shape") and value.shape == (1,) else value
