"""Problem: a data set, its splits on the device, and the network that fits it, by two names.

The data sets are in `data`, the networks in `models`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from landscape.errors import RequestError, unknown_choice
from landscape.factory import JSON, Factory
from landscape.trainers.data.catalogue import DataInfo, describe, examples
from landscape.trainers.examples import Examples
from landscape.trainers.orders import child_seed
from landscape.trainers.stacking import Stack, stack

__all__ = ["MODELS", "Problem", "factory_for", "networks", "problem", "problem_of", "side_by_side"]

_OWN_DATA = "landscape.trainers.data.catalogue:examples"


@dataclass(frozen=True)
class Problem:
    """What is trained on, and what is trained.

    Attributes:
        data: builds the training examples, as a checkpoint names it.
        model: builds the network.
        loss: "cross_entropy", "bce", or "mse" for one-hot targets.
        train: the training examples.
        evaluations: "train", "test" and, where asked for, "validation".
        info: shape and number of classes.
    """

    data: Factory
    model: Factory
    loss: str
    train: Examples
    evaluations: Mapping[str, Examples]
    info: DataInfo


def problem(
    data: str,
    model: str,
    *,
    seed: int = 0,
    validation: float = 0.0,
    num_examples: int | None = None,
    root: str | Path | None = None,
    device: torch.device | None = None,
    one_hot: bool = False,
    data_arguments: Mapping[str, JSON] | None = None,
    model_arguments: Mapping[str, JSON] | None = None,
) -> Problem:
    """Load a data set's splits, and name the network that takes its examples.

    Args:
        data: "digits", "fashion-mnist", "ticks", ...: `data.catalogue` lists them.
        model: "mlp", "cnn", ...: `MODELS` lists them.
        seed: of the splits, or of the data themselves where they are drawn.
        validation: share of the training examples that is set apart.
        num_examples: a stratified part of the training examples; None for all.
        root: where files are looked for; None for $LANDSCAPE_DATA.
        one_hot: targets for the squared loss.

    Raises:
        RequestError: no such data set or network, files that are missing, or a pair of them that
            does not fit.
    """
    arguments: dict[str, JSON] = {"name": data, "split": "train", "seed": seed}
    if validation:
        arguments["validation"] = validation
    if num_examples is not None:
        arguments["num_examples"] = num_examples
    if one_hot:
        arguments["one_hot"] = True
    if data_arguments:
        arguments["arguments"] = dict(data_arguments)
    network = factory_for(model, describe(data), model_arguments or {})
    return problem_of(Factory(_OWN_DATA, arguments), network, root=root, device=device)


def problem_of(
    data: Factory,
    model: Factory,
    *,
    root: str | Path | None = None,
    device: torch.device | None = None,
) -> Problem:
    """The problem that a checkpoint of ours names: its data in all splits, its network.

    Raises:
        RequestError: data of another origin, which have no splits that we know of.
    """
    if data.path != _OWN_DATA:
        raise RequestError(
            f"the data {data.path!r} have no splits that landscape knows. Start from a checkpoint "
            "that landscape train made."
        )
    device = device or torch.get_default_device()
    given: Any = data.arguments  # `describe` checks them
    info = describe(given["name"], given.get("arguments"), label_modulus=given.get("label_modulus"))
    evaluations = {}
    for split in ("train", "validation", "test"):
        if split == "validation" and not data.arguments.get("validation"):
            continue
        # A smaller training set, or noise in it, is no reason to test on less.
        left_out = () if split == "train" else ("num_examples", "label_noise", "subset")
        arguments = {k: v for k, v in data.arguments.items() if k not in left_out}
        evaluations[split] = _loaded(
            replace(data, arguments={**arguments, "split": split}), device, root
        )
    loss = "mse" if data.arguments.get("one_hot") else info.loss
    return Problem(data, model, loss, evaluations["train"], evaluations, info)


def networks(
    model: Factory, seeds: Sequence[int], device: torch.device | None = None
) -> Stack:  # fmt: skip
    """A stack of new networks, one for each seed; equal seeds give equal weights.

    Initial weights are drawn on the CPU, so that a seed means the same on every device.
    """
    made: dict[int, nn.Module] = {}
    for seed in seeds:
        if seed in made:
            continue
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.default_generator.manual_seed(child_seed(seed, 0))
            network = model()
        assert isinstance(network, nn.Module)
        made[seed] = network.to(device or torch.get_default_device())
    index = {seed: position for position, seed in enumerate(made)}
    return stack(list(made.values())).select([index[seed] for seed in seeds])


def side_by_side(problems: Sequence[Problem], which: Sequence[int]) -> Problem:
    """Several problems of one shape as one, for a stack whose member m has problem which[m]."""
    first = problems[0]
    index = torch.tensor(which, device=first.train.inputs.device)

    def joined(parts: Sequence[Examples]) -> Examples:
        inputs, targets = (
            torch.stack(t) for t in ([p.inputs for p in parts], [p.targets for p in parts])
        )
        return Examples(inputs, targets, index, index)

    if len(problems) == 1:
        return first
    evaluations = {
        name: joined([problem.evaluations[name] for problem in problems])
        for name in first.evaluations
    }
    return replace(first, train=evaluations["train"], evaluations=evaluations)


def _loaded(data: Factory, device: torch.device, root: str | Path | None) -> Examples:
    loaded = examples(**{**data.arguments, "root": root})  # type: ignore[arg-type]
    inputs, targets = (tensor.to(device) for tensor in loaded)
    return Examples(inputs, targets)


# --- Networks by name ---


def _image(info: DataInfo, name: str) -> tuple[int, int]:
    """Channels and side of the images."""
    if len(info.input_shape) != 3:
        raise RequestError(
            f"model={name!r} takes images, and {info.name} has examples of shape "
            f"{info.input_shape}. Choose model='mlp'."
        )
    return info.input_shape[0], info.input_shape[1]


def _mlp(info: DataInfo) -> dict[str, JSON]:
    outputs = 1 if info.loss == "bce" else info.num_classes
    return {
        "in_features": math.prod(info.input_shape),
        "hidden": [64, 64],
        "num_classes": outputs,
        "activation": "relu",
    }


def _tick_mlp(info: DataInfo) -> dict[str, JSON]:
    if info.loss != "bce":
        raise RequestError(f"model='tick-mlp' is for data='ticks', not for {info.name}.")
    return {"in_features": math.prod(info.input_shape), "width": 32}


def _images(factory: str, **fixed: JSON) -> Callable[[DataInfo], dict[str, JSON]]:
    def arguments(info: DataInfo) -> dict[str, JSON]:
        channels, side = _image(info, factory)
        sized = {"image_size": side} if factory in ("convnet", "vit") else {}
        return {"in_channels": channels, "num_classes": info.num_classes, **sized, **fixed}

    return arguments


def _transformer(info: DataInfo) -> dict[str, JSON]:
    if info.name != "text":
        raise RequestError(f"model='transformer' is for data='text', not for {info.name}.")
    return {
        "vocabulary": info.num_classes,
        "context": info.input_shape[0],
        "dim": 64,
        "depth": 2,
        "heads": 4,
    }


# Every argument is spelt out, so that a checkpoint outlives a change of the factories' defaults.
MODELS: dict[str, tuple[str, Callable[[DataInfo], dict[str, JSON]]]] = {
    "mlp": ("mlp", _mlp),
    "mlp-tanh": ("mlp", lambda info: {**_mlp(info), "activation": "tanh"}),
    "mlp-layernorm": ("mlp", lambda info: {**_mlp(info), "norm": "layer"}),
    "tick-mlp": ("tick_mlp", _tick_mlp),
    "cnn": ("cnn", _images("cnn", width=16)),
    "convnet": ("convnet", _images("convnet", width=8, scale_invariant=False)),
    "convnet-si": ("convnet", _images("convnet", width=8, scale_invariant=True)),
    "resnet8": ("resnet8", _images("resnet8", width=16, scale_invariant=False)),
    "resnet8-si": ("resnet8", _images("resnet8", width=16, scale_invariant=True)),
    "resnet18": ("resnet18", _images("resnet18", width=64, scale_invariant=False)),
    "resnet18-si": ("resnet18", _images("resnet18", width=32, scale_invariant=True)),
    "resnet20": ("resnet20", _images("resnet20", width=16, scale_invariant=False)),
    "resnet20-si": ("resnet20", _images("resnet20", width=16, scale_invariant=True)),
    "vit": ("vit", _images("vit", patch=4, dim=128, depth=4, heads=4)),
    "transformer": ("transformer", _transformer),
}


def factory_for(model: str, info: DataInfo, arguments: Mapping[str, JSON]) -> Factory:
    """The factory of a network that fits a data set; `arguments` go before the defaults."""
    if model not in MODELS:
        raise unknown_choice("model", model, MODELS)
    name, defaults = MODELS[model]
    fitted = defaults(info)
    if name == "vit" and info.input_shape[1] < 16:
        fitted["patch"] = 2
    return Factory(f"landscape.trainers.models:{name}", {**fitted, **arguments})
