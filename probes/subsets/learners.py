"""Learners: runs on subsets of whatever learns and predicts, one after the other.

`training` trains networks side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.probes.arrays import ArrayLike, Bools, Ints, as_bools, as_labels
from landscape.probes.subsets.log_odds import log_odds
from landscape.probes.subsets.subset_runs import SubsetRuns

__all__ = ["Labelled", "indexable", "require_masks", "scored", "subset_runs_of"]

Labelled = tuple[ArrayLike, ArrayLike]  # inputs (n, ...) and labels (n,)


def subset_runs_of(
    fit: Callable[[Any, Any], Any],
    inputs: ArrayLike,
    labels: ArrayLike,
    masks: ArrayLike,
    *,
    test: Labelled | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> SubsetRuns:
    """Runs of any learner, such as `lambda x, y: KNeighborsClassifier(1).fit(x, y)`.

    Args:
        fit: from the inputs and labels of a subset to a predictor: something with `predict`, or a
            function of inputs, that gives classes (n,), or logits (n, C).
        inputs: (n, ...).
        labels: (n,) classes.
        masks: (T, n), such as of `subset_masks`.
        test: inputs and labels that are in no subset.
        progress: called with (models done, models, words).

    Returns:
        Runs with `values`, the log odds of the true class, where the predictor gives logits.

    Raises:
        RequestError: shapes that do not go together, an empty subset, or predictions that are
            neither classes nor logits.
    """
    table = as_bools(masks, "masks", "(T, n)")
    classes = as_labels(labels, "labels")
    sets = {"": (indexable(inputs, "inputs", len(classes)), classes)}
    if test is not None:
        test_classes = as_labels(test[1], "test labels")
        sets["_test"] = (indexable(test[0], "test inputs", len(test_classes)), test_classes)
    require_masks(table, len(classes))
    rows: dict[str, list[Any]] = {}
    held = sets[""][0]
    for index, mask in enumerate(table):
        chosen = torch.from_numpy(mask) if isinstance(held, Tensor) else mask
        own = torch.from_numpy(classes[mask]) if isinstance(held, Tensor) else classes[mask]
        predictor = fit(held[chosen], own)
        predict = predictor.predict if hasattr(predictor, "predict") else predictor
        for suffix, (queries, wanted) in sets.items():
            for name, row in scored(predict(queries), wanted).items():
                rows.setdefault(name + suffix, []).append(row)
        if progress is not None:
            progress(index + 1, len(table), "models")
    return SubsetRuns(
        table,
        **{name: np.stack(parts) for name, parts in rows.items()},
        labels=classes,
        labels_test=None if test is None else sets["_test"][1],
        provenance={"convention": "size_matched", "ratio": float(table.mean())},
    )


def scored(predictions: Any, labels: Ints) -> dict[str, Any]:
    """What predictions, classes (n,) or logits (..., n, C), are worth."""
    held = predictions.detach().cpu().numpy() if isinstance(predictions, Tensor) else predictions
    array = np.asarray(held)
    if array.shape == labels.shape:
        return {"correct": array == labels}
    if array.ndim < 2 or array.shape[-2] != len(labels) or array.shape[-1] <= labels.max():
        raise RequestError(
            f"the outputs have shape {array.shape} for {len(labels)} examples of "
            f"{labels.max() + 1} classes. Expected a logit for each class, or the class itself."
        )
    return {"correct": array.argmax(-1) == labels, "values": log_odds(array, labels)}


def indexable(inputs: ArrayLike, name: str, count: int) -> Any:
    held = inputs if isinstance(inputs, Tensor) else np.asarray(cast(Any, inputs))
    if held.ndim < 1 or len(held) != count or not count:
        raise RequestError(
            f"{name} has shape {tuple(held.shape)} for {count} labels. Give one input for each."
        )
    return held


def require_masks(masks: Bools, count: int) -> None:
    if masks.shape[1] != count or not len(masks):
        raise RequestError(
            f"masks has shape {masks.shape} for {count} examples, expected (T, {count})."
        )
    empty = np.flatnonzero(~masks.any(1))
    if len(empty):
        raise RequestError(
            f"subsets {empty[:10].tolist()} are empty: there is nothing to train on. Choose a "
            "larger ratio."
        )
