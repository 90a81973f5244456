import random
from collections import UserDict, namedtuple

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from landscape.batches import Batches, batch_length, preserved_rng, slice_batch, tensors_of
from landscape.errors import RequestError
from landscape.objective import Objective

CPU = torch.device("cpu")
X = torch.arange(40, dtype=torch.float64).view(10, 4)
Y = torch.arange(10)
Pair = namedtuple("Pair", ["inputs", "target"])


class Rows(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return X[index], int(Y[index])


class Reused:
    """A loader that hands out the same memory for every batch."""

    def __init__(self):
        self.buffer = torch.empty(5, 4, dtype=torch.float64)

    def __iter__(self):
        for part, target in zip(X.split(5), Y.split(5), strict=True):
            self.buffer.copy_(part)
            yield self.buffer, target


def joined(batches):
    """All inputs, all targets, and the batches' lengths."""
    parts = [list(tensors_of(batch).values()) for batch in batches]
    return [torch.cat(column) for column in zip(*parts, strict=True)], [len(p[0]) for p in parts]


FORMS = {
    "tensors": lambda: (X, Y),
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "dict": lambda: {"x": X, "y": Y},
    "UserDict": lambda: UserDict(x=X, y=Y),
    "namedtuple": lambda: Pair(X, Y),
    "TensorDataset": lambda: TensorDataset(X, Y),
    "Dataset": Rows,
    "DataLoader": lambda: DataLoader(Rows(), batch_size=4),
    "list": lambda: list(zip(X.split(3), Y.split(3), strict=True)),
    "tuple": lambda: tuple(zip(X.split(3), Y.split(3), strict=True)),
    "generator": lambda: (pair for pair in zip(X.split(3), Y.split(3), strict=True)),
    "mappings": lambda: [{"x": x, "y": y} for x, y in zip(X.split(3), Y.split(3), strict=True)],
    "reused buffer": Reused,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_holds_the_same_examples_in_every_pass(form):
    batches = Batches(FORMS[form](), device=CPU)
    assert batches.num_examples == 10
    for _ in range(2):
        (inputs, targets), lengths = joined(batches)
        assert torch.equal(inputs, X)
        assert torch.equal(targets, Y)
        assert len(lengths) == len(batches) == batches.num_batches


@pytest.mark.parametrize("form", [form for form in FORMS if form != "generator"])
def test_without_a_cache_the_same_batches_are_read_again(form):
    whole = Batches(FORMS[form](), device=CPU)
    for budget in (0, 200):
        batches = Batches(FORMS[form](), device=CPU, cache_bytes=budget)
        assert not batches.is_cached
        assert batches.fingerprint == whole.fingerprint
        for _ in range(2):
            for ours, theirs in zip(joined(batches)[0], joined(whole)[0], strict=True):
                assert torch.equal(ours, theirs)


def test_single_tensor_is_a_batch():
    assert [batch.shape for batch in Batches(X, device=CPU)] == [(10, 4)]
    assert [batch.shape for batch in Batches(X.numpy(), device=CPU, batch_size=6)] == [
        (6, 4),
        (4, 4),
    ]


@pytest.mark.parametrize("form", ["tensors", "arrays", "dict", "UserDict", "namedtuple", "Dataset"])
def test_batch_size_splits_and_the_last_batch_is_ragged(form):
    assert joined(Batches(FORMS[form](), device=CPU, batch_size=4))[1] == [4, 4, 2]


@pytest.mark.parametrize(
    ("form", "kind"), [("dict", dict), ("UserDict", UserDict), ("namedtuple", Pair)]
)
def test_batches_keep_the_type_that_the_model_expects(form, kind):
    batches = Batches(FORMS[form](), device=CPU, batch_size=5)
    assert all(type(batch) is kind for batch in batches)


def test_nested_inputs_are_one_batch_not_two():
    for inputs in [(X, X), [X, X], {"a": X, "b": X}]:
        batches = Batches((inputs, Y), device=CPU, batch_size=6)
        assert joined(batches)[1] == [6, 4]
        assert [len(batch) for batch in batches] == [2, 2]


def test_what_is_not_per_example_stays_whole():
    mask = torch.ones(7, 7)
    half = slice_batch({"x": X, "y": Y, "mask": mask, "k": 3}, 0, 5, 10)
    assert batch_length(half) == 5
    assert half["mask"].shape == (7, 7)
    assert half["k"] == 3


def test_batches_are_copies_of_the_users_data():
    inputs = X.clone()
    batches = Batches([(inputs, Y)], device=CPU)
    inputs.zero_()
    assert torch.equal(next(iter(batches))[0], X)


def test_dtype_converts_floating_point_tensors_only():
    inputs, targets = next(iter(Batches((X, Y), device=CPU, dtype=torch.float32)))
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)


def test_inference_tensors_become_tensors_that_autograd_can_save():
    with torch.inference_mode():
        inputs = torch.ones(4, 2)
    for budget in (None, 0):
        for batch in Batches([inputs], device=CPU, cache_bytes=budget):
            assert not batch.is_inference()


def test_fingerprint_sees_a_changed_value_and_a_changed_order():
    changed = X.clone()
    changed[3, 1] += 1e-12
    prints = {
        Batches(data, device=CPU).fingerprint for data in [(X, Y), (changed, Y), (X.flip(0), Y)]
    }
    assert len(prints) == 3


@pytest.mark.parametrize("data", [[], (), iter([]), (X[:0], Y[:0]), {"x": X[:0]}])
def test_empty_data_is_refused(data):
    with pytest.raises(RequestError, match="no batch"):
        Batches(data, device=CPU)


def test_exhausted_iterator_is_refused():
    pairs = zip(X.split(3), Y.split(3), strict=True)
    list(pairs)
    with pytest.raises(RequestError, match="used up"):
        Batches(pairs, device=CPU)


def test_one_shot_iterator_larger_than_the_cache_is_refused():
    with pytest.raises(RequestError, match="one-shot iterator larger"):
        Batches(FORMS["generator"](), device=CPU, cache_bytes=100)


def test_loader_that_is_empty_on_its_second_pass_is_refused_when_it_is_not_cached():
    class Once:
        def __init__(self):
            self.pairs = FORMS["generator"]()

        def __iter__(self):
            return self.pairs

    assert joined(Batches(Once(), device=CPU))[1] == [3, 3, 3, 1]
    with pytest.raises(RequestError, match="disagree at batch 0"):
        list(Batches(Once(), device=CPU, cache_bytes=0))


def test_loader_that_grows_is_refused_when_it_is_not_cached():
    pairs = [(X, Y)]
    batches = Batches(pairs, device=CPU, cache_bytes=0)
    pairs.append((X, Y))
    with pytest.raises(RequestError, match="disagree at batch 1"):
        list(batches)


def test_nan_in_the_data_is_refused_by_place_and_infinity_is_not():
    spoilt = X.clone()
    spoilt[7, 2] = torch.nan
    with pytest.raises(RequestError, match=r"batch 1, element 'x', 1 of 20"):
        Batches({"x": spoilt, "y": Y}, device=CPU, batch_size=5)
    Batches((torch.full((2, 2), -torch.inf), Y[:2]), device=CPU)


def test_mismatched_lengths_are_refused():
    with pytest.raises(RequestError, match="hold 10 and 9 examples"):
        Batches((X, Y[:9]), device=CPU)


@pytest.mark.parametrize("budget", [None, 0])
def test_shuffling_loader_is_named(budget):
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True)
    with pytest.raises(RequestError, match=r"shuffles or augments.*shuffle=False"):
        Batches(loader, device=CPU, cache_bytes=budget)


