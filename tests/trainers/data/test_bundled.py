import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from landscape.errors import RequestError
from landscape.trainers.data.bundled import TEXT_VOCABULARY, digits, text


@pytest.mark.parametrize("test_fraction", [0.2, 0.5])
def test_the_splits_share_no_digit_and_together_are_all(test_fraction):
    parts = [digits(split, seed=3, test_fraction=test_fraction) for split in ("train", "test")]
    # Images and labels side by side: sorted, they are the same rows only if nothing is lost,
    # repeated, or given another's label.
    ours = np.concatenate(
        [np.column_stack([16 * inputs.flatten(1), targets]) for inputs, targets in parts]
    )
    bunch = load_digits()
    theirs = np.column_stack([bunch.data, bunch.target])
    assert np.array_equal(ours[np.lexsort(ours.T)], theirs[np.lexsort(theirs.T)])


@pytest.mark.parametrize("test_fraction", [0.1, 0.2, 0.5])
def test_each_class_is_split_by_the_same_fraction(test_fraction):
    targets = digits("test", seed=0, test_fraction=test_fraction)[1]
    expected = np.bincount(load_digits().target) * test_fraction
    assert np.abs(targets.bincount().numpy() - expected).max() <= 1
    assert len(targets) == round(1797 * test_fraction)


def test_inputs_are_float_images_between_zero_and_one():
    inputs, targets = digits()
    assert inputs.shape[1:] == (1, 8, 8)
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert (inputs.min().item(), inputs.max().item()) == (0, 1)


def test_the_seed_alone_decides_the_split():
    inputs, targets = digits("test", seed=1)
    np.random.seed(5)  # noqa: NPY002
    again, targets_again = digits("test", seed=1)
    assert torch.equal(inputs, again)
    assert torch.equal(targets, targets_again)
    assert not torch.equal(inputs, digits("test", seed=2)[0])


def test_no_global_generator_moves():
    def states():
        _, key, position, *_ = np.random.get_state()  # noqa: NPY002
        return key.tolist(), position, torch.get_rng_state().tolist()

    before = states()
    digits()
    assert states() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "tset"}, "Did you mean 'test'"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 2**32}, "seed=4294967296"),
        ({"test_fraction": 0.0}, "test_fraction=0.0"),
        ({"test_fraction": 0.999}, "test_fraction=0.999"),
        ({"test_fraction": float("nan")}, "test_fraction=nan"),
    ],
)
def test_a_split_that_cannot_be_made_says_why(arguments, message):
    with pytest.raises(RequestError, match=message):
        digits(**arguments)


def spelt(symbols):
    return "".join(TEXT_VOCABULARY[symbol] for symbol in symbols.flatten().tolist())


@pytest.fixture
def no_folder_of_the_user(monkeypatch):
    monkeypatch.delenv("LANDSCAPE_DATA", raising=False)


def test_the_vocabulary_has_each_symbol_once_and_at_most_100():
    assert len(TEXT_VOCABULARY) == len(set(TEXT_VOCABULARY)) == 97
    assert TEXT_VOCABULARY.index("\n") == 0


def test_a_text_is_cut_into_windows_and_each_target_is_the_next_character(tmp_path):
    written = "".join(chr(32 + i % 90) for i in range(1000))
    (tmp_path / "mine.txt").write_text(written)
    inputs, targets = text("train", context=7, path=tmp_path / "mine.txt")
    assert inputs.shape == targets.shape == (128, 7)  # (900 - 1) // 7
    assert (inputs.dtype, targets.dtype) == (torch.int64, torch.int64)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    starts = range(0, 896, 7)
    assert sorted(spelt(row) for row in inputs) == sorted(written[i : i + 7] for i in starts)
    assert sorted(spelt(row) for row in targets) == sorted(written[i + 1 : i + 8] for i in starts)
    last = text("test", context=99, path=tmp_path / "mine.txt")
    assert spelt(last[0]) == written[900:999]
    assert spelt(last[1]) == written[901:]


def test_the_seed_orders_the_windows_and_what_is_not_in_the_table_is_unknown(tmp_path):
    (tmp_path / "text.txt").write_text("aé€😀\t~" * 50, encoding="utf-8")
    first, again, other = (text(seed=s, context=5, path=tmp_path)[0] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert set(spelt(first)) == {"a", "~", TEXT_VOCABULARY[-1]}


@pytest.mark.usefixtures("no_folder_of_the_user")
def test_without_a_file_the_text_is_scikit_learns_prose():
    inputs, targets = text()
    assert inputs.shape[1] == 64
    assert len(inputs) > 400
    assert "the" in spelt(inputs[:20])
    assert int((targets == len(TEXT_VOCABULARY) - 1).sum()) < 0.01 * targets.numel()


def test_a_text_in_the_data_folder_is_taken(tmp_path, monkeypatch):
    (tmp_path / "input.txt").write_text("ab" * 100)
    monkeypatch.setenv("LANDSCAPE_DATA", str(tmp_path))
    assert set(spelt(text(context=4)[0])) == {"a", "b"}


def test_a_text_that_cannot_be_read_says_why(tmp_path):
    (tmp_path / "short").write_text("abc")
    (tmp_path / "latin").write_bytes(b"\xe9t\xe9" * 100)
    for arguments, message in [
        ({"split": "valid"}, "unknown split"),
        ({"context": 0}, "context=0"),
        ({"seed": -1}, "seed=-1"),
        ({"path": tmp_path / "short"}, "needs 65 characters, but the train part of the text has 3"),
        ({"path": tmp_path / "latin"}, "not UTF-8"),
        ({"path": tmp_path / "none"}, "is no file"),
        ({"path": tmp_path}, "holds no text.txt or input.txt"),
    ]:
        with pytest.raises(RequestError, match=message):
            text(**arguments)
