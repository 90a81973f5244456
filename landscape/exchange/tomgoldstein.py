"""Surfaces that tomgoldstein/loss-landscape has computed, as sweeps of ours. Nothing is unpickled.

Its `plot_surface.py` makes arrays of shape (len(x), len(y)) and fills them by a flat index into
`np.meshgrid(x, y)`, which has shape (len(y), len(x)): x varies fastest in memory, whatever the
shape says. Points that were not computed hold -1, and accuracies are per cent.
Source: https://github.com/tomgoldstein/loss-landscape: plot_surface, scheduler, projection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import h5py
import numpy as np
from numpy.typing import NDArray

from landscape.errors import RequestError
from landscape.slices.sweep import Sweep

__all__ = ["read_surface"]

Array = NDArray[np.float64]

_NOT_COMPUTED = -1.0
_COORDINATES = ("xcoordinates", "ycoordinates")
_DIRECTIONS = ("xdirection", "ydirection")


def read_surface(path: str | Path) -> Sweep:
    """A line or a plane from a surface file, with what lies beside it.

    The directions' file, whose name the surface holds, gives norms and cosine; a trajectory that
    was projected on them gives marks, in the units of the surface. Both are looked for in the
    surface's folder, under the names that loss-landscape gives them, and can be missing.

    Returns:
        Fields `loss` and `accuracy` of the training data, or of the test data where there are no
        others, else `test_loss` and `test_accuracy`. `standard_error` is NaN: nobody measured it.

    Raises:
        RequestError: there is no such file, or no surface in it.
    """
    path = Path(path)
    with _opened(path) as file:
        data = _data_of(file, path)
        axes = [_numbers(file, name, path) for name in _COORDINATES if name in file]
        held = {name: _numbers(file, name, path) for name in _field_names(data) if name in file}
        dir_file = _text(file, "dir_file")
    orders = [np.argsort(axis, kind="stable") for axis in axes]  # a sweep's axes rise
    coordinates = tuple(axis[order] for axis, order in zip(axes, orders, strict=True))
    values = {name: _on_grid(array, orders, name, path) for name, array in held.items()}
    done = values[f"{data}_loss"] != _NOT_COMPUTED
    fields = {
        _field_names(data)[name]: np.where(array == _NOT_COMPUTED, np.nan, array)
        / (100.0 if name.endswith("_acc") else 1.0)
        for name, array in values.items()
    }
    directions = path.with_name(PurePosixPath(dir_file.replace("\\", "/")).name or "directions.h5")
    gram = _gram(directions, len(axes))
    marks, notes = _marks(directions, gram)
    if not np.isfinite(gram).all():
        notes.insert(0, f"norms and cosine are unknown: {directions.name} does not lie beside it")
    if not done.all():
        notes.insert(0, f"{int((~done).sum())} of {done.size} points had not been computed")
    norms = np.sqrt(gram.diagonal())
    cosines = np.where(np.eye(len(axes)), 1.0, gram / np.outer(norms, norms))
    known_pair = len(axes) == 2 and bool(np.isfinite(cosines).all())
    return Sweep(
        kind="line" if len(axes) == 1 else "plane",
        coordinates=coordinates,
        fields={**fields, "standard_error": np.full(done.shape, np.nan)},
        done=done,
        direction_names=tuple(f"{name} of {directions.name}" for name in _DIRECTIONS[: len(axes)]),
        direction_norms=norms,
        cosines=cosines,
        caveats={"max_cosine": float(abs(cosines[0, 1]))} if known_pair else {},
        center_loss=_at_center(coordinates, fields["loss"]),
        marks=marks,
        settings={"format": "tomgoldstein/loss-landscape"},
        provenance={
            "imported_from": path.name,
            "imported_digest": hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest(),
            "dir_file": dir_file,
            "data": data,
        },
        # Its evaluation.py calls net.eval() at every point.
        notes=(f"imported: loss of the {data} data, BatchNorm with frozen statistics", *notes),
    )


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        # A job that still computes holds a lock on its file, and a copy of it on some network
        # drives cannot be locked at all: neither keeps the file from being read.
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise RequestError(
            f"{path} is missing, damaged or not HDF5: {error}. Name another, or move it away."
        ) from error
    with file:
        yield file


def _data_of(file: h5py.File, path: Path) -> str:
    """The data whose loss is the surface."""
    for data in ("train", "test"):
        if "xcoordinates" in file and f"{data}_loss" in file:
            return data
    raise RequestError(
        f"{path} holds no surface of tomgoldstein/loss-landscape, which needs xcoordinates and "
        f"train_loss or test_loss. It holds: {', '.join(file) or 'nothing'}."
    )


def _field_names(data: str) -> dict[str, str]:
    """Their name of each field, and ours."""
    names = {f"{data}_loss": "loss", f"{data}_acc": "accuracy"}
    return (
        names
        if data == "test"
        else {**names, "test_loss": "test_loss", "test_acc": "test_accuracy"}
    )


def _numbers(file: h5py.File, name: str, path: Path) -> Array:
    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "fiu" or found.ndim == 0:
        raise RequestError(f"{path}: {name} is no array of numbers. Compute the surface again.")
    array = np.asarray(found[()], dtype=np.float64)
    if name in _COORDINATES and (array.ndim != 1 or not np.isfinite(array).all()):
        raise RequestError(
            f"{path}: {name} has shape {array.shape}, needed is one row of finite numbers."
        )
    return array


def _text(file: h5py.File, name: str) -> str:
    value = file[name][()] if name in file else ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _on_grid(array: Array, orders: list[NDArray[np.intp]], name: str, path: Path) -> Array:
    """A field with the axes of the sweep, from the order in which it lies in memory."""
    shape = tuple(len(order) for order in orders)
    if array.size != np.prod(shape):
        raise RequestError(
            f"{path}: {name} has {array.size} values, and the coordinates ask for {shape}. "
            "Compute the surface again."
        )
    return array.ravel().reshape(shape[::-1]).T[np.ix_(*orders)]


def _at_center(coordinates: tuple[Array, ...], loss: Array) -> float:
    """The loss where all coordinates are 0; NaN where no point is."""
    nearest = tuple(int(np.abs(axis).argmin()) for axis in coordinates)
    found = (
        abs(axis[i]) <= 1e-9 * np.ptp(axis) for axis, i in zip(coordinates, nearest, strict=True)
    )
    return float(loss[nearest]) if all(found) else float("nan")


def _gram(directions: Path, count: int) -> Array:
    """(count, count) products of the directions; NaN where there is no file of them."""
    gram = np.full((count, count), np.nan)
    if not directions.is_file():
        return gram
    with _opened(directions) as file:
        groups = [file[name] for name in _DIRECTIONS[:count] if name in file]
        layouts = [{key: held.shape for key, held in group.items()} for group in groups]
        if len(groups) < count or layouts[0] != layouts[-1]:
            return gram
        gram[:] = 0.0
        # What has no shape counts batches, in a direction through states: no parameter.
        for key in (key for key, shape in layouts[0].items() if shape):
            parts = [np.asarray(group[key][()], dtype=np.float64).ravel() for group in groups]
            gram += [[one @ other for other in parts] for one in parts]
    return gram


def _marks(directions: Path, gram: Array) -> tuple[dict[str, tuple[float, ...]], list[str]]:
    """The checkpoints of a trajectory in the units of the surface, and what to know of them.

    Where loss-landscape projects by cosines it divides by the norms of the directions, and takes
    these for orthogonal: from <delta, d_i> the coordinates are solved for again.
    """
    for method in ("lstsq", "cos"):
        path = directions.with_name(f"{directions.name}_proj_{method}.h5")
        if len(gram) != 2 or not path.is_file():
            continue
        with _opened(path) as file:
            places: Array = np.stack(
                [_numbers(file, f"proj_{x}coord", path) for x in "xy"], axis=-1
            )
        notes = [f"the marks are the checkpoints of {path.name}"]
        if method == "cos" and np.isfinite(gram).all():
            products = places * np.sqrt(gram.diagonal())
            places = (np.linalg.pinv(gram) @ products.T).T
        elif method == "cos":
            notes[0] += ", in units of weights: those of the surface only if the norms are 1"
        return {f"checkpoint {i}": (float(a), float(b)) for i, (a, b) in enumerate(places)}, notes
    return {}, []
