"""Which tensor of a checkpoint belongs to which name of a model, whatever prefixes lie between.

`checkpoint.load_state` copies the tensors once everything here fits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from landscape.weight_files import CheckpointError

__all__ = ["Match", "match_names"]

# torch.compile, FSDP and activation checkpointing name themselves anywhere within a name.
_WRAPPERS = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Counters that the network's output does not see; older checkpoints lack them.
_COUNTERS = re.compile(r"(?:.*\.)?(?:num_batches_tracked|n_averaged)")
_AVERAGES = re.compile(r"(?:^|[._])(?:ema|swa|averaged|shadow)[._]")
_MAX_ROWS = 12


@dataclass(frozen=True)
class Match:
    """A tensor for each of the model's names, and sentences on what was not word for word."""

    tensors: Mapping[str, Tensor]
    notes: tuple[str, ...]


def match_names(model: nn.Module, held: Mapping[str, Tensor], source: str) -> Match:
    """Find the tensors of `held` for `model`, which stays as it is.

    Args:
        held: a checkpoint's tensors. One prefix may have to be removed from, or added to, all
            of its names.
        source: the checkpoint's name, for messages.

    Raises:
        CheckpointError: names, shapes or kinds of number that do not fit, listed side by side;
            several parts that fit; tied parameters with different values.
    """
    state = model.state_dict(keep_vars=True)  # the parameters themselves: tied ones are one object
    wanted = {name: t for name, t in state.items() if isinstance(t, Tensor)}
    clean = {_WRAPPERS.sub("", name): name for name in wanted}
    candidates = {_WRAPPERS.sub("", name): tensor for name, tensor in held.items()}
    notes = []
    if candidates.keys() != held.keys():
        wrapper = next(found for name in held if (found := _WRAPPERS.search(name)))
        notes.append(f"removed {wrapper[0]!r} from the names")
    if len(candidates) < len(held):
        raise CheckpointError(f"{source} holds some tensors twice, compiled and not compiled.")

    removed, added, choice_notes = _best_prefix(
        {short: wanted[name] for short, name in clean.items()}, candidates, source
    )
    notes += choice_notes
    renamed = {
        added + name.removeprefix(removed): tensor
        for name, tensor in candidates.items()
        if name.startswith(removed)
    }
    tensors = {name: renamed[short] for short, name in clean.items() if short in renamed}
    notes += _tie(tensors, wanted, source)

    left_out = [name for name in candidates if not name.startswith(removed)]
    missing = [name for name in wanted if name not in tensors]
    unexpected = [name for name in renamed if name not in clean]
    scratch = {_WRAPPERS.sub("", name) for name, _ in model.named_buffers()}
    excused = [name for name in missing if _COUNTERS.fullmatch(name)]
    ignored = [name for name in unexpected if _COUNTERS.fullmatch(name) or name in scratch]
    missing = [name for name in missing if name not in excused]
    unexpected = [name for name in unexpected if name not in ignored]
    misfits = [
        f"{name}: the model has {_described(wanted[name])}, the file {_described(tensor)}"
        for name, tensor in tensors.items()
        if not _fits(wanted[name], tensor)
    ]
    if missing or unexpected or misfits:
        raise CheckpointError(
            "\n".join(
                [
                    f"the weights in {source} do not fit {type(model).__name__}: "
                    f"{len(tensors) - len(misfits)} of its {len(wanted)} tensors match"
                    + "".join(f"; {note}" for note in notes)
                    + ".",
                    *_side_by_side(
                        ("the model needs, the file lacks", "the file has, the model lacks"),
                        [f"{name} {_described(wanted[name])}" for name in missing],
                        [f"{name} {_described(renamed[name])}" for name in unexpected],
                    ),
                    *_shortened(misfits),
                    "Give the factory, with the arguments, that made the network which was saved: "
                    "--model 'pkg.mod:factory'.",
                ]
            )
        )
    for names, why in (
        (left_out, f"outside {removed!r}"),
        (ignored, "that the model does not save"),
        (excused, "missing: the model keeps its own"),
    ):
        if names:
            verb = "went without" if names is excused else "left out"
            notes.append(f"{verb} {_counted(names)} {why}")
    return Match(tensors, tuple(notes))


