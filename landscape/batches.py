"""Batches: anybody's data as a fixed list of batches, read once and cached.

`losses` says what a batch contributes to the loss; `objective` puts the two together.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from landscape.errors import RequestError
from landscape.fingerprint import fingerprint
from landscape.memory import available_bytes, format_bytes

__all__ = ["Batches", "batch_length", "join_batches", "map_tensors", "preserved_rng"]
__all__ += ["slice_batch", "tensors_of"]

# A batch is a tensor or any nesting of tuples, lists and mappings of tensors.
Batch = object

_CACHE_SHARE = 0.25  # of the free memory, where the user gives no budget
_DATASET_BATCH_SIZE = 256
_CHECKED_BATCHES = 2  # a shuffling or augmenting loader already differs in its first batch


class Batches:
    """A fixed sequence of batches on one device.

    Args:
        data: tensors `(inputs, targets)`, a mapping of tensors or one tensor (a single batch,
            unless `batch_size` splits it); a torch `Dataset`; or any iterable of batches.
        device: where the batches go.
        dtype: floating-point tensors are converted to it; None leaves them as they are.
        cache_bytes: what may be kept on `device`; the rest is read again in every pass.
        batch_size: for tensors and data sets only; an iterable has its own batches.
        array_dtype: of the tensors made from floating NumPy arrays; None keeps theirs.

    Raises:
        RequestError: no batch at all, NaN in a batch, a loader that does not repeat itself, or
            a one-shot iterator that does not fit into the cache.

    Attributes:
        num_batches: how many there are.
        num_examples: the sum of their lengths.
        fingerprint: hash of all their contents, in order.
    """

    def __init__(
        self,
        data: object,
        *,
        device: torch.device,
        dtype: torch.dtype | None = None,
        cache_bytes: int | None = None,
        batch_size: int | None = None,
        array_dtype: torch.dtype | None = None,
    ) -> None:
        self._source = _as_iterable(data, batch_size, array_dtype)
        self._device, self._dtype, self._array_dtype = device, dtype, array_dtype
        if cache_bytes is None:
            cache_bytes = int(_CACHE_SHARE * available_bytes(device))
        self._cache: list[Batch] = []
        self._digests: list[bytes] = []
        self.num_examples = 0
        self._read(cache_bytes)
        self.num_batches = len(self._digests)
        self.fingerprint = hashlib.blake2b(b"".join(self._digests), digest_size=16).hexdigest()

    @property
    def is_cached(self) -> bool:
        """Whether every batch fitted into the cache."""
        return len(self._cache) == self.num_batches

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[Batch]:
        yield from self._cache
        if self.is_cached:
            return
        count = 0
        for index, raw in enumerate(self._reread()):
            count = index + 1
            if index < len(self._cache):
                continue
            batch = self._load(raw)
            if index >= self.num_batches or _digest(batch) != self._digests[index]:
                raise _not_repeating(index)
            yield batch
        if count < self.num_batches:
            raise _not_repeating(count)

    def _reread(self) -> Iterator[Batch]:
        # Step by step: a generator that somebody abandons would restore the random state late.
        with preserved_rng(self._device, self._source):
            source = iter(self._source)
        while True:
            with preserved_rng(self._device, self._source):
                try:
                    raw = next(source)
                except StopIteration:
                    return
            yield raw

    def _load(self, raw: Batch) -> Batch:
        def move(tensor: Tensor) -> Tensor:
            # A copy in every case: a loader may hand out the same memory again for its next batch,
            # and autograd cannot save a tensor that was made in inference mode.
            convert = self._dtype is not None and tensor.is_floating_point()
            dtype = self._dtype if convert else None
            return tensor.detach().to(self._device, dtype, copy=True)

        return map_tensors(move, raw, self._array_dtype)

    def _read(self, cache_bytes: int) -> None:
        is_one_shot = isinstance(self._source, Iterator)
        used, keep = 0, True
        with preserved_rng(self._device, self._source):
            for index, raw in enumerate(self._source):
                batch = self._load(raw)
                tensors = tensors_of(batch)
                _check_finite(tensors, index)
                self.num_examples += batch_length(batch)
                self._digests.append(_digest(batch))
                used += sum(t.numel() * t.element_size() for t in tensors.values())
                keep = keep and used <= cache_bytes
                if keep:
                    self._cache.append(batch)
                elif is_one_shot:
                    raise RequestError(
                        f"the data is a one-shot iterator larger than the cache of "
                        f"{format_bytes(cache_bytes)}. Give a list or a DataLoader, which can be "
                        "read again, or raise cache_bytes."
                    )
            if not self._digests:
                raise RequestError(
                    "the data holds no batch. Give at least one; if it is an iterator, it may "
                    "have been used up already."
                )
            if not is_one_shot:
                checked = range(min(_CHECKED_BATCHES, len(self._digests)))
                for index, raw in zip(checked, self._source, strict=False):
                    if _digest(self._load(raw)) != self._digests[index]:
                        raise _not_repeating(index)


def _not_repeating(index: int) -> RequestError:
    return RequestError(
        f"two passes over the data disagree at batch {index}: the loader shuffles or augments. A "
        "loss is a function of the parameters only if the data stays: give a "
        "DataLoader(..., shuffle=False) without random transforms, or list(loader) to fix one draw."
    )


def _as_iterable(
    data: object, batch_size: int | None, array_dtype: torch.dtype | None
) -> Iterable[Batch]:
    if batch_size is not None and batch_size < 1:
        raise RequestError(f"batch_size is {batch_size}, expected at least 1.")
    # A tuple of batches holds no bare tensor; `((ids, mask), labels)` does.
    is_tensors = (
        isinstance(data, (Tensor, np.ndarray, Mapping))
        or hasattr(data, "keys")
        or (isinstance(data, tuple) and any(_is_array(part) for part in data))
    )
    if isinstance(data, tuple) and is_tensors:
        counts = [len(part) for part in data if _is_array(part)]
        if len(set(counts)) > 1:
            lengths = " and ".join(str(count) for count in counts)
            raise RequestError(
                f"the tensors of the data hold {lengths} examples. Inputs and targets must agree."
            )
    if is_tensors:
        whole = map_tensors(lambda tensor: tensor, data, array_dtype)
        length = batch_length(whole)
        if batch_size is None or length == 0:
            return [whole] if length else []
        return [
            slice_batch(whole, start, min(start + batch_size, length), length)
            for start in range(0, length, batch_size)
        ]
    if isinstance(data, Dataset) and not isinstance(data, Iterable):
        return DataLoader(data, batch_size=batch_size or _DATASET_BATCH_SIZE)
    if isinstance(data, IterableDataset):
        raise RequestError(
            f"the data is a {type(data).__name__}, an IterableDataset: it does not say whether it "
            "yields examples or batches. Wrap it: DataLoader(data, batch_size=...)."
        )
    if batch_size is not None:
        raise RequestError(
            "batch_size splits tensors and data sets; an iterable of batches has its own. Leave "
            "batch_size out, or set it in your DataLoader."
        )
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes)):
        raise RequestError(
            f"the data is a {type(data).__name__}, expected tensors (inputs, targets), a Dataset, "
            "or an iterable of batches such as a DataLoader."
        )
    return data


def _is_array(value: object) -> bool:
    return isinstance(value, (Tensor, np.ndarray)) and value.ndim > 0


def map_tensors(
    function: Callable[[Tensor], Tensor], batch: Batch, array_dtype: torch.dtype | None = None
) -> Batch:
    """The same nesting with `function` applied to each tensor; the original is not changed.

    NumPy makes float64 unless told otherwise, and models are float32: floating arrays become
    tensors of `array_dtype`.
    """

    def nested(part: Batch) -> Batch:
        return map_tensors(function, part, array_dtype)

    if isinstance(batch, Tensor):
        return function(batch)
    if isinstance(batch, np.ndarray) and batch.dtype.kind in "fiub":
        tensor = torch.from_numpy(batch.copy())
        return function(tensor.to(array_dtype) if tensor.is_floating_point() else tensor)
    # UserDict and the tokenizers' BatchEncoding are mappings but no dicts.
    if isinstance(batch, Mapping) or (hasattr(batch, "keys") and hasattr(batch, "__getitem__")):
        items = {key: nested(batch[key]) for key in batch.keys()}  # noqa: SIM118
        if type(batch) is dict:
            return items
        try:
            return type(batch)(items)  # type: ignore[call-arg]
        except TypeError:
            return items
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        named: Callable[..., Batch] = type(batch)
        return named(*[nested(part) for part in batch])
    if isinstance(batch, (tuple, list)):
        parts = [nested(part) for part in batch]
        return parts if isinstance(batch, list) else tuple(parts)
    return batch


def tensors_of(batch: Batch, prefix: str = "") -> dict[str, Tensor]:
    """Every tensor of a batch by its place in it: `"0"`, `"1"`, `"input_ids"`, `"views.0"`."""
    found: dict[str, Tensor] = {}
    if isinstance(batch, Tensor):
        found[prefix or "tensor"] = batch
    elif isinstance(batch, (tuple, list)):
        for index, part in enumerate(batch):
            found |= tensors_of(part, f"{prefix}.{index}".strip("."))
    elif isinstance(batch, Mapping) or hasattr(batch, "keys"):
        for key in batch.keys():  # noqa: SIM118
            found |= tensors_of(batch[key], f"{prefix}.{key}".strip("."))  # type: ignore[index]
    return found


def batch_length(batch: Batch) -> int:
    """The number of examples: the leading dimension that most of the batch's tensors share."""
    lengths = [tensor.shape[0] for tensor in tensors_of(batch).values() if tensor.ndim]
    if not lengths:
        raise RequestError(
            f"a batch of type {type(batch).__name__} holds no tensor with a leading dimension. "
            "Give batches of tensors: (inputs, targets), or a mapping."
        )
    return max(lengths, key=lengths.count)


