"""Results <-> HDF5: the only file that knows the schema. What a result carries is in `result`.

One file for a checkpoint, one group `/<probe>/<key>` for a record, where the key is a digest of the
request. A record is a netCDF-4 group, so xarray, h5py and netCDF tools open it without this module;
the newest plane is also the group `/VTKHDF`, so ParaView does. `transaction` keeps the file whole.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import pandas as pd
import xarray as xr
from xarray.backends import H5NetCDFStore

from landscape.errors import RequestError
from landscape.exchange import vtkhdf
from landscape.exchange.grid import axes_of
from landscape.result import Result
from landscape.transaction import exclusive, replacement

__all__ = ["SCHEMA_VERSION", "RecordInfo", "Results", "find", "open_results", "read", "records"]
__all__ += ["request_key", "save"]

SCHEMA_VERSION = 1
LOCK_TIMEOUT = 60.0  # seconds that a writer waits for another

Values = Mapping[str, object]  # settings, provenance: what JSON can hold

_OWN_ATTRIBUTES = {"written_by": "landscape", "schema_version": SCHEMA_VERSION}
_FINGERPRINTS = ("parameters_fingerprint", "data_fingerprint")
_INFO_ATTRIBUTES = ("probe", "status", "created", "wall_time", "num_products", "settings")
_CELL = str | int | float | bool | np.generic | None
_FAMILY_INDEX = "family.h5"  # what `landscape train` writes beside its checkpoints
_PACKAGES = ("landscape-geometry", "torch", "numpy")

# HDF5 refuses a file that this process has open under another policy, and the tree that a notebook
# keeps open has the library's default, which is this one.
_READ_LOCKING = "best-effort"


@dataclass(frozen=True)
class RecordInfo:
    """One record of a file, without its numbers: `read` takes its `group`."""

    group: str
    probe: str
    key: str
    status: str
    created: str  # ISO 8601 in UTC, to the microsecond: text order is time order
    wall_time: float  # seconds
    num_products: int
    settings: dict[str, Any]


def request_key(probe: str, settings: Values, provenance: Values) -> str:
    """Identity of a request, 12 hex digits; the order of the settings does not matter."""
    request = _json({"probe": probe, "settings": settings, "provenance": provenance})
    return hashlib.blake2b(request.encode(), digest_size=6).hexdigest()


def save(
    path: str | Path,
    results: Result | Sequence[Result],
    *,
    force: bool = False,
    vectors: bool = False,
    attributes: Mapping[str, str | float | bool | None] | None = None,
) -> list[str]:
    """Write results, all or none, and return their groups; a kill leaves the old or the new file.

    Args:
        force: replace a record that is already there, which is otherwise left as it is.
        vectors: keep what is as long as the parameters, too: eigenvectors.
        attributes: what describes the checkpoint (`name`, `recipe.learning_rate`, `seed`, ...);
            merged into the file's, each a column of `Results.table()`. None takes one away.

    Raises:
        RequestError: the file is not ours, damaged, newer, locked or cannot be written, or a
            setting is not JSON. The file is as it was.
    """
    listed = [results] if isinstance(results, Result) else list(results)
    groups = [_group_name(result.probe, result.settings, result.provenance) for result in listed]
    datasets = {g: _record(result, vectors) for g, result in zip(groups, listed, strict=True)}
    described = dict(attributes or {})
    for name, value in described.items():
        if name.startswith("_") or name in _OWN_ATTRIBUTES or not isinstance(value, _CELL):
            raise RequestError(
                f"attribute {name!r} = {value!r} cannot be kept. The name must not start with '_' "
                f"nor be one of {', '.join(_OWN_ATTRIBUTES)}; the value is text, a number or bool."
            )
    with exclusive(path, timeout=LOCK_TIMEOUT) as target:
        _commit(target, datasets, described, force)
    return groups


def find(path: str | Path, probe: str, settings: Values, provenance: Values) -> str | None:
    """Group of the record that answers this request; None without such a record or file."""
    group = _group_name(probe, settings, provenance)
    held = records(path) if Path(path).exists() else []
    return group if group in [info.group for info in held] else None


def records(path: str | Path) -> list[RecordInfo]:
    """What a file holds, oldest first."""
    infos = []
    with _opened(path) as file:
        for group in file.values():
            for key, record in group.items() if isinstance(group, h5py.Group) else ():
                if "schema_version" in record.attrs:
                    held = {name: _decoded(record.attrs[name]) for name in _INFO_ATTRIBUTES}
                    held["settings"] = json.loads(held["settings"])
                    infos.append(RecordInfo(group=record.name, key=key, **held))
    return sorted(infos, key=lambda info: info.created)


def read(path: str | Path, group: str) -> xr.Dataset:
    """One record in memory, bit for bit as saved; `num_nan` counts the NaN in a variable."""
    held = [info.group for info in records(path)]
    if group not in held:
        raise RequestError(f"{path} has no record {group!r}. It holds: {', '.join(held)}.")
    with xr.open_dataset(
        path,
        engine="h5netcdf",
        group=group,
        mask_and_scale=False,
        decode_times=False,  # what is measured in "seconds" is a number, not a timedelta
        driver_kwds={"locking": _READ_LOCKING},
    ) as stored:
        dataset = stored.load()
    dataset.attrs = {str(name): _decoded(value) for name, value in dataset.attrs.items()}
    return dataset


def open_results(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
) -> Results:
    """The results in files, folders (every .h5 below) and glob patterns, each with a match.

    The index of a family of checkpoints, `family.h5`, is passed over.
    """
    found: dict[str, Path] = {}  # a file named twice counts once
    for given in [files] if isinstance(files, str | os.PathLike) else files:
        entry = os.fspath(given)
        pattern = os.path.join(glob.escape(entry), "**", "*.h5") if os.path.isdir(entry) else entry
        names = [entry] if os.path.isfile(entry) else sorted(glob.glob(pattern, recursive=True))
        matches = {os.path.realpath(name): Path(name) for name in names if os.path.isfile(name)}
        if not matches:
            raise RequestError(
                f"no result file found: looked for {pattern!r} from {os.getcwd()}. "
                "`landscape probe CKPT` writes CKPT.h5 beside the checkpoint."
            )
        found |= matches
    if not found:
        raise RequestError("no files were given. Name result files, folders or patterns.")
    results = tuple(path for path in found.values() if path.name != _FAMILY_INDEX)
    if not results:
        raise RequestError(
            f"{next(iter(found.values()))} lists a family of checkpoints and holds no results. "
            "Measure them first: `landscape probe` with that folder."
        )
    return Results(results)


@dataclass(frozen=True)
class Results:
    """A family of result files; each call reads them anew."""

    paths: tuple[Path, ...]

    def table(self) -> pd.DataFrame:
        """One row a file: its attributes, then each newest record's `<probe>.<scalar>`."""
        described, measured = [], []
        for path in self.paths:
            with _opened(path) as file:
                described.append(_attributes(file))
                newest = {info.probe: file[info.group] for info in records(path)}
                measured.append(
                    {
                        f"{probe}.{name}": _scalar(variable)
                        for probe, record in newest.items()
                        for name, variable in record.items()
                        if variable.shape == ()
                    }
                )
        index = pd.Index([str(path) for path in self.paths], name="file")
        frames = [pd.DataFrame(rows, index=index) for rows in (described, measured)]
        return pd.concat(frames, axis="columns")

    def records(self) -> pd.DataFrame:
        """One row a record, the settings as JSON."""
        columns = ["file", *(field.name for field in fields(RecordInfo) if field.name != "group")]
        rows = [
            {**vars(info), "file": str(path), "settings": _json(info.settings)}
            for path in self.paths
            for info in records(path)
        ]
        return pd.DataFrame(rows, columns=columns)

    def tree(self) -> xr.DataTree:
        """All records in memory, as `/<file stem>/<probe>/<key>`; equal stems are numbered."""
        nodes: dict[str, xr.Dataset] = {}
        for path in self.paths:
            names = itertools.chain([path.stem], (f"{path.stem}_{n}" for n in itertools.count(2)))
            stem = next(name for name in names if name not in nodes)
            with _opened(path) as file:
                nodes[stem] = xr.Dataset(attrs={**_attributes(file), "file": str(path)})
            nodes |= {stem + info.group: read(path, info.group) for info in records(path)}
        return xr.DataTree.from_dict(nodes)

    def dataset(self, probe: str) -> list[tuple[Path, xr.Dataset]]:
        """Newest record of a probe in each file that has one."""
        newest = [(path, {info.probe: info for info in records(path)}) for path in self.paths]
        return [(path, read(path, held[probe].group)) for path, held in newest if probe in held]


