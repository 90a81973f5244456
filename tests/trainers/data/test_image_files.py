import gzip
import hashlib
import io
import pickle
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from landscape.errors import RequestError
from landscape.trainers.data import image_files
from landscape.trainers.data.image_files import cifar10, cifar100, fashion_mnist, mnist
from landscape.trainers.data.published import CIFAR10, CIFAR100, FASHION_MNIST, MNIST

GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (6, 28, 28), dtype=np.uint8)
LABELS = np.array([3, 0, 9, 1, 1, 2], dtype=np.uint8)
COLOURED = GENERATOR.integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)


def idx(array):
    sizes = np.array(array.shape, dtype=">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


@pytest.fixture(autouse=True)
def no_folder_of_the_user(monkeypatch):
    monkeypatch.delenv("LANDSCAPE_DATA", raising=False)


@pytest.fixture
def small_mnist(monkeypatch):
    """The train split's two files of a data set of six images, by name."""
    files = {"train-images-idx3-ubyte": idx(PIXELS), "train-labels-idx1-ubyte": idx(LABELS)}
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    for name, published in (("MNIST", MNIST), ("FASHION_MNIST", FASHION_MNIST)):
        small = replace(published, sha256=hashes, sizes={"train": 6, "test": 6}, system=None)
        monkeypatch.setattr(image_files, name, small)
    return files


def batches(name_label_image):
    """The pickles and the binary files of a CIFAR of two images a file."""
    label_key, prefix, names = name_label_image
    pickles, records = {}, {}
    for i, name in enumerate(names):
        images, labels = COLOURED[i : i + 2], LABELS[i : i + 2].tolist()
        pickles[name] = pickle.dumps({"data": images.reshape(2, -1), label_key: labels}, 2)
        rows = [
            bytes([*prefix, label]) + image.tobytes()
            for label, image in zip(labels, images, strict=True)
        ]
        records[f"{name}.bin"] = b"".join(rows)
    return pickles, records


@pytest.fixture(params=["CIFAR10", "CIFAR100"])
def small_cifar(request, monkeypatch):
    published = {"CIFAR10": CIFAR10, "CIFAR100": CIFAR100}[request.param]
    prefix = [7] * (published.label_bytes - 1)
    pickles, records = batches((published.label_key, prefix, published.pickles["train"]))
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in pickles.items()}
    small = replace(published, md5=md5, size={"train": 2, "test": 2})
    monkeypatch.setattr(image_files, request.param, small)
    load = {"CIFAR10": cifar10, "CIFAR100": cifar100}[request.param]
    count = len(published.pickles["train"])
    images = np.concatenate([COLOURED[i : i + 2] for i in range(count)])
    labels = np.concatenate([LABELS[i : i + 2] for i in range(count)])
    return small, load, pickles, records, images, labels