def slice_batch(batch: Batch, start: int, stop: int, length: int) -> Batch:
    """Examples start..stop of a batch of `length`; what is not per example stays whole."""
    return map_tensors(
        lambda tensor: tensor[start:stop] if tensor.ndim and tensor.shape[0] == length else tensor,
        batch,
    )


def join_batches(batches: Sequence[Batch]) -> Batch:
    """Batches of one make as a single one; what is not per example must be equal in all.

    Raises:
        RequestError: parts that cannot be joined: of other shapes, or not per example and not
            equal.
    """
    return _joined(batches, [batch_length(batch) for batch in batches], "batch")


def _joined(parts: Sequence[Batch], lengths: Sequence[int], place: str) -> Batch:
    first = parts[0]
    if isinstance(first, Tensor):
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if [part.shape for part in tensors] == [(n, *first.shape[1:]) for n in lengths]:
            return torch.cat(tensors)
        if len(tensors) == len(parts) and all(torch.equal(part, first) for part in tensors):
            return first
    elif isinstance(first, Mapping) or hasattr(first, "keys"):
        keys = list(first.keys())
        if all(list(part.keys()) == keys for part in parts):  # type: ignore[attr-defined]
            return {
                key: _joined([part[key] for part in parts], lengths, f"{place}[{key!r}]")  # type: ignore[index]
                for key in keys
            }
    elif isinstance(first, (tuple, list)):
        if all(len(part) == len(first) for part in parts):  # type: ignore[arg-type]
            columns = [
                _joined([part[index] for part in parts], lengths, f"{place}[{index}]")  # type: ignore[index]
                for index in range(len(first))
            ]
            if hasattr(first, "_fields"):
                named: Callable[..., Batch] = type(first)
                return named(*columns)
            return columns if isinstance(first, list) else tuple(columns)
    elif all(part == first for part in parts):
        return first
    raise RequestError(
        f"the batches cannot be joined: {place} differs in more than its number of examples. Give "
        "batches of one shape, such as texts padded to one length."
    )


def _check_finite(tensors: Mapping[str, Tensor], index: int) -> None:
    for place, tensor in tensors.items():
        # Infinite entries are left alone: attention masks are made of them.
        if tensor.is_floating_point() and tensor.isnan().any():
            count = int(tensor.isnan().sum())
            raise RequestError(
                f"the data holds NaN: batch {index}, element {place!r}, {count} of "
                f"{tensor.numel()} values. Clean the data first: a NaN spreads to every result."
            )


def _digest(batch: Batch) -> bytes:
    return fingerprint(tensors_of(batch))


@contextmanager
def preserved_rng(device: torch.device, source: object = None) -> Iterator[None]:
    """Whatever is drawn inside leaves no trace in the global generators, nor in a loader's own."""
    holders = (source, getattr(source, "sampler", None))
    owned = [getattr(holder, "generator", None) for holder in holders]
    own = [(g, g.get_state()) for g in owned if isinstance(g, torch.Generator)]
    python, numpy_state = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy_state)  # noqa: NPY002
            for generator, state in own:
                generator.set_state(state)
