"""Learned probes: what a `LearnedPlan` asks of a checkpoint, or of several together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape.batches import tensors_of
from landscape.checkpoint import read_checkpoint
from landscape.company import Company
from landscape.errors import RequestError
from landscape.fingerprint import fingerprint
from landscape.learned_plan import OF_SEVERAL, LearnedPlan
from landscape.objective import Objective
from landscape.probes.answers import answers
from landscape.probes.dynamics.dynamics import checkpoint_dynamics
from landscape.probes.ensembles.family import family_report
from landscape.probes.features.band_use import band_use
from landscape.probes.features.layer_sparsity import layer_sparsity
from landscape.probes.features.multi_view_use import feature_use, tick_use
from landscape.probes.linear.depth import prediction_depth
from landscape.probes.linear.layer_probes import probe_layers
from landscape.probes.subsets.memorization import memorization
from landscape.probes.subsets.subset_runs import SubsetRuns
from landscape.request import load_point
from landscape.result import Result
from landscape.trainers.family import INDEX

__all__ = ["LearnedProbes"]

Ticks = Callable[[int, int, str], None]


class LearnedProbes:
    """What a checkpoint's network learned, and several together.

    Args:
        company: the checkpoint's objective, with what else it is measured with.
        seed: of whatever is drawn.
    """

    def __init__(self, company: Company, plan: LearnedPlan, *, seed: int) -> None:
        self._company, self._plan, self._seed = company, plan, seed
        self._objective = company.objective

    def settings(self, probe: str) -> dict[str, object]:
        """What identifies a record of this probe.

        Raises:
            RequestError: a probe of several checkpoints, where there is one, or that does not know
                what each was trained on.
        """
        found = {**self._plan.settings(probe), "seed": self._seed}
        if probe not in OF_SEVERAL:
            return found
        if probe == "memorization" and self._family is not None:
            return found | {"runs": _hash(self._runs)}
        if probe == "memorization":
            found["masks"] = fingerprint({"masks": torch.from_numpy(self._masks)}).hex()
        if probe == "dynamics" and len(self._plan.members) < 2:
            raise RequestError(
                "dynamics are of several checkpoints of one run, in order: name them all, or the "
                "folder of a recorded run."
            )
        thetas = {str(index): theta for index, (theta, _) in enumerate(self._points())}
        names = [path.name for path in self._plan.members]
        return found | {"members": names, "members_fingerprint": fingerprint(thetas).hex()}

    def measure(self, probe: str, progress: Ticks) -> Result:
        """The result of a probe.

        Raises:
            RequestError: a probe that does not fit the network or its data.
        """
        result = getattr(self, f"_{probe}")(progress)
        assert isinstance(result, Result)
        return replace(result, provenance=self._objective.provenance())

    # -- of one checkpoint --------------------------------------------------------------------

    def _linear(self, progress: Ticks) -> Result:
        plan = self._plan
        return probe_layers(
            self._objective, layers=plan.layers, test=self._test, pool=plan.layer_pool,
            validation_share=plan.validation_share, controls=plan.controls, seed=self._seed,
            progress=progress, **_given(penalties=plan.penalties, k=plan.num_neighbors),
        )  # fmt: skip

    def _depth(self, progress: Ticks) -> Result:
        plan = self._plan
        return prediction_depth(
            self._objective, layers=plan.layers, target=plan.target, test=self._test,
            pool=plan.layer_pool, progress=progress, **_given(k=plan.num_neighbors),
        )  # fmt: skip

    def _sparsity(self, _: Ticks) -> Result:
        plan = self._plan
        return layer_sparsity(
            self._objective, layers=plan.layers, pool=plan.layer_pool, tau=plan.dormant_below
        )

    def _bands(self, _: Ticks) -> Result:
        plan = self._plan
        return band_use(self._objective, borders=plan.borders or None, norm=float(plan.band_norm))

    def _features(self, _: Ticks) -> Result:
        """Of tick data their features; of others blocks of inputs, of the width that is asked for.

        Single-feature sets are drawn like the data that the network saw.
        """
        if self._plan.blocks is not None:
            return feature_use(self._objective, block=self._plan.blocks, seed=self._seed)
        drawn = self._tick_arguments
        if drawn is None:
            raise RequestError(
                "these data do not say what a feature is: name the number of neighbouring inputs "
                "that are one, such as --blocks 2."
            )
        own = dict(drawn.get("arguments") or {})
        known = {name: own[name] for name in ("num_features", "margin", "shape") if name in own}
        return tick_use(self._objective, seed=int(drawn.get("seed", 0)), **known)

    @property
    def _tick_arguments(self) -> dict[str, Any] | None:
        """Of the factory of tick data; None of other data."""
        source = self._company.source
        factory = read_checkpoint(self._company.checkpoint, unsafe_load=source.unsafe_load).data
        if factory is None or not factory.is_own or source.data is not None:
            return None
        arguments: dict[str, Any] = {**factory.arguments, **source.data_arguments}
        return arguments if arguments.get("name") == "ticks" else None

    # -- of several ---------------------------------------------------------------------------

    def _points(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Of the members, each read when it is its turn."""
        for path in self._plan.members:
            yield load_point(path, self._company.source, self._objective)

    def _ensemble(self, _: Ticks) -> Result:
        points = list(self._points())
        return family_report(
            self._test or self._objective,
            [theta for theta, _ in points],
            [buffers for _, buffers in points],
            soup=True,
            training=self._objective,
            num_bins=self._plan.num_bins,
            seed=self._seed,
        )

    def _dynamics(self, progress: Ticks) -> Result:
        points = list(self._points())
        return checkpoint_dynamics(
            self._objective,
            [theta for theta, _ in points],
            [buffers for _, buffers in points],
            self._steps,
            progress,
        )

    @property
    def _steps(self) -> list[float] | None:
        """Training steps of the members, where all say theirs and they increase."""
        source = self._company.source
        steps = [
            read_checkpoint(path, unsafe_load=source.unsafe_load).step
            for path in self._plan.members
        ]
        known = [float(step) for step in steps if step is not None]
        rising = all(before < after for before, after in pairwise(known))
        return known if len(known) == len(steps) and rising else None

    def _memorization(self, progress: Ticks) -> Result:
        found = memorization(self._runs, seed=self._seed, progress=progress)
        if not self._plan.shown:
            return found
        return found.with_examples(self._inputs, num=self._plan.shown)

    @cached_property
    def _family(self) -> Path | None:
        """The folder of subset runs in which the checkpoint lies, unless masks were named."""
        folder = self._company.checkpoint.parent
        return folder if self._plan.masks is None and (folder / INDEX).is_file() else None

    @cached_property
    def _runs(self) -> SubsetRuns:
        if self._family is not None:
            return SubsetRuns.from_family(self._family)
        masks, correct, labels = self._masks, [], None
        for theta, buffers in self._points():
            found = answers(self._objective, theta, buffers=buffers)
            correct.append(found.logits.argmax(1) == found.labels)
            labels = found.labels
        if len(masks) != len(correct) or masks.shape[1] != len(correct[0]):
            raise RequestError(
                f"{self._plan.masks} has shape {masks.shape}, expected ({len(correct)}, "
                f"{len(correct[0])}): a row for each checkpoint, a column for each example of "
                "the data."
            )
        return SubsetRuns(masks, torch.stack(correct), labels=labels)

    @cached_property
    def _masks(self) -> np.ndarray[Any, np.dtype[Any]]:
        if self._plan.masks is None:
            raise RequestError(
                "memorization needs to know what each network was trained on. Name the folder of a "
                "`landscape train subsets`, or a file (checkpoints, examples): --masks masks.npy."
            )
        try:
            masks = np.load(Path(self._plan.masks).expanduser(), allow_pickle=False)
        except (OSError, ValueError) as error:
            raise RequestError(f"{self._plan.masks} cannot be read: {error}.") from error
        if not isinstance(masks, np.ndarray) or masks.ndim != 2:
            raise RequestError(f"{self._plan.masks} holds no table (checkpoints, examples).")
        return masks

    @property
    def _inputs(self) -> Tensor:
        """Of all examples that the masks are about."""
        if self._family is None:
            parts = [_first(batch) for batch in self._objective.batches]
            return torch.cat(parts)
        checkpoint = read_checkpoint(self._company.checkpoint)
        assert checkpoint.data is not None  # a family's members name their data
        arguments = {**checkpoint.data.arguments, **self._company.source.data_arguments}
        whole = replace(checkpoint.data, arguments={**arguments, "subset": None})()
        return _first(whole)

    @cached_property
    def _test(self) -> Objective | None:
        return self._company.test(self._plan.test_data, self._plan.test_arguments).get("test")


def _given(**options: Any) -> dict[str, Any]:
    """Those that were asked for: the others have a default where they are defined."""
    return {name: value for name, value in options.items() if value not in (None, ())}


def _first(batch: object) -> Tensor:
    return next(iter(tensors_of(batch).values()))


def _hash(runs: SubsetRuns) -> str:
    held: Mapping[str, Tensor] = {
        "masks": torch.from_numpy(runs.masks),
        "correct": torch.from_numpy(runs.correct),
    }
    return fingerprint(held).hex()
