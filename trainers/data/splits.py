"""Splits: which examples belong to which part, and which subset each of many runs sees.

All are indices or masks; nothing is copied. Labels are changed in `label_noise`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow
from torch import Tensor

from landscape.errors import RequestError, unknown_choice

__all__ = ["SubsetDesign", "stratified_split", "subset_masks"]

SubsetDesign = Literal["iid", "balanced", "loo", "groups"]
_DESIGNS = ("iid", "balanced", "loo", "groups")

Counts = npt.NDArray[np.int64]


def stratified_split(
    targets: Tensor, parts: Sequence[float] | Sequence[int], *, seed: int
) -> tuple[Tensor, ...]:
    """Disjoint parts of exact sizes, each with the classes' shares of the whole.

    Args:
        targets: (n,) class of each example.
        parts: sizes (integers) or shares (floats) of the parts. What they leave over is in none.
        seed: of who goes where, and of each part's order.

    Returns:
        Indices (size,) int64 of each part, in random order. A part has either of the two integers
        next to size n_c / n as its number of examples of class c.

    Raises:
        RequestError: parts that are negative, mixed, or together more than there is.
    """
    generator = _generator(seed)
    classes, members = _strata(targets, "targets")
    sizes = _sizes(parts, len(classes))
    counts = np.array([len(group) for group in members], dtype=np.int64)
    # The rest is a part like any other, so that every class is used up.
    all_sizes = np.array([*sizes, len(classes) - sum(sizes)], dtype=np.int64)
    table = _rounded_table(counts, all_sizes, generator)
    pieces: list[list[npt.NDArray[np.int64]]] = [[] for _ in sizes]
    for group, row in zip(members, table, strict=True):
        borders = np.cumsum(row)[:-1]
        for piece, found in zip(
            pieces, np.split(generator.permutation(group), borders), strict=False
        ):
            piece.append(found)
    return tuple(torch.from_numpy(generator.permutation(np.concatenate(piece))) for piece in pieces)


def subset_masks(
    num_examples: int,
    num_subsets: int,
    ratio: float | None = None,
    *,
    seed: int,
    design: SubsetDesign = "balanced",
    stratify: Tensor | None = None,
    groups: Tensor | None = None,
) -> Tensor:
    """Which of n examples each of T runs sees, as estimators of memorization and influence need it.

    - "iid": each subset has exactly m = round(ratio n) examples and is drawn on its own.
    - "balanced": also, every example is in as many subsets as any other, or in one fewer. At
      ratio 0.5 and even n, subsets 2i and 2i + 1 are each other's complement (not with
      `stratify`). Estimates of memorization have a smaller error than with "iid"; plain
      differences of means for the influence of one example on another do not.
    - "loo": all but one, another one each time.
    - "groups": whole groups, round(ratio G) of G, drawn on their own each time.

    Args:
        ratio: share that a subset has; for "loo" it follows from n and is not given.
        stratify: (n,) class of each example, for "iid" and "balanced": every subset has its share
            of each class, up to rounding. Then examples of different classes may differ by one more
            in how many subsets they are in.
        groups: (n,) group of each example, for "groups".

    Returns:
        (T, n) bool.

    Raises:
        RequestError: an argument out of range, missing, or that the design does not use.

    Source: Feldman and Zhang 2020, arXiv:2008.03703 (subsets of fixed size).
    """
    if design not in _DESIGNS:
        raise unknown_choice("design", design, _DESIGNS)
    for name, number in (("num_examples", num_examples), ("num_subsets", num_subsets)):
        if number < 1:
            raise RequestError(f"{name}={number} leaves nothing to draw. Choose 1 or more.")
    if (groups is None) == (design == "groups"):
        raise RequestError(
            f"groups is {'missing' if groups is None else 'given'} with design={design!r}. It goes "
            "with design='groups', and with no other."
        )
    if stratify is not None and design not in ("iid", "balanced"):
        raise RequestError(
            f"stratify is given with design={design!r}, which ignores classes. Leave it out, or "
            "choose 'iid' or 'balanced'."
        )
    generator = _generator(seed)
    if design == "loo":
        return _all_but_one(generator, num_examples, num_subsets, ratio)
    if ratio is None or not 0 <= ratio <= 1:
        raise RequestError(f"ratio={ratio} is not in 0 ... 1. Choose a share such as 0.5.")
    if groups is not None:
        labels, members = _strata(groups, "groups", num_examples)
        chosen = _drawn(
            generator, len(members), np.full(num_subsets, round(ratio * len(members))), fair=False
        )
        return torch.from_numpy(chosen[:, labels])
    size = round(ratio * num_examples)
    if stratify is None:
        members = [np.arange(num_examples)]
        quotas = np.full((1, num_subsets), size, dtype=np.int64)
    else:
        _, members = _strata(stratify, "stratify", num_examples)
        counts = np.array([len(group) for group in members], dtype=np.int64)
        # Each class's share of the T m places, then of the m places of each subset.
        places = num_subsets * np.array([size, num_examples - size], dtype=np.int64)
        shares = _rounded_table(num_subsets * counts, places, generator)[:, 0]
        quotas = _rounded_table(shares, np.full(num_subsets, size), generator)
    masks = np.zeros((num_subsets, num_examples), dtype=bool)
    for group, sizes in zip(members, quotas, strict=True):
        masks[:, group] = _drawn(generator, len(group), sizes, fair=design == "balanced")
    return torch.from_numpy(masks)


def _drawn(
    generator: np.random.Generator, total: int, sizes: Counts, *, fair: bool
) -> npt.NDArray[np.bool_]:
    """A random subset of 0 ... total - 1 of each size; `fair`: all are used up before any again."""
    masks = np.zeros((len(sizes), total), dtype=bool)
    waiting = generator.permutation(total)
    for mask, size in zip(masks, sizes, strict=True):
        if not fair:
            waiting = generator.permutation(total)
        taken, waiting = waiting[:size], waiting[size:]
        mask[taken] = True
        missing = size - len(taken)
        if missing:  # a new round begins within this subset, which must not take anyone twice
            fresh = generator.permutation(np.flatnonzero(~mask))[:missing]
            mask[fresh] = True
            left = np.ones(total, dtype=bool)
            left[fresh] = False
            waiting = generator.permutation(np.flatnonzero(left))
    return masks


def _all_but_one(
    generator: np.random.Generator, num_examples: int, num_subsets: int, ratio: float | None
) -> Tensor:
    if ratio is not None:
        raise RequestError(
            f"ratio={ratio} is given with design='loo', which leaves out one example. Leave it out."
        )
    if num_subsets > num_examples:
        raise RequestError(
            f"num_subsets={num_subsets} is more than the {num_examples} examples that can be left "
            f"out. Choose {num_examples} or fewer."
        )
    left_out = np.arange(num_examples)
    if num_subsets < num_examples:
        left_out = generator.permutation(num_examples)[:num_subsets]
    masks = np.ones((num_subsets, num_examples), dtype=bool)
    masks[np.arange(num_subsets), left_out] = False
    return torch.from_numpy(masks)


def _rounded_table(rows: Counts, columns: Counts, generator: np.random.Generator) -> Counts:
    """Whole numbers next to the entries of the product table, with its very sums.

    Args:
        rows, columns: (R,) and (K,) sums, together the same.
        generator: of which entries are rounded up.

    Returns:
        (R, K): entry (r, k) is rows[r] columns[k] / total, rounded down or up.

    The fractional parts are a flow through a bipartite network of unit capacities, so an integral
    flow of the same size exists (Cox 1987, controlled rounding).
    """
    total = int(columns.sum())
    assert int(rows.sum()) == total
    table, remainder = np.divmod(np.outer(rows, columns), max(total, 1))
    if not remainder.any():
        return table
    # The flow found depends on the order of the nodes, which must not be that of the classes.
    by_row, by_column = generator.permutation(len(rows)), generator.permutation(len(columns))
    row_left, column_left = rows - table.sum(1), columns - table.sum(0)
    up_row, up_column = np.nonzero(remainder[np.ix_(by_row, by_column)])
    row_node, column_node = 1 + np.arange(len(rows)), 1 + len(rows) + np.arange(len(columns))
    source, sink = 0, 1 + len(rows) + len(columns)
    starts = [np.full(len(rows), source), row_node[up_row], column_node]
    ends = [row_node, column_node[up_column], np.full(len(columns), sink)]
    limits = [row_left[by_row], np.ones(len(up_row), dtype=np.int64), column_left[by_column]]
    graph = csr_array(
        (np.concatenate(limits).astype(np.int32), (np.concatenate(starts), np.concatenate(ends))),
        shape=(sink + 1, sink + 1),
    )
    found = maximum_flow(graph, source, sink)
    assert found.flow_value == row_left.sum()
    flow = found.flow[1 : 1 + len(rows), 1 + len(rows) : sink].toarray()
    table[np.ix_(by_row, by_column)] += flow.astype(np.int64)
    return table


def _strata(
    labels: Tensor, name: str, num_examples: int | None = None
) -> tuple[npt.NDArray[np.int64], list[npt.NDArray[np.int64]]]:
    """Each example's class, numbered from 0, and the members of each class."""
    if labels.ndim != 1 or labels.is_floating_point() or len(labels) == 0:
        raise RequestError(
            f"{name} has shape {tuple(labels.shape)} and dtype {labels.dtype}, expected (n,) "
            "integers with n >= 1."
        )
    if num_examples is not None and len(labels) != num_examples:
        raise RequestError(
            f"{name} has {len(labels)} entries for {num_examples} examples. Give one for each."
        )
    _, classes = np.unique(labels.cpu().numpy(), return_inverse=True)
    order = np.argsort(classes, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(classes))[:-1])
    return classes, members


def _sizes(parts: Sequence[float] | Sequence[int], total: int) -> list[int]:
    if not parts:
        raise RequestError("parts is empty. Give sizes such as [50, 10], or shares such as [0.9].")
    if any(not part >= 0 for part in parts):
        raise RequestError(f"parts={list(parts)} has one below 0. Give sizes or shares from 0 on.")
    whole = [isinstance(part, int) for part in parts]
    if any(whole) and not all(whole):
        raise RequestError(
            f"parts={list(parts)} mixes sizes and shares. Give integers, or numbers with a point."
        )
    amount = sum(parts)
    if amount > total if all(whole) else amount > 1 + 1e-9:
        raise RequestError(
            f"parts={list(parts)} is {amount:g} together, more than "
            f"{f'the {total} examples' if all(whole) else 'the whole, 1'}. Give less."
        )
    if all(whole):
        return [int(part) for part in parts]
    borders = [min(total, round(share * total)) for share in np.cumsum([0.0, *parts])]
    return [end - start for start, end in pairwise(borders)]


def _generator(seed: int) -> np.random.Generator:
    if seed < 0:
        raise RequestError(f"seed={seed} is negative. Choose 0 or more.")
    return np.random.default_rng(np.random.SeedSequence(seed))
