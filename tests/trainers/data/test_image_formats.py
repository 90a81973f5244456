import io
import pickle

import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.trainers.data.image_formats import (
    read_cifar_pickle,
    read_cifar_records,
    read_idx,
)

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
LABELS = [3, 0, 9, 255]


def idx(array, kind=8):
    sizes = np.array(array.shape, dtype=">u4").tobytes()
    return bytes([0, 0, kind, array.ndim]) + sizes + array.tobytes()


def pickled(protocol=2, **changes):
    batch = {"data": IMAGES.reshape(4, -1), "labels": LABELS, "batch_label": "x", **changes}
    return pickle.dumps(batch, protocol)


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4), (0, 28, 28)])
def test_idx_gives_back_what_was_written(shape):
    array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    assert np.array_equal(read_idx(idx(array), "f"), array)
    assert read_idx(idx(array), "f").shape == shape


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file"),
        (b"\x1f\x8b\x08\x00", "starts with '1f8b0800'"),
        (idx(np.zeros(3), kind=14), "no IDX file of unsigned bytes"),
        (idx(np.zeros(3, np.uint8))[:-1], r"2 bytes of data, expected 3 for the shape \(3,\)"),
        (idx(np.zeros(3, np.uint8)) + b"x", "4 bytes of data, expected 3"),
        (idx(np.zeros((2, 3), np.uint8))[:9], "ends within its header"),
    ],
)
def test_a_broken_idx_file_is_refused(content, message):
    with pytest.raises(RequestError, match=message):
        read_idx(content, "f")


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_gives_back_images_and_labels(protocol):
    images, labels = read_cifar_pickle(pickled(protocol), "labels", "f")
    assert np.array_equal(images, IMAGES)
    assert labels.tolist() == LABELS


def test_a_pickle_of_an_old_numpy_is_read():
    # It names numpy.core; new versions of numpy warn when that is imported.
    content = pickled().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert b"numpy.core.multiarray" in content
    assert np.array_equal(read_cifar_pickle(content, "labels", "f")[0], IMAGES)


def test_a_pickle_runs_nothing(tmp_path):
    touched = tmp_path / "touched"

    class Harm:
        def __reduce__(self):
            return open, (str(touched), "w")

    for content in (pickled(data=Harm()), pickled(extra=Harm()), pickle.dumps(Harm())):
        with pytest.raises(RequestError, match=r"names io\.open|names _io\.open"):
            read_cifar_pickle(content, "labels", "f")
    assert not touched.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not a pickle", "no CIFAR batch"),
        (pickled()[:50], "no CIFAR batch"),
        (pickle.dumps([1, 2]), "no CIFAR batch"),
        (pickled(data=IMAGES.reshape(4, -1)[:, 1:]), r"shape \(4, 3071\)"),
        (pickled(data=IMAGES.reshape(4, -1).astype(float)), "float64"),
        (pickled(labels=[0, 1]), r"expected \(2, 3072\)"),
        (pickled(labels=[0, 1, 2, -1]), "no small integers"),
        (pickled(labels=[0.0, 1.0, 2.0, 3.0]), "no small integers"),
    ],
)
def test_a_broken_pickle_is_refused(content, message):
    with pytest.raises(RequestError, match=message):
        read_cifar_pickle(content, "labels", "f")


@pytest.mark.parametrize("label_bytes", [1, 2])
def test_records_have_their_fine_label_last(label_bytes):
    content = io.BytesIO()
    for label, image in zip(LABELS, IMAGES, strict=True):
        content.write(bytes([77] * (label_bytes - 1) + [label]) + image.tobytes())
    images, labels = read_cifar_records(content.getvalue(), label_bytes, "f")
    assert np.array_equal(images, IMAGES)
    assert labels.tolist() == LABELS
    for broken in (content.getvalue()[:-1], b""):
        with pytest.raises(RequestError, match="expected records of"):
            read_cifar_records(broken, label_bytes, "f")
