"""Catalogue: one factory for every data set here, so that a checkpoint can name its examples.

Its arguments are JSON and hold no folder: a checkpoint moves between machines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.factory import JSON, Factory
from landscape.trainers.data.bundled import TEXT_VOCABULARY, digits, text
from landscape.trainers.data.image_files import cifar10, cifar100, fashion_mnist, mnist
from landscape.trainers.data.label_noise import NoiseKind, noisy_labels
from landscape.trainers.data.multi_view import ticks
from landscape.trainers.data.prototypes import prototypes
from landscape.trainers.data.splits import SubsetDesign, stratified_split, subset_masks

__all__ = ["DataInfo", "describe", "examples"]

Split = Literal["train", "validation", "test"]
_SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class DataInfo:
    """What a network for a data set must know.

    Attributes:
        input_shape: of one example; the number of symbols T for text.
        num_classes: 2 for "bce", where a network has one output; the vocabulary's size for text.
        loss: "cross_entropy" or "bce".
        sizes: examples of each split before any choice of validation; None where only the text at
            hand decides.
    """

    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    loss: Literal["cross_entropy", "bce"]
    sizes: Mapping[str, int | None]


@dataclass(frozen=True)
class _Entry:
    load: Callable[..., object]
    info: DataInfo
    needs_seed: bool = True
    root_argument: str | None = None  # what its loader calls the folder of files
    is_generated: bool = False  # as many examples as asked for, and a validation split of its own


def _images(
    load: Callable[..., object], name: str, shape: tuple[int, ...], num_classes: int, train: int
) -> _Entry:
    sizes = {"train": train, "test": 10_000}
    info = DataInfo(name, shape, num_classes, "cross_entropy", sizes)
    return _Entry(load, info, needs_seed=False, root_argument="root")


_GENERATED = {"train": 512, "validation": 2000, "test": 2000}
_CATALOGUE = {
    "digits": _Entry(
        digits,
        DataInfo("digits", (1, 8, 8), 10, "cross_entropy", {"train": 1438, "test": 359}),
    ),
    "mnist": _images(mnist, "mnist", (1, 28, 28), 10, 60_000),
    "fashion-mnist": _images(fashion_mnist, "fashion-mnist", (1, 28, 28), 10, 60_000),
    "cifar10": _images(cifar10, "cifar10", (3, 32, 32), 10, 50_000),
    "cifar100": _images(cifar100, "cifar100", (3, 32, 32), 100, 50_000),
    "ticks": _Entry(ticks, DataInfo("ticks", (32,), 2, "bce", _GENERATED), is_generated=True),
    "prototypes": _Entry(
        prototypes,
        DataInfo("prototypes", (64,), 10, "cross_entropy", _GENERATED),
        is_generated=True,
    ),
    "text": _Entry(
        text,
        DataInfo(
            "text", (64,), len(TEXT_VOCABULARY), "cross_entropy", {"train": None, "test": None}
        ),
        root_argument="path",
    ),
}


def describe(
    name: str, arguments: Mapping[str, JSON] | None = None, *, label_modulus: int | None = None
) -> DataInfo:
    """Shapes, classes and loss of a data set of the catalogue; nothing is loaded.

    Args:
        arguments, label_modulus: as for `examples`: they may change the input's shape and the
            classes.

    Raises:
        RequestError: no such data set.
    """
    info = _entry(name).info
    given = dict(arguments or {})
    shape, num_classes = info.input_shape, info.num_classes
    if name == "ticks":
        shape = (2 * _integer(given, "num_features", shape[0] // 2),)
    elif name == "prototypes":
        shape = (_integer(given, "num_features", shape[0]),)
        num_classes = _integer(given, "num_classes", num_classes)
    elif name == "text":
        shape = (_integer(given, "context", shape[0]),)
    sizes = info.sizes
    if name == "digits" and "test_fraction" in given:
        total = sum(size or 0 for size in sizes.values())
        num_test = round(float(cast(float, given["test_fraction"])) * total)
        sizes = {"train": total - num_test, "test": num_test}
    if label_modulus is not None:
        num_classes = _modulus(label_modulus, info.name, num_classes)
    return DataInfo(name, shape, num_classes, info.loss, sizes)


def examples(
    name: str = "digits",
    split: Split = "train",
    seed: int = 0,
    validation: float = 0.0,
    num_examples: int | None = None,
    root: str | Path | None = None,
    label_noise: Mapping[str, JSON] | None = None,
    subset: Mapping[str, JSON] | None = None,
    normalize: bool = False,
    arguments: Mapping[str, JSON] | None = None,
    label_modulus: int | None = None,
    one_hot: bool = False,
) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a split, as an `Objective` with the loss of `describe` takes them.

    The order of what happens: load, split off the validation part, take labels modulo
    `label_modulus`, keep `num_examples`, change labels, take the subset, normalize. Changed labels
    and subset are for the train split only, so that the same arguments with another split give
    what the network is tested on.

    Args:
        name: "digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "ticks", "prototypes" or
            "text".
        seed: of whatever the data set draws itself, of the validation part and of the
            `num_examples`.
        validation: share of the train split that is the validation split, by class. Generated sets
            ("ticks", "prototypes") draw a validation split afresh and need 0.
        num_examples: how many of the split to keep, as many of each class as its share; a
            generated set draws that many.
        root: folder of the files, or the text's file; by default $LANDSCAPE_DATA.
        label_noise: {"kind", "rate", "seed"} of `noisy_labels`.
        subset: {"num", "ratio", "seed", "design", "member"}: row `member` of `subset_masks` with
            `num` rows. {"stratify": true} has every subset keep the classes' shares.
        normalize: subtract the mean of each channel and divide by its standard deviation, both of
            the whole train set; of vectors, of each feature.
        arguments: more of the data set's own, such as {"num_features": 8}.
        label_modulus: class c becomes c modulo this, in every split: a coarser task on the same
            inputs, such as digits modulo 5.
        one_hot: targets for the squared loss "mse": 1 for the class, 0 for the others.

    Returns:
        inputs: (n, C, H, W) or (n, D) float32; (n, T) int64 for text.
        targets: (n,) int64; (n, T) for text; (n, 1) float32, 0 or 1, for the loss "bce"; (n, C)
            float32 for one-hot targets.

    Raises:
        RequestError: no such name or split, or an argument out of range or with no meaning here.
    """
    entry = _entry(name)
    if split not in _SPLITS:
        raise unknown_choice("split", split, _SPLITS)
    if seed < 0:
        raise RequestError(f"seed={seed} is negative. Choose 0 or more.")
    own = dict(arguments or {})
    taken = sorted(own.keys() & {"split", "seed", "num_examples", "root", "path"})
    if taken:
        raise RequestError(
            f"arguments has {', '.join(taken)}, which stand beside it. Give them to `examples`."
        )
    if entry.needs_seed:
        own["seed"] = seed
    if entry.root_argument is not None and root is not None:
        own[entry.root_argument] = str(root)
    if entry.is_generated and num_examples is not None:
        own["num_examples"] = num_examples
    of_validation, of_subsample = np.random.SeedSequence(seed).generate_state(2).tolist()
    inputs, targets = _part(entry, split, own, validation, of_validation)
    num_classes = describe(name, arguments, label_modulus=label_modulus).num_classes
    if label_modulus is not None:
        targets = targets % label_modulus
    if num_examples is not None and not entry.is_generated:
        kept = _subsample(targets, num_examples, of_subsample)
        inputs, targets = inputs[kept], targets[kept]
    if split == "train":
        targets = targets if label_noise is None else _noisy(targets, num_classes, label_noise)
        if subset is not None:
            member = _member(targets, subset)
            inputs, targets = inputs[member], targets[member]
    if normalize:
        inputs = _normalized(inputs, _loaded(entry, "train", own)[0])
    if one_hot:
        targets = F.one_hot(targets, num_classes).to(torch.float32)
    elif entry.info.loss == "bce":
        targets = targets[:, None].to(torch.float32)
    return inputs, targets


