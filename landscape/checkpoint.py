"""Checkpoint: read any checkpoint safely, write our own self-describing ones.

`weight_files` turns files into plain objects, `name_matching` fits tensors to a model's names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

import landscape
from landscape.atomic import appearing
from landscape.factory import JSON, Factory
from landscape.name_matching import match_names
from landscape.weight_files import CheckpointError, read_weight_file

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "build_model",
    "load_state",
    "read_checkpoint",
    "write_checkpoint",
]

_FORMAT = "landscape-checkpoint"
_FORMAT_VERSION = 1
# Where training scripts put the weights. Averaged ones are taken only where no others are.
_PLAIN_KEYS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "module",
)
_AVERAGED_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema")
_MAX_DEPTH = 4  # of dicts in dicts: a pickled dict may hold itself


@dataclass(frozen=True)
class Checkpoint:
    """Weights, and what their file says about how they came to be.

    Attributes:
        kind: "landscape", "state dict", "Lightning", "safetensors", "Hugging Face", "whole
            module"; a dict with the weights under a key is a "training checkpoint".
        model: builds the network. Foreign files name none.
        recipe: its name and options, such as `{"name": "single", "learning_rate": 0.1}`.
        module: the network itself; only from a file that holds one, with `unsafe_load`.
        notes: sentences on how the file was understood.
    """

    path: Path
    state_dict: dict[str, Tensor]
    kind: str
    model: Factory | None = None
    data: Factory | None = None
    loss: str | None = None
    recipe: Mapping[str, JSON] = field(default_factory=dict)
    seed: int | None = None
    step: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    module: nn.Module | None = None
    notes: tuple[str, ...] = ()


def read_checkpoint(path: str | Path, *, unsafe_load: bool = False) -> Checkpoint:
    """Read a checkpoint of any common format; its tensors are on the CPU.

    Args:
        path: a file, a shard index, or a folder that `save_pretrained` wrote.
        unsafe_load: also unpickle what needs code of its own to run, with all the user's rights.

    Raises:
        CheckpointError: the file cannot be read safely, or holds no or several sets of weights.
    """
    path = Path(path).expanduser()
    held, container = read_weight_file(path, unsafe_load=unsafe_load)
    if isinstance(held, Mapping) and held.get("format") == _FORMAT:
        return _own(path, held)
    notes: list[str] = []
    found, kind = _weights(held, path.name, notes), "state dict"
    if container != "torch":
        kind = container
    elif isinstance(held, nn.Module):
        kind = "whole module"
    elif isinstance(held, Mapping) and "pytorch-lightning_version" in held:
        kind = "Lightning"
    elif found is not held:
        kind = "training checkpoint"
    module = found if isinstance(found, nn.Module) else None
    entries = found.state_dict() if isinstance(found, nn.Module) else found
    state_dict = {
        name: tensor.detach()
        for name, tensor in entries.items()
        if isinstance(name, str) and isinstance(tensor, Tensor)
    }
    others = [str(name) for name in entries if name not in state_dict]
    if others:
        notes.append(f"left out what is no tensor: {', '.join(others[:6])}")
    step = held.get("global_step", held.get("step")) if isinstance(held, Mapping) else None
    return Checkpoint(
        path=path,
        state_dict=state_dict,
        kind=kind,
        step=step if type(step) is int else None,
        module=module,
        notes=tuple(notes),
    )


def write_checkpoint(
    path: str | Path,
    model: nn.Module,
    *,
    model_factory: Factory,
    data_factory: Factory,
    loss: str,
    recipe: Mapping[str, JSON],
    seed: int | None,
    step: int | None,
    metrics: Mapping[str, float],
) -> Path:
    """Write a checkpoint from which model, data and loss can be built again.

    The file appears whole or not at all, in place of one of the same name.
    `torch.load(path, weights_only=True)` reads it.

    Raises:
        CheckpointError: arguments, recipe or metrics that JSON cannot hold; no such folder.
    """
    path = Path(path).expanduser()
    if not path.parent.is_dir():
        raise CheckpointError(f"no folder {str(path.parent)!r} to write {path.name} in. Make it.")
    content = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "state_dict": {
            name: _on_its_own(tensor)
            for name, tensor in model.state_dict().items()
            if isinstance(tensor, Tensor)  # not the `_extra_state` of a module, which is code's
        },
        "model": _described(model_factory, "model_factory"),
        "data": _described(data_factory, "data_factory"),
        "loss": loss,
        "recipe": _plain(recipe, "recipe"),
        "seed": seed,
        "step": step,
        "metrics": _plain(metrics, "metrics"),
        "landscape_version": landscape.__version__,
        "torch_version": str(torch.__version__),
    }
    with appearing(path) as temporary:
        torch.save(content, temporary)
    return path


def load_state(model: nn.Module, checkpoint: Checkpoint) -> tuple[str, ...]:
    """Copy a checkpoint's weights into `model`, which keeps its dtypes and devices.

    Returns:
        Sentences on what was not word for word: a prefix removed, a dtype converted.

    Raises:
        CheckpointError: weights that do not fit, listed side by side, or that are not finite.
            The model is then as it was.
    """
    name = checkpoint.path.name
    match = match_names(model, checkpoint.state_dict, name)
    own = model.state_dict()
    if any(tensor.is_meta for tensor in own.values() if isinstance(tensor, Tensor)):
        raise CheckpointError(
            f"the model has no memory for {name}: it was built on the device 'meta'. Let the "
            "factory build it on the CPU."
        )
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    bad = [
        key
        for key, tensor in match.tensors.items()
        if not _is_finite(tensor, None if key in parameters else own[key])
    ]
    if bad:
        raise CheckpointError(
            f"{name} holds NaN or infinite values in {len(bad)} tensor(s): {', '.join(bad[:5])}. "
            "The training run diverged, or the file is damaged: give an earlier checkpoint."
        )
    notes = list(match.notes)
    converted = sorted(
        {
            f"{tensor.dtype} to {own[key].dtype}".replace("torch.", "")
            for key, tensor in match.tensors.items()
            if tensor.is_floating_point() and tensor.dtype != own[key].dtype
        }
    )
    if converted:
        notes.append(f"converted {', '.join(converted)}, which the model computes in")
    try:
        model.load_state_dict({**own, **match.tensors})
    except RuntimeError as error:  # the network's own hooks disagree
        raise CheckpointError(f"{type(model).__name__} does not load {name}: {error}") from error
    return tuple(notes)


def build_model(
    checkpoint: Checkpoint, model: Factory | None = None, *, unsafe_load: bool = False
) -> nn.Module:
    """The network with the checkpoint's weights.

    Args:
        model: builds the network; by default the checkpoint says how.
        unsafe_load: call a factory that the checkpoint names even if it is not one of ours.

    Raises:
        CheckpointError: no network named, one that may not be built, or weights that do not fit.
        RequestError: the factory cannot be found, or does not take its arguments.
    """
    if model is None and checkpoint.module is not None:
        network = checkpoint.module
    else:
        network = _built(checkpoint, model, unsafe_load)
    load_state(network, checkpoint)
    return network


def _built(checkpoint: Checkpoint, model: Factory | None, unsafe_load: bool) -> nn.Module:
    name = checkpoint.path.name
    factory = model or checkpoint.model
    if factory is None:
        raise CheckpointError(
            f"{name} holds weights only and does not say of which network. Pass the function "
            "that builds it: --model 'pkg.mod:factory'."
        )
    if model is None and not (factory.is_own or unsafe_load):
        raise CheckpointError(
            f"{name} asks to call {factory.path!r}, which is not part of landscape, and was not "
            "called. Pass the function that builds the network, --model 'pkg.mod:factory', or "
            "--unsafe-load if you trust the file's origin."
        )
    network = factory()
    if not isinstance(network, nn.Module):
        raise CheckpointError(
            f"{factory.path} returned a {type(network).__name__}, expected a torch.nn.Module. "
            "Name a function that returns the network: --model 'pkg.mod:factory'."
        )
    return network


# --- Finding the weights in what a file holds ---


def _weights(held: object, name: str, notes: list[str]) -> Mapping[str, object] | nn.Module:
    if _is_weights(held):
        return cast("Mapping[str, object] | nn.Module", held)
    if not isinstance(held, Mapping):
        raise CheckpointError(
            f"{name} holds a {type(held).__name__}, expected named weights. Write it with "
            "torch.save(model.state_dict(), 'weights.pt')."
        )
    parts = {str(key): part for key, part in held.items() if _is_weights(part)}
    plain = [key for key in _PLAIN_KEYS if key in parts]
    averaged = [key for key in _AVERAGED_KEYS if key in parts]
    tensors = {key: part for key, part in held.items() if isinstance(part, Tensor)}
    if not plain and not averaged and any("." in str(key) for key in tensors):
        notes.append(f"read the {len(tensors)} tensors among {len(held)} entries")
        return tensors
    chosen = plain or averaged[:1] or [key for key in parts if "optim" not in key]
    if len(chosen) > 1:
        raise CheckpointError(
            f"{name} holds several sets of weights, under {', '.join(map(repr, chosen))}. Save "
            f"the one that you mean: torch.save(torch.load({name!r})[{chosen[0]!r}], 'weights.pt')."
        )
    for key in (*_PLAIN_KEYS, *_AVERAGED_KEYS):  # {"model": {"state_dict": ...}}
        inner = held.get(key)
        if not chosen and isinstance(inner, Mapping) and inner and len(notes) < _MAX_DEPTH:
            notes.append(f"looked under {key!r}")
            return _weights(inner, name, notes)
    if not chosen:
        found = ", ".join(map(repr, list(held)[:8]))
        raise CheckpointError(
            f"{name} holds no weights; it has {found or 'no entries'}. Write them with "
            "torch.save(model.state_dict(), 'weights.pt')."
        )
    notes.append(f"read the weights under {chosen[0]!r}")
    if averaged and averaged[0] != chosen[0]:
        notes.append(f"averaged weights lie under {averaged[0]!r}")
    elif averaged:
        notes.append("these are averaged weights (EMA)")
    return cast("Mapping[str, object] | nn.Module", parts[chosen[0]])


def _is_weights(held: object) -> bool:
    if isinstance(held, nn.Module):
        return True
    return (
        isinstance(held, Mapping)
        and any(isinstance(value, Tensor) for value in held.values())
        and all(
            isinstance(key, str) and (isinstance(value, Tensor) or key.endswith("_extra_state"))
            for key, value in held.items()
        )
    )


def _own(path: Path, held: Mapping[object, object]) -> Checkpoint:
    version = held.get("format_version")
    if isinstance(version, int) and version > _FORMAT_VERSION:
        raise CheckpointError(
            f"{path.name} has format version {version}, and this landscape "
            f"{landscape.__version__} reads up to {_FORMAT_VERSION}. Upgrade: pip install -U "
            "landscape-geometry."
        )
    state_dict, recipe, metrics = (held.get(k) for k in ("state_dict", "recipe", "metrics"))
    loss, seed, step = (held.get(key) for key in ("loss", "seed", "step"))
    if not (
        version == _FORMAT_VERSION
        and _is_weights(state_dict)
        and isinstance(recipe, dict)
        and isinstance(metrics, dict)
        and all(isinstance(value, int | float) for value in metrics.values())
        and isinstance(loss, str | None)
        and isinstance(seed, int | None)
        and isinstance(step, int | None)
    ):
        raise CheckpointError(
            f"{path.name} says that it is a checkpoint of landscape, but its fields are not. "
            "Write it with landscape.checkpoint.write_checkpoint."
        )
    return Checkpoint(
        path=path,
        state_dict=dict(cast("Mapping[str, Tensor]", state_dict)),
        kind="landscape",
        model=_factory(held.get("model"), path.name),
        data=_factory(held.get("data"), path.name),
        loss=loss,
        recipe=_plain(recipe, "recipe"),
        seed=seed,
        step=step,
        metrics=metrics,
    )


def _factory(held: object, name: str) -> Factory:
    if isinstance(held, dict):
        path, arguments = held.get("factory"), held.get("arguments")
        if isinstance(path, str) and isinstance(arguments, dict):
            return Factory(path, _plain(arguments, "arguments"))
    raise CheckpointError(f"{name} describes a factory as {held!r:.80}, which is damaged.")


# --- Writing ---


def _described(factory: Factory, field_name: str) -> dict[str, JSON]:
    return {"factory": factory.path, "arguments": _plain(factory.arguments, field_name)}


def _plain(value: Mapping[str, JSON], field_name: str) -> dict[str, JSON]:
    """A copy in types that torch.load accepts: numbers of NumPy, for one, are not among them."""
    try:
        return cast("dict[str, JSON]", json.loads(json.dumps(value)))
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{field_name} holds what JSON cannot: {error}. Use numbers, text, lists and dicts."
        ) from None


def _on_its_own(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    # torch.save writes the whole storage: of one member of a stack, that of all members.
    if tensor.untyped_storage().nbytes() > tensor.nbytes:
        tensor = tensor.clone()
    return tensor


def _is_finite(tensor: Tensor, own: Tensor | None) -> bool:
    """Whether all values are finite, where those of `own` are: a mask's -inf is no accident."""
    if not tensor.is_floating_point() and not tensor.is_complex():
        return True
    finite = (tensor.float() if tensor.itemsize == 1 else tensor).isfinite()  # not for 8-bit floats
    if own is not None and own.shape == tensor.shape and own.is_floating_point():
        finite |= ~own.isfinite().cpu()
    return bool(finite.all())