def _group_name(probe: str, settings: Values, provenance: Values) -> str:
    if not re.fullmatch(r"\w[\w.-]*", probe):
        raise RequestError(f"probe {probe!r} cannot name a group. Use letters, digits, '_', '-'.")
    return f"/{probe}/{request_key(probe, settings, provenance)}"


def _record(result: Result, vectors: bool) -> xr.Dataset:
    """A result as it is written: its dataset, with the request and its circumstances."""
    # A copy: the result keeps its own attributes.
    dataset = result.to_dataset(vectors=vectors).drop_encoding()
    for variable in dataset.variables.values():
        values = variable.to_numpy()
        if num_nan := int((values != values).sum()):  # NaN alone differs from itself
            variable.attrs["num_nan"] = num_nan
    record = {
        **dataset.attrs,
        "schema_version": SCHEMA_VERSION,
        "probe": result.probe,
        "settings": _json(result.settings),
        "provenance": _json(result.provenance),
        **{name: result.provenance[name] for name in _FINGERPRINTS if name in result.provenance},
        "seed": result.settings.get("seed"),
        "versions": _versions(),
        "wall_time": float(result.wall_time),
        "num_products": int(result.num_products),
        "status": result.status,
        "notes": _json(list(result.notes)),
        "created": datetime.now(UTC).isoformat(timespec="microseconds"),
    }
    dataset.attrs = {name: _encoded(value) for name, value in record.items() if value is not None}
    return dataset


