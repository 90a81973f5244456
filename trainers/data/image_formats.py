"""Image formats: IDX, CIFAR's pickles and CIFAR's binary records, from bytes to arrays.

Where the files lie and what they must hold is in `image_files`.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from landscape.errors import RequestError

__all__ = ["read_cifar_pickle", "read_cifar_records", "read_idx"]

Bytes = npt.NDArray[np.uint8]

_UNSIGNED_BYTE = 0x08
_CIFAR_IMAGE = (3, 32, 32)


def read_idx(content: bytes, source: str) -> Bytes:
    """An array of unsigned bytes in the IDX format: 0, 0, type, number of dimensions, sizes, data.

    Args:
        source: what an error calls it.

    Raises:
        RequestError: another format or type, or more or less data than the sizes say.
    """
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _UNSIGNED_BYTE:
        raise RequestError(
            f"{source} is no IDX file of unsigned bytes: it starts with {content[:4].hex()!r}, "
            "expected '0000080' and the number of dimensions. Download it again."
        )
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise RequestError(f"{source} ends within its header. Download it again.")
    shape = tuple(int(size) for size in np.frombuffer(content[4:start], dtype=">u4"))
    if len(content) - start != math.prod(shape):
        raise RequestError(
            f"{source} has {len(content) - start} bytes of data, expected "
            f"{math.prod(shape)} for the shape {shape}. Download it again."
        )
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)


def read_cifar_pickle(content: bytes, label_key: str, source: str) -> tuple[Bytes, Bytes]:
    """Images (n, 3, 32, 32) and labels (n,) of the "python version"; runs nothing of the pickle.

    Raises:
        RequestError: it is no such pickle, or it names anything but an array of numbers.
    """
    try:
        found = _ArraysOnly(io.BytesIO(content), encoding="latin1").load()
        images, labels = np.asarray(found["data"]), np.asarray(found[label_key])
    except RequestError:
        raise
    except Exception as error:  # a broken pickle can raise anything
        raise RequestError(
            f"{source} is no CIFAR batch with 'data' and {label_key!r} "
            f"({type(error).__name__}: {error}). Download it again."
        ) from None
    if images.dtype != np.uint8 or images.shape != (len(labels), math.prod(_CIFAR_IMAGE)):
        raise RequestError(
            f"{source} has 'data' of shape {images.shape} and dtype {images.dtype}, expected "
            f"({len(labels)}, {math.prod(_CIFAR_IMAGE)}) and uint8. Download it again."
        )
    return images.reshape(-1, *_CIFAR_IMAGE), _labels(labels, source)


def read_cifar_records(content: bytes, label_bytes: int, source: str) -> tuple[Bytes, Bytes]:
    """Images (n, 3, 32, 32) and labels (n,) of the "binary version".

    Args:
        label_bytes: before each image, of which the last is the label: 1 in CIFAR-10, 2 in
            CIFAR-100, where the first is the coarse one.

    Raises:
        RequestError: not a whole number of records.
    """
    length = label_bytes + math.prod(_CIFAR_IMAGE)
    if not content or len(content) % length:
        raise RequestError(
            f"{source} has {len(content)} bytes, expected records of {length}. Download it again."
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, length)
    return records[:, label_bytes:].reshape(-1, *_CIFAR_IMAGE), records[:, label_bytes - 1]


class _ArraysOnly(pickle.Unpickler):
    """Reads dicts, lists, strings and numpy arrays; a pickle that names more is refused."""

    def find_class(self, module: str, name: str) -> object:
        allowed: dict[tuple[str, str], object] = {
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
            # How Python 3 writes bytes for readers of Python 2, when an array is pickled so.
            ("_codecs", "encode"): _encoded,
        }
        rebuild: Callable[..., object] = np.empty(0).__reduce__()[0]  # type: ignore[assignment]
        for home in ("numpy.core.multiarray", "numpy._core.multiarray"):
            allowed[home, "_reconstruct"] = rebuild
        if (module, name) not in allowed:
            raise RequestError(
                f"a CIFAR batch names {module}.{name}, which no original file does. It may be "
                "meant to run code: download the file from its authors."
            )
        return allowed[module, name]


def _encoded(characters: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise ValueError(f"bytes in {encoding!r}")
    return characters.encode("latin1")


def _labels(labels: npt.NDArray[np.generic], source: str) -> Bytes:
    wrong = labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels)
    if wrong or not 0 <= int(labels.min()) <= int(labels.max()) <= 255:
        raise RequestError(f"{source} has labels that are no small integers. Download it again.")
    return labels.astype(np.uint8)