def _entry(name: str) -> _Entry:
    if name not in _CATALOGUE:
        raise unknown_choice("data set", name, _CATALOGUE)
    return _CATALOGUE[name]


def _modulus(modulus: int, name: str, num_classes: int) -> int:
    if not 2 <= modulus < num_classes:
        raise RequestError(
            f"label_modulus={modulus} leaves no coarser task: {name} has {num_classes} classes, so "
            f"it has to be in 2 ... {num_classes - 1}. Leave it out to keep the labels."
        )
    return modulus


def _loaded(entry: _Entry, split: str, own: Mapping[str, JSON]) -> tuple[Tensor, Tensor]:
    # A factory, for its message about arguments that do not fit.
    path = f"{entry.load.__module__}:{entry.load.__name__}"
    inputs, targets = cast(tuple[Tensor, Tensor], Factory(path, {"split": split, **own})())
    return inputs, targets


def _part(
    entry: _Entry, split: Split, own: Mapping[str, JSON], validation: float, seed: int
) -> tuple[Tensor, Tensor]:
    if entry.is_generated:
        if validation:
            raise RequestError(
                f"validation={validation} is given, but {entry.info.name!r} draws its validation "
                "split afresh. Leave it at 0."
            )
        return _loaded(entry, split, own)
    if not 0 <= validation < 1:
        raise RequestError(f"validation={validation} is not in 0 ... 1. Choose one such as 0.1.")
    if split == "validation" and not validation:
        raise RequestError(
            "split='validation' needs a share of the train split: give validation, such as 0.1."
        )
    if split == "test" or not validation:
        return _loaded(entry, split, own)
    inputs, targets = _loaded(entry, "train", own)
    held, rest = stratified_split(_classes(targets), [validation, 1 - validation], seed=seed)
    chosen = held if split == "validation" else rest
    return inputs[chosen], targets[chosen]