def written(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def archived(path, folder, files):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{folder}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def assert_holds(found, images, labels):
    inputs, targets = found
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert np.array_equal((inputs * 255).round().numpy(), images)
    assert 0 <= inputs.min() <= inputs.max() <= 1
    assert targets.tolist() == labels.tolist()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("below", [".", "MNIST/raw", "mnist"])
def test_mnist_is_found_plain_and_zipped_in_the_usual_folders(
    small_mnist, tmp_path, zipped, below, monkeypatch
):
    files = (
        {f"{name}.gz": gzip.compress(content) for name, content in small_mnist.items()}
        if zipped
        else small_mnist
    )
    written(tmp_path / below, files)
    assert_holds(mnist(root=tmp_path), PIXELS[:, None], LABELS)
    monkeypatch.setenv("LANDSCAPE_DATA", str(tmp_path))
    assert_holds(mnist(), PIXELS[:, None], LABELS)


def test_fashion_mnist_is_not_taken_from_mnists_folder(small_mnist, tmp_path):
    written(tmp_path / "MNIST/raw", small_mnist)
    with pytest.raises(RequestError, match="apt-get install dataset-fashion-mnist"):
        fashion_mnist(root=tmp_path)


def test_a_changed_byte_is_noticed(small_mnist, tmp_path):
    content = bytearray(small_mnist["train-images-idx3-ubyte"])
    content[-1] ^= 1
    written(tmp_path, {**small_mnist, "train-images-idx3-ubyte": bytes(content)})
    found = hashlib.sha256(content).hexdigest()
    with pytest.raises(RequestError, match=f"its sha256 is {found}, expected"):
        mnist(root=tmp_path)


def test_a_file_that_is_cut_off_is_refused(small_mnist, tmp_path):
    files = {f"{name}.gz": gzip.compress(content)[:-9] for name, content in small_mnist.items()}
    written(tmp_path, files)
    with pytest.raises(RequestError, match="cut off"):
        mnist(root=tmp_path)


def test_labels_out_of_range_and_wrong_sizes_are_refused(small_mnist, tmp_path, monkeypatch):
    written(tmp_path, small_mnist)
    small = image_files.MNIST
    monkeypatch.setattr(image_files, "MNIST", replace(small, num_classes=9))
    with pytest.raises(RequestError, match=r"the label 9, expected 0 \.\.\. 8"):
        mnist(root=tmp_path)
    monkeypatch.setattr(image_files, "MNIST", replace(small, sizes={"train": 5, "test": 5}))
    with pytest.raises(RequestError, match=r"shape \(6, 28, 28\), expected \(5, 28, 28\)"):
        mnist(root=tmp_path)


def test_missing_files_are_named_with_the_place_for_them(tmp_path):
    with pytest.raises(RequestError, match=r"t10k-images-idx3-ubyte\.gz and .*MNIST/raw"):
        mnist("test", tmp_path)
    with pytest.raises(RequestError, match=r"\$LANDSCAPE_DATA"):
        mnist()
    with pytest.raises(RequestError, match=r"cifar-100-python\.tar\.gz or"):
        cifar100(root=tmp_path)
    with pytest.raises(RequestError, match="is no folder"):
        mnist(root=tmp_path / "nowhere")
    with pytest.raises(RequestError, match="Did you mean 'test'"):
        cifar10("tests", tmp_path)


@pytest.mark.parametrize("form", ["folder", "archive"])
@pytest.mark.parametrize("version", ["python", "binary"])
def test_cifar_is_read_from_both_versions_unpacked_or_not(
    small_cifar, tmp_path, form, version, monkeypatch
):
    small, load, pickles, records, images, labels = small_cifar
    files, folder, archive = (
        (pickles, small.python, small.python_archive)
        if version == "python"
        else (records, small.binary, small.binary_archive[0])
    )
    if form == "folder":
        written(tmp_path / folder, files)
    else:
        archived(tmp_path / archive, folder, files)
        md5 = hashlib.md5((tmp_path / archive).read_bytes()).hexdigest()
        small = replace(small, binary_archive=(small.binary_archive[0], md5))
        monkeypatch.setattr(image_files, small.name, small)
    assert_holds(load(root=tmp_path), images, labels)


def test_a_changed_cifar_is_noticed_before_it_is_unpickled(small_cifar, tmp_path):
    small, load, pickles, records, _, _ = small_cifar
    name = small.pickles["train"][0]
    written(tmp_path / small.python, {**pickles, name: pickles[name] + b"x"})
    with pytest.raises(RequestError, match=r"its md5 is .* Download it again"):
        load(root=tmp_path)
    archived(tmp_path / small.binary_archive[0], small.binary, records)
    (tmp_path / small.python / name).unlink()
    with pytest.raises(RequestError, match=f"has no {name}"):
        load(root=tmp_path)


def test_a_changed_binary_archive_is_noticed(small_cifar, tmp_path):
    small, load, _, records, _, _ = small_cifar
    archived(tmp_path / small.binary_archive[0], small.binary, records)
    with pytest.raises(RequestError, match=f"expected {small.binary_archive[1]}"):
        load(root=tmp_path)


def test_incomplete_binary_files_are_noticed(small_cifar, tmp_path):
    small, load, _, records, _, _ = small_cifar
    name = small.records["train"][0]
    written(tmp_path / small.binary, {**records, name: records[name][: len(records[name]) // 2]})
    with pytest.raises(RequestError, match=r"images and .* labels, expected"):
        load(root=tmp_path)


@pytest.mark.skipif(
    not FASHION_MNIST.system.is_dir(), reason="Debian's dataset-fashion-mnist is not installed"
)
def test_the_real_fashion_mnist_has_6000_train_and_1000_test_images_a_class():
    inputs, targets = fashion_mnist("test")
    assert inputs.shape == (10_000, 1, 28, 28)
    assert targets.bincount().tolist() == [1000] * 10
    assert targets[:5].tolist() == [9, 2, 1, 1, 6]  # ankle boot, pullover, trousers, ..., shirt
