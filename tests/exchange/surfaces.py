"""Files of tomgoldstein/loss-landscape, filled the way its own loops fill them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

NAME = "model_300.t7_weights_xignore=biasbn_xnorm=filter_yignore=biasbn_ynorm=filter.h5"
X, Y = np.linspace(-1, 1, 5), np.linspace(-0.5, 1, 4)


def crunch(path: Path, x, y=None, *, skip=(), data="train", scale=1.0, mode="a") -> Path:
    """A surface file, computed the way of plot_surface.py: a^2 + 10 b, and 10 a + b per cent.

    Args:
        skip: flat indices of the points that are left at -1.
    """
    with h5py.File(path, mode) as file:
        if "xcoordinates" not in file:
            file["dir_file"] = f"trained_nets/resnet56/{NAME}"
            file["xcoordinates"] = x
            if y is not None:
                file["ycoordinates"] = y
        losses = -np.ones(x.shape if y is None else (len(x), len(y)))
        accuracies = losses.copy()
        mesh = np.meshgrid(x, [0.0] if y is None else y)
        for index, (a, b) in enumerate(zip(*(each.ravel() for each in mesh), strict=True)):
            if index not in skip:
                losses.ravel()[index] = scale * (a**2 + 10 * b)
                accuracies.ravel()[index] = 50 + 10 * a + b
        file[f"{data}_loss"], file[f"{data}_acc"] = losses, accuracies
    return path


def write_directions(folder: Path, x, y=None) -> None:
    with h5py.File(folder / NAME, "w") as file:
        for name, parts in {"xdirection": x, "ydirection": y}.items():
            for index, part in enumerate(parts or ()):
                file[f"{name}/{index}"] = part


def exact(x, y):
    return x[:, None] ** 2 + 10 * y[None, :]