def _best_prefix(
    wanted: Mapping[str, Tensor], held: Mapping[str, Tensor], source: str
) -> tuple[str, str, list[str]]:
    """The prefix to remove and the prefix to add (one of them empty) so that most names fit."""
    # Each parameter counts once, whatever the number of its names, and counters not at all: only
    # then does `needed` mean that all of the network was found.
    wanted = {name: tensor for name, tensor in wanted.items() if not _COUNTERS.fullmatch(name)}
    needed = len({id(tensor) for tensor in wanted.values()})
    as_they_are = len(
        {id(t) for name, t in wanted.items() if name in held and _fits(t, held[name])}
    )
    removals = _found(
        (prefix, wanted[rest])
        for name in held
        for prefix, rest in _cuts(name)
        if rest in wanted and _fits(wanted[rest], held[name])
    )
    additions = _found(
        (prefix, tensor)
        for name, tensor in wanted.items()
        for prefix, rest in _cuts(name)
        if rest in held and _fits(tensor, held[rest])
    )
    removed, most_removed = _top(removals)
    added, most_added = _top(additions)
    # A few accidental hits are no reason to rename; the error then shows the names as they are.
    if as_they_are >= max(most_removed, most_added) or 2 * max(most_removed, most_added) < needed:
        return "", "", []
    if most_added > most_removed:
        return "", added, [f"added prefix {added!r}"]
    notes = [f"removed prefix {removed!r}"]
    rivals = sorted(prefix for prefix, count in removals.items() if count == needed)
    plain = [prefix for prefix in rivals if not _AVERAGES.search(prefix)]
    if len(rivals) > 1:
        if len(plain) != 1:
            raise CheckpointError(
                f"several parts of {source} fit the model: {', '.join(map(repr, rivals[:6]))}. "
                "Save the one that you mean: torch.save({k.removeprefix(P): v for k, v in "
                f"state_dict.items() if k.startswith(P)}}, 'weights.pt') with P={rivals[0]!r}."
            )
        averages = next(prefix for prefix in rivals if prefix not in plain)
        notes = [f"removed prefix {plain[0]!r} (averaged weights lie under {averages!r})"]
        removed = plain[0]
    return removed, "", notes


def _found(hits: Iterable[tuple[str, Tensor]]) -> Counter[str]:
    return Counter(prefix for prefix, _ in {(prefix, id(tensor)) for prefix, tensor in hits})


def _top(counts: Counter[str]) -> tuple[str, int]:
    return max(counts.items(), key=lambda item: (item[1], -len(item[0])), default=("", 0))


def _cuts(name: str) -> Iterator[tuple[str, str]]:
    for dot in re.finditer(r"\.", name):
        yield name[: dot.end()], name[dot.end() :]


def _tie(tensors: dict[str, Tensor], wanted: Mapping[str, Tensor], source: str) -> list[str]:
    """Give each name of a tied parameter the tensor that another of its names has."""
    groups: dict[int, list[str]] = {}
    for name, tensor in wanted.items():
        groups.setdefault(id(tensor), []).append(name)
    notes = []
    for names in groups.values():
        present = [name for name in names if name in tensors]
        for other in present[1:]:
            if not torch.equal(tensors[present[0]], tensors[other]):
                raise CheckpointError(
                    f"the model ties {present[0]!r} to {other!r}, but {source} has different "
                    "values for them. Build the network without tying them."
                )
        for name in names:
            if present and name not in tensors:
                tensors[name] = tensors[present[0]]
                notes.append(f"{name!r} is tied to {present[0]!r}")
    return notes


def _fits(wanted: Tensor, held: Tensor) -> bool:
    if is_lazy(wanted):
        return True
    # A scalar used to be saved as a vector of one; load_state_dict knows.
    same_shape = wanted.shape == held.shape or (wanted.ndim == 0 and held.shape == (1,))
    return same_shape and _kind(wanted) in (_kind(held), "integer")


def _kind(tensor: Tensor) -> str:
    # An integer where a float is needed is a quantized weight, without its scale.
    if tensor.is_complex():
        return "complex"
    return "float" if tensor.is_floating_point() else "integer"


def _described(tensor: Tensor) -> str:
    if is_lazy(tensor):
        return "(not yet known)"
    dtype = "" if _kind(tensor) == "float" else f" {tensor.dtype}".replace("torch.", "")
    return f"{tuple(tensor.shape)}{dtype}"


def _side_by_side(heads: tuple[str, str], left: Sequence[str], right: Sequence[str]) -> list[str]:
    if not left and not right:
        return []
    rows = list(zip_longest(left, right, fillvalue="-"))
    shown = [heads, *rows[:_MAX_ROWS]]
    width = max(len(first) for first, _ in shown)
    lines = [f"  {first:<{width}} | {second}" for first, second in shown]
    if len(rows) > _MAX_ROWS:
        lines.append(f"  and {len(rows) - _MAX_ROWS} more")
    return lines


def _shortened(lines: Sequence[str]) -> list[str]:
    rest = len(lines) - _MAX_ROWS
    return [f"  {line}" for line in lines[:_MAX_ROWS]] + [f"  and {rest} more"] * (rest > 0)


def _counted(names: Iterable[str]) -> str:
    first, *others = names
    return f"{first!r}" + (f" and {len(others)} more" if others else "")