def test_augmenting_data_set_is_named():
    class Noisy(Rows):
        def __getitem__(self, index):
            return X[index] + np.random.rand(), Y[index]  # noqa: NPY002

    with pytest.raises(RequestError, match="augments"):
        Batches(Noisy(), device=CPU)


def random_states():
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return (random.getstate(), kind, keys.tobytes(), *rest, bytes(torch.get_rng_state().numpy()))


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("shuffle", [False, True])
def test_reading_a_loader_leaves_all_random_generators(budget, shuffle):
    own = torch.Generator().manual_seed(3)
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=shuffle, generator=own)
    before, own_before = random_states(), own.get_state()
    if shuffle:
        with pytest.raises(RequestError):
            Batches(loader, device=CPU, cache_bytes=budget)
    else:
        list(Batches(loader, device=CPU, cache_bytes=budget))
    assert random_states() == before
    assert torch.equal(own.get_state(), own_before)


def test_abandoned_pass_over_uncached_batches_does_not_set_the_generators_back():
    loader = DataLoader(TensorDataset(X, Y), batch_size=4)
    started = iter(Batches(loader, device=CPU, cache_bytes=0))
    next(started)
    torch.rand(1)
    before = random_states()
    started.close()
    assert random_states() == before


def test_preserved_rng_restores_after_an_exception():
    def draw_and_fail():
        torch.rand(1), np.random.rand(), random.random()  # noqa: NPY002
        raise KeyError

    before = random_states()
    with pytest.raises(KeyError), preserved_rng(CPU):
        draw_and_fail()
    assert random_states() == before


def test_batch_size_is_refused_where_it_cannot_be_meant():
    with pytest.raises(RequestError, match="set it in your DataLoader"):
        Batches(DataLoader(Rows()), device=CPU, batch_size=3)
    with pytest.raises(RequestError, match="batch_size is 0"):
        Batches((X, Y), device=CPU, batch_size=0)


def test_iterable_data_set_asks_for_a_loader():
    class Stream(IterableDataset):
        def __iter__(self):
            yield from zip(X, Y, strict=True)

    with pytest.raises(RequestError, match="Wrap it: DataLoader"):
        Batches(Stream(), device=CPU)
    assert Batches(DataLoader(Stream(), batch_size=4), device=CPU).num_examples == 10


@pytest.mark.parametrize("data", [3, "train.csv", None])
def test_what_is_no_data_is_refused(data):
    with pytest.raises(RequestError, match="expected tensors"):
        Batches(data, device=CPU)


def test_batch_without_tensors_is_refused():
    with pytest.raises(RequestError, match="holds no tensor"):
        Batches([["a", "b"]], device=CPU)


def test_numpy_floats_become_the_models_dtype_and_tensors_stay_what_they_are():
    model = torch.nn.Linear(3, 2)
    inputs, targets = np.ones((4, 3)), np.zeros(4, dtype=np.int64)
    assert inputs.dtype == np.float64
    whole = Objective(model, (inputs, targets))
    listed = Objective(model, [(inputs[:3], targets[:3]), (inputs[3:], targets[3:])])
    assert whole.value == pytest.approx(listed.value)
    with pytest.raises(RequestError, match="dtype"):
        Objective(model, (torch.from_numpy(inputs), torch.from_numpy(targets)))


def test_a_strided_slice_of_one_example_is_fingerprinted_like_any_other():
    labels = torch.arange(8).reshape(4, 2)[:, 0]
    inputs = torch.randn(4, 3)
    ragged = list(zip(inputs.split(3), labels.split(3), strict=True))
    again = list(zip(inputs.split(3), labels.clone().split(3), strict=True))
    device = torch.device("cpu")
    assert Batches(ragged, device=device).fingerprint == Batches(again, device=device).fingerprint