def _classes(targets: Tensor) -> Tensor:
    """The class of each example; sequences are all of one."""
    return targets if targets.ndim == 1 else targets.new_zeros(len(targets))


def _subsample(targets: Tensor, size: int, seed: int) -> Tensor:
    if not 1 <= size <= len(targets):
        raise RequestError(
            f"num_examples={size} is not in 1 ... {len(targets)}, the examples of this split."
        )
    return stratified_split(_classes(targets), [size], seed=seed)[0]


def _noisy(targets: Tensor, num_classes: int, label_noise: Mapping[str, JSON]) -> Tensor:
    _require_keys("label_noise", label_noise, {"seed"}, {"kind", "rate"})
    return noisy_labels(
        targets,
        num_classes,
        cast(NoiseKind, label_noise.get("kind", "uniform")),
        float(cast(float, label_noise.get("rate", 1.0))),
        seed=cast(int, label_noise["seed"]),
    ).labels


def _member(targets: Tensor, subset: Mapping[str, JSON]) -> Tensor:
    _require_keys("subset", subset, {"num", "seed", "member"}, {"ratio", "design", "stratify"})
    num, member = cast(int, subset["num"]), cast(int, subset["member"])
    masks = subset_masks(
        len(targets),
        num,
        cast("float | None", subset.get("ratio")),
        seed=cast(int, subset["seed"]),
        design=cast(SubsetDesign, subset.get("design", "balanced")),
        stratify=_classes(targets) if subset.get("stratify") else None,
    )
    if not 0 <= member < num:
        raise RequestError(
            f"subset has member={member}, expected 0 ... {num - 1}, since num={num}."
        )
    return masks[member].nonzero().flatten()


def _normalized(inputs: Tensor, train: Tensor) -> Tensor:
    if not train.is_floating_point():
        raise RequestError("normalize=True is for numbers, and these inputs are symbols. Leave it.")
    others = [0, *range(2, train.ndim)]
    # Float64 sums: 60,000 images have more pixels than float32 can count.
    mean = train.mean(others, keepdim=True, dtype=torch.float64)
    square = (train - mean.to(train.dtype)).square().mean(others, keepdim=True, dtype=torch.float64)
    scale = square.sqrt()
    scale[scale == 0] = 1  # a channel that never changes is 0, not NaN
    return (inputs - mean.to(inputs.dtype)) / scale.to(inputs.dtype)


def _require_keys(
    what: str, given: Mapping[str, JSON], needed: set[str], optional: set[str]
) -> None:
    for key in given:
        if key not in needed | optional:
            raise unknown_choice(f"key of {what}", key, needed | optional)
    missing = sorted(needed - given.keys())
    if missing:
        raise RequestError(f"{what}={dict(given)} lacks {', '.join(missing)}. Give it.")


def _integer(given: Mapping[str, JSON], key: str, default: int) -> int:
    value = given.get(key, default)
    if not isinstance(value, int):
        raise RequestError(f"arguments has {key}={value!r}, expected a whole number.")
    return value
