"""Recorder: what a network makes of every example, collected while it trains.

`measurements` says what is recorded of an answer, `histories` how it is kept, `example_scores` what
follows from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from landscape.errors import RequestError, unknown_choice
from landscape.fingerprint import fingerprint
from landscape.objective import Objective
from landscape.probes.answers import answers
from landscape.probes.arrays import ArrayLike, Floats, Ints, as_labels
from landscape.probes.dynamics.example_scores import Accumulators, ExampleScores, example_scores
from landscape.probes.dynamics.histories import History, Mode, Row, label_hash, row, stacked
from landscape.probes.dynamics.measurements import MEASUREMENTS, measurements
from landscape.probes.dynamics.page import Page, columns, other_labels, positions
from landscape.probes.dynamics.recorder_file import read, write

__all__ = ["Recorder"]

_MODES = ("presentation", "eval")


class Recorder:
    """Margin, log-odds, p_y, EL2N, loss, correctness and prediction, example by example.

    In mode "presentation" it is told of every batch of training, before the step::

        logits = model(inputs)
        recorder.record(indices, logits)
        F.cross_entropy(logits, labels).backward()

    and of the end of every epoch. In mode "eval" it evaluates the network by itself, in evaluation
    mode. It touches no gradient, buffer, training flag or random generator.

    Args:
        labels: (n,) class of each example, as it is trained on.
        num_classes: C >= 2.
        mode: which of the two; scores of one are not those of the other.
        num_augmentations: M, views of each example that are fixed in advance.
        history: keep all times, 8 n M numbers of 8 bytes each. Without, the scores are the same,
            and `history` is not to be had.
        examples: what tells this set of examples from others, such as their inputs or ids; its
            hash is kept.

    Raises:
        RequestError: labels out of range or none, an unknown mode, no augmentation.

    Attributes:
        labels: (n,) int64.
        label_hash: of the labels, in their order.
    """

    def __init__(
        self,
        labels: ArrayLike,
        num_classes: int,
        *,
        mode: Mode = "presentation",
        num_augmentations: int = 1,
        history: bool = True,
        examples: ArrayLike | None = None,
    ) -> None:
        if mode not in _MODES:
            raise unknown_choice("mode", str(mode), _MODES)
        if num_classes < 2 or num_augmentations < 1:
            raise RequestError(
                f"num_classes={num_classes}, num_augmentations={num_augmentations}: expected two "
                "classes and one augmentation at the least."
            )
        self.labels = as_labels(labels, "labels", num_classes)
        if not len(self.labels):
            raise RequestError("labels is empty. Give the class of each example.")
        self.num_classes = num_classes
        self.mode: Mode = mode
        self.num_augmentations = num_augmentations
        self.label_hash = label_hash(self.labels)
        self._examples = "" if examples is None else _hash_of(examples)
        self._shape = (
            (len(self.labels),) if num_augmentations == 1 else (len(self.labels), num_augmentations)
        )
        self._times: list[float] = []
        self._rows: list[Row] | None = [] if history else None
        self._sums = Accumulators(self._shape)
        self._page: Page | None = None
        self._data_hash = ""  # of what was evaluated
        self._evaluated: tuple[tuple[object, ...], Objective] | None = None

    def __repr__(self) -> str:
        return (
            f"Recorder({len(self.labels):,} examples, {self.num_classes} classes, "
            f"mode={self.mode!r}, {len(self._times)} times)"
        )

    # -- presentations ------------------------------------------------------------------------

    def record(
        self,
        indices: Tensor | npt.NDArray[np.integer[Any]] | Iterable[int],
        logits: Tensor,
        *,
        labels: Tensor | None = None,
        augmentation: int | Tensor | None = None,
    ) -> None:
        """Note one batch of training, before the step.

        Indices in host memory are looked at here; those on an accelerator without waiting for it,
        so that what is wrong with them comes to light in `end_epoch`.

        Args:
            indices: (b,) which examples, each once.
            logits: (b, C) of the network in training mode; (b, M, C) of all views; (b,) or (b, 1)
                of a network with one logit for two classes.
            labels: (b,) that the batch came with, to be compared with those of the recorder.
            augmentation: which view, or (b,) of each, where there are several and not all came.

        Raises:
            RequestError: mode "eval"; an index out of range or twice in the batch, labels that are
                others than the recorder's, shapes that do not fit.
        """
        self._require("presentation", "Call evaluate(model, data)")
        with torch.inference_mode(False), torch.no_grad():
            at = positions(indices, labels, self.labels)
            if logits.device.type == "mps":  # it has no float64
                logits = logits.cpu()
            given = columns(logits, len(at), self.num_classes, self.num_augmentations, augmentation)
            page = self._page_on(logits.device)
            at = at.to(logits.device, non_blocking=True)
            page.enter(at, given, augmentation, labels)

    def end_epoch(self, time: float | None = None) -> None:
        """Close a time: what was recorded since the last one becomes its row.

        An example that was not presented is passed over. Where examples are drawn with
        replacement, a time is a step: call this after each, and keep no history.

        Args:
            time: when it was, such as the step; by default 0, 1, 2 ...

        Raises:
            RequestError: nothing was recorded, an example was presented twice, or what `record`
                could not raise yet; what was recorded since the last time is gone.
        """
        self._require("presentation", "evaluate() closes its time by itself")
        if self._page is None:
            raise RequestError(
                "nothing was recorded since the last time. Call record(indices, logits) in each "
                "step."
            )
        when = self._next_time(time)
        page, self._page = self._page, None
        page.check()
        self._close(when, page.block.reshape(*self._shape, -1))

    def _require(self, mode: Mode, instead: str) -> None:
        if self.mode != mode:
            raise RequestError(
                f"this recorder has mode={self.mode!r}. {instead}, or make another recorder with "
                f"mode={mode!r}: scores of the two are not the same."
            )

    def _page_on(self, device: torch.device) -> Page:
        if self._page is None:
            self._page = Page(torch.from_numpy(self.labels), self.num_augmentations)
        if self._page.block.device != device:
            self._page.to(device)
        return self._page

    # -- evaluations --------------------------------------------------------------------------

    @overload
    def evaluate(self, network: nn.Module, at: object, *, time: float | None = None) -> None: ...

    @overload
    def evaluate(
        self,
        network: Objective,
        at: Tensor | None = None,
        *,
        buffers: Mapping[str, Tensor] | None = None,
        time: float | None = None,
    ) -> None: ...

    def evaluate(
        self,
        network: nn.Module | Objective,
        at: object = None,
        *,
        buffers: Mapping[str, Tensor] | None = None,
        time: float | None = None,
    ) -> None:
        """Note the answers of a network to all examples, in evaluation mode: a time of its own.

        Args:
            network: a model, as it is now; or an objective, whose BatchNorm policy holds.
            at: of a model, the data with labels, as for `Objective`, in the order of the recorder;
                it is read once and checked, so hand over the same object each time. Of an
                objective, the point theta (n,); by default its own. With M > 1 views the data has
                n M rows, example by example: row i M + m is view m of example i.
            buffers: of an objective at theta, by name, in place of its own.
            time: when it was, such as the step; by default 0, 1, 2 ...

        Raises:
            RequestError: mode "presentation", other examples or labels than those of the recorder,
                or what `Objective` raises, of which weights that are no numbers at the first call
                are one.
        """
        self._require("eval", "Call record(indices, logits) and end_epoch()")
        when = self._next_time(time)
        if isinstance(network, Objective):
            objective, theta = network, at
            if theta is not None and not isinstance(theta, Tensor):
                raise RequestError(
                    f"at is a {type(theta).__name__}, expected a tensor theta: an objective brings "
                    "its data itself."
                )
        else:
            objective = self._objective(network, at)
            theta = objective.space.flatten(dict(objective.model.named_parameters()))
            buffers = dict(objective.model.named_buffers())
        self._check_examples(objective.batches.fingerprint)
        found = answers(objective, theta, buffers=buffers)
        self._check_answers(found.logits, found.labels.cpu().numpy())
        block = measurements(found.logits, found.labels)
        self._data_hash = objective.batches.fingerprint
        self._close(when, block.reshape(*self._shape, -1))

    def _objective(self, model: nn.Module, data: object) -> Objective:
        if data is None:
            raise RequestError("evaluate(model) lacks the data. Call evaluate(model, data).")
        # A pair is often put together anew, of the same tensors.
        asked = (model, *data) if isinstance(data, tuple) else (model, data)
        if self._evaluated is None or not _are_same(asked, self._evaluated[0]):
            self._evaluated = asked, Objective(model, data)
        return self._evaluated[1]

    def _check_examples(self, examples: str) -> None:
        if self._data_hash not in ("", examples):
            raise RequestError(
                "these are other examples, or other batches of them, than at the times before. "
                "Evaluate on the same data, with the same batch size, each time."
            )

    def _check_answers(self, logits: Tensor, labels: Ints) -> None:
        wanted = np.repeat(self.labels, self.num_augmentations)
        expected = (len(wanted), self.num_classes)
        if logits.shape != expected:
            raise RequestError(
                f"the network gave logits {tuple(logits.shape)}, expected {expected}: n M examples "
                "and the classes of the recorder."
            )
        if (labels != wanted).any():
            raise other_labels(int((labels != wanted).sum()))

    # -- what came of it ----------------------------------------------------------------------

    def _next_time(self, time: float | None) -> float:
        if time is None:
            time = self._times[-1] + 1 if self._times else 0.0
        if self._times and not time > self._times[-1]:
            raise RequestError(
                f"time={time} comes after {self._times[-1]}, expected a later one. Count on."
            )
        return float(time)

    def _close(self, time: float, block: Tensor) -> None:
        entries = row(block)
        self._sums.enter(entries)
        if self._rows is not None:
            self._rows.append(entries)
        self._times.append(time)

    @property
    def times(self) -> Floats:
        """(T,) when something was recorded."""
        return np.asarray(self._times, dtype=np.float64)

    @property
    def example_hash(self) -> str:
        """Of `examples`, or else of the data that was evaluated; "" where neither is known."""
        return self._examples or self._data_hash

    @property
    def keeps_history(self) -> bool:
        """Whether `history` is to be had."""
        return self._rows is not None

    @property
    def history(self) -> History:
        """All that was recorded, of the times that are closed.

        Raises:
            RequestError: none is kept, or there is no time yet.
        """
        if self._rows is None:
            raise RequestError(
                "this recorder keeps no history. Use scores(), or make it with history=True."
            )
        self._require_times()
        return stacked(
            self._rows, self.times, self.labels, self.num_classes, self.mode, self.example_hash
        )

    def scores(self) -> ExampleScores:
        """All scores, of the times that are closed.

        Raises:
            RequestError: there is no time yet.
        """
        self._require_times()
        return self._sums.scores() if self._rows is None else example_scores(self.history)

    def _require_times(self) -> None:
        if not self._times:
            raise RequestError("there is no time yet. Call end_epoch(), or evaluate().")

    # -- between two runs ---------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Keep everything in an npz, the open time too; the file appears whole or not at all.

        Raises:
            RequestError: the file cannot be written.
        """
        about = {
            "num_classes": self.num_classes,
            "mode": self.mode,
            "num_augmentations": self.num_augmentations,
            "history": self.keeps_history,
            "examples": self._examples,
            "data": self._data_hash,
        }
        held: dict[str, Any] = {"labels": self.labels, "times": self.times}
        held |= {f"sum_{name}": values for name, values in self._sums.state().items()}
        for name in MEASUREMENTS if self._rows else ():
            assert self._rows is not None
            held[f"history_{name}"] = np.stack([part[name] for part in self._rows])
        if self._page is not None:
            held |= self._page.state()
        write(Path(path), about, held)

    @classmethod
    def load(cls, path: str | Path, labels: ArrayLike | None = None) -> Recorder:
        """Go on from a file of `save`.

        Args:
            labels: of the run that goes on, to be compared with those of the file.

        Raises:
            RequestError: a file that is none, or of other labels.
        """
        about, held = read(Path(path))
        recorder = cls._from(about, held)
        if labels is not None and label_hash(as_labels(labels, "labels")) != recorder.label_hash:
            raise RequestError(
                f"{path} belongs to other labels, or to another order of them. Name the recorder "
                "of this run."
            )
        return recorder

    @classmethod
    def _from(cls, about: dict[str, Any], held: dict[str, npt.NDArray[Any]]) -> Recorder:
        hashes = about.pop("examples"), about.pop("data")
        recorder = cls(held["labels"], **about)
        recorder._examples, recorder._data_hash = hashes
        recorder._times = held["times"].tolist()
        recorder._sums.restore(
            {name.removeprefix("sum_"): held[name] for name in held if name.startswith("sum_")}
        )
        if recorder._rows is not None and recorder._times:
            recorder._rows = [
                {name: held[f"history_{name}"][time] for name in MEASUREMENTS}
                for time in range(len(recorder._times))
            ]
        if "block" in held:
            recorder._page_on(torch.device("cpu")).restore(held)
        return recorder


def _hash_of(examples: ArrayLike) -> str:
    held = examples if isinstance(examples, Tensor) else torch.as_tensor(np.asarray(examples))
    return fingerprint({"examples": held}).hex()


def _are_same(these: tuple[object, ...], those: tuple[object, ...]) -> bool:
    return len(these) == len(those) and all(a is b for a, b in zip(these, those, strict=True))