@functools.cache
def _versions() -> str:
    """From the packages' metadata: importing torch to ask it would cost seconds."""
    found = {name: importlib.metadata.distributions(name=name) for name in _PACKAGES}
    versions = {name: next((one.version for one in all_), None) for name, all_ in found.items()}
    return _json({"python": platform.python_version(), **versions})


def _commit(path: Path, datasets: dict[str, xr.Dataset], described: Values, force: bool) -> None:
    """Bring the file to hold these records; the caller has the lock."""
    exists = path.exists()
    if exists:
        with _opened(path) as file:
            old = _attributes(file)
            missing = {group: data for group, data in datasets.items() if group not in file}
        datasets = datasets if force else missing
        same = all(_json(value) == _json(old.get(name)) for name, value in described.items())
        if same and not datasets:
            return
    pictures = [group for group, dataset in datasets.items() if _is_picture(dataset)]
    # A file that keeps its free-space list finds the room again that a replaced record leaves.
    space = {"fs_strategy": "fsm", "fs_persist": True, "fs_threshold": 1, "track_order": True}
    with replacement(path) as temporary:
        opening = {"mode": "a"} if exists else {"mode": "w", **space}
        with h5py.File(temporary, locking=False, **opening) as file:
            for name, value in {**described, **_OWN_ATTRIBUTES}.items():
                file.attrs.pop(name, None)
                if value is not None:
                    file.attrs[name] = _encoded(value)
            for group in [*datasets, vtkhdf.GROUP] if pictures else datasets:
                file.pop(group, None)
        with h5netcdf.File(temporary, "a", locking=False) as file:
            for group, dataset in datasets.items():
                # Without this xarray declares NaN to be the fill value and rewrites its bits.
                exact = {name: {"_FillValue": None} for name in dataset.variables}
                dataset.dump_to_store(H5NetCDFStore(file, group=group), encoding=exact)
            if pictures:
                vtkhdf.write_image(file, datasets[pictures[-1]], source=pictures[-1])


def _is_picture(dataset: xr.Dataset) -> bool:
    """Whether ParaView is shown it: planes and blocks, not lines."""
    return len(axes_of(dataset)) > 1 and vtkhdf.obstacle(dataset) is None


@contextmanager
def _opened(path: str | Path) -> Iterator[h5py.File]:
    """A result file of ours for reading, in whole: writers put a new file in its place."""
    try:
        file = h5py.File(path, "r", locking=_READ_LOCKING)
    except OSError as error:
        raise RequestError(
            f"{path} is missing, damaged or not HDF5: {error}. Name another, or move it away."
        ) from error
    with file:
        writer, version = (_decoded(file.attrs.get(name, "")) for name in _OWN_ATTRIBUTES)
        if writer != _OWN_ATTRIBUTES["written_by"] or version == "":  # family.h5 has none
            raise RequestError(f"{path} is HDF5, but no result file of landscape. Name another.")
        if version > SCHEMA_VERSION:
            raise RequestError(
                f"{path} has schema {version}, newer than {SCHEMA_VERSION}, which this landscape "
                "knows. Type: pip install -U landscape-geometry"
            )
        yield file


def _attributes(file: h5py.File) -> dict[str, Any]:
    """What describes the checkpoint, without what netCDF and this module keep beside it."""
    return {
        name: _decoded(value)
        for name, value in file.attrs.items()
        if not name.startswith("_") and name not in _OWN_ATTRIBUTES
    }


def _encoded(value: Any) -> Any:
    """A value as a netCDF attribute, which knows no bool and no integer past 64 bits."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bool):
        return np.int8(value)  # no other attribute is int8: a Python integer becomes int64
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return str(value)
    return value


def _decoded(value: Any) -> Any:
    """A stored attribute in Python's own types; netCDF keeps numbers as arrays of one."""
    if isinstance(value, str):
        return value
    array = np.asarray(value).reshape(-1)
    values = (array.astype(bool) if array.dtype == np.int8 else array).tolist()
    return values[0] if len(values) == 1 else values


def _scalar(variable: h5py.Dataset) -> Any:
    value = variable[()]
    if variable.attrs.get("dtype") == "bool":  # netCDF has none: xarray writes int8 and this
        return bool(value)
    return value.decode() if isinstance(value, bytes) else value.item()


def _json(value: object) -> str:
    """Canonical JSON: one text for one value, whatever the order of its keys."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)
    except (TypeError, AttributeError) as error:
        raise RequestError(
            f"JSON (numbers, text, bool, None, lists, dicts) cannot hold all of {value!r}. "
            "Write what it cannot hold as text."
        ) from error


def _plain(value: Any) -> object:
    return dict(value) if isinstance(value, Mapping) else value.tolist()  # of NumPy
