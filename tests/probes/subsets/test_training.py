from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.probes.subsets.memorization import memorization
from landscape.probes.subsets.training import Training, run_subsets
from landscape.trainers.data.splits import subset_masks
from landscape.trainers.learnability import child_seeds
from landscape.trainers.orders import Orders

pytestmark = pytest.mark.slow  # networks are trained

FAST = Training(epochs=8, batch_size=99, learning_rate=0.5, chunk=6)


def network():
    return nn.Linear(2, 3)


def clusters(n=30, seed=0):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, n)
    points = generator.normal(size=(n, 2)) + 3 * np.eye(3)[labels][:, :2]
    return torch.tensor(points, dtype=torch.float32), torch.tensor(labels)


def equal(one, other):
    for name in ("masks", "correct", "values", "correct_test", "values_test"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_networks_learn_their_own_subsets_and_all_examples_are_asked():
    data, test = clusters(), clusters(10, seed=1)
    runs = run_subsets(network, data, test, num_subsets=6, ratio=0.5, seed=3, training=FAST)
    assert runs.masks.shape == runs.correct.shape == runs.values.shape == (6, 30)
    assert runs.correct_test.shape == runs.values_test.shape == (6, 10)
    assert (runs.sizes == 15).all()
    assert runs.num_in.max() - runs.num_in.min() <= 1
    assert runs.correct[runs.masks].mean() > 0.8
    assert runs.labels.tolist() == data[1].tolist()
    assert runs.labels_test.tolist() == test[1].tolist()
    untrained = run_subsets(
        network, data, num_subsets=6, seed=3, training=replace(FAST, learning_rate=1e-9)
    )
    assert runs.correct.mean() > untrained.correct.mean() + 0.2
    assert len(np.unique(untrained.values[:, 0])) == 6  # each began with weights of its own
    assert np.abs(runs.values - untrained.values).min(1).max() > 0
    assert len(memorization(runs).value) == 30


def test_no_two_networks_are_alike_and_all_repeat_with_the_seed():
    before = torch.get_rng_state()
    first, again, other = (
        run_subsets(network, clusters(), clusters(5, 1), num_subsets=5, seed=s, training=FAST)
        for s in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    equal(first, again)
    assert len(np.unique(first.values[:, 0])) == 5
    assert len(np.unique(first.masks, axis=0)) == 5
    assert not np.array_equal(first.masks, other.masks)
    assert not np.array_equal(first.values, other.values)


def test_a_factory_may_take_the_seed_by_place_or_by_name():
    seen = []

    def by_place(number):
        seen.append(number)
        return network()

    def by_name(width=6, seed=0):
        seen.append(seed)
        return network()

    plain = run_subsets(network, clusters(), clusters(3), num_subsets=3, training=FAST)
    for factory in (by_place, by_name):
        seen.clear()
        equal(run_subsets(factory, clusters(), clusters(3), num_subsets=3, training=FAST), plain)
        assert len(set(seen)) == 3


def test_what_a_network_is_not_shown_does_not_change_it():
    (inputs, labels), masks = clusters(), subset_masks(30, 6, 0.5, seed=0)
    other = inputs.clone()
    other[4] += 50
    one, two = (
        run_subsets(network, (x, labels), masks=masks, training=FAST) for x in (inputs, other)
    )
    rest = np.arange(30) != 4
    unseen = ~masks[:, 4].numpy()
    np.testing.assert_array_equal(one.values[unseen][:, rest], two.values[unseen][:, rest])
    assert (one.values[~unseen][:, rest] != two.values[~unseen][:, rest]).any(1).all()


def double():
    inputs, labels = clusters()
    return (inputs.double(), labels), lambda: network().double()


def test_networks_side_by_side_are_those_trained_alone_batch_by_batch():
    data, model = double()
    settings = {"epochs": 3, "batch_size": 7, "learning_rate": 0.2}  # three batches of 21
    together, alone = (
        run_subsets(model, data, num_subsets=3, training=Training(**settings, chunk=chunk))
        for chunk in (3, 1)
    )
    np.testing.assert_allclose(together.values, alone.values, atol=1e-10)
    settings["batch_size"] = 99
    whole = run_subsets(model, data, num_subsets=3, training=Training(**settings))
    assert np.abs(whole.values - alone.values).max() > 1e-3


def test_the_step_is_that_of_sgd_written_out():
    inputs, labels = clusters()
    inputs = inputs.double()
    masks = torch.zeros(1, 30, dtype=torch.bool)
    masks[0, ::3] = True
    made = []

    def model(seed):
        made.append(network().double())
        return made[-1]

    training = Training(epochs=3, batch_size=4, learning_rate=0.3, momentum=0.8, weight_decay=0.1)
    found = run_subsets(model, (inputs, labels), masks=masks, training=training)
    own = made[-1]
    optimizer = torch.optim.SGD(own.parameters(), lr=0.3, momentum=0.8, weight_decay=0.1)
    orders = Orders(child_seeds(0, 1), 30, 4, masks.nonzero()[:, 1][None])
    for step in range(9):  # 10 examples in batches of 4, 4 and 2
        batch = orders.batch(step)[0][0]
        assert set(batch.tolist()) <= set(range(0, 30, 3))
        optimizer.zero_grad()
        nn.functional.cross_entropy(own(inputs[batch]), labels[batch]).backward()
        optimizer.step()
    logits = own(inputs).detach()
    p = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    np.testing.assert_allclose(found.values[0], (p / (1 - p)).log(), atol=1e-10)
    np.testing.assert_array_equal(found.correct[0], logits.argmax(1) == labels)


def test_subsets_of_several_sizes_come_back_in_their_order():
    masks = torch.zeros(3, 30, dtype=torch.bool)
    for row, size in enumerate((9, 4, 9)):
        masks[row, row : row + size] = True
    data, model = double()
    found = run_subsets(model, data, masks=masks, training=FAST)
    np.testing.assert_array_equal(found.masks, masks)
    alone = run_subsets(model, data, masks=masks, training=replace(FAST, chunk=1))
    np.testing.assert_allclose(found.values, alone.values, atol=1e-9)
    first = run_subsets(model, data, masks=masks[:1], training=FAST)
    np.testing.assert_allclose(found.values[0], first.values[0], atol=1e-9)


class KilledError(Exception):
    pass


def test_a_killed_run_goes_on_bit_for_bit_and_trains_nothing_twice(tmp_path):
    data, test, made = clusters(), clusters(5, 1), []

    def model(seed):
        made.append(seed)
        return network()

    def kill(done, total, words):
        if done == 2:
            raise KilledError

    options = {"num_subsets": 3, "training": replace(FAST, chunk=1), "seed": 2}
    whole = run_subsets(model, data, test, **options)
    with pytest.raises(KilledError):
        run_subsets(model, data, test, **options, state=tmp_path / "state", progress=kill)
    assert len(list((tmp_path / "state").glob("*.npz"))) == 2
    made.clear()
    steps = []
    back = run_subsets(
        model,
        data,
        test,
        **options,
        state=tmp_path / "state",
        progress=lambda done, total, words: steps.append(done),
    )
    equal(back, whole)
    assert steps == [1, 2, 3]
    assert len(made) == 2  # the last one, and one by which the request is known
    assert not list((tmp_path / "state").iterdir())


def test_a_state_of_another_request_is_refused(tmp_path):
    def kill(done, total, words):
        raise KilledError

    def run(model=network, data=None, test=None, **options):
        wanted = {"num_subsets": 4, "training": FAST, "state": tmp_path, "progress": kill}
        return run_subsets(model, data or clusters(), test, **{**wanted, **options})

    with pytest.raises(KilledError):
        run()
    changes = [
        {"seed": 1},
        {"ratio": 0.4},
        {"num_subsets": 5},
        {"training": replace(FAST, epochs=13)},
        {"data": clusters(seed=5)},
        {"test": clusters(4)},
        {"model": lambda: nn.Sequential(nn.Linear(2, 3), nn.ReLU())},
    ]
    for change in changes:
        with pytest.raises(RequestError, match="networks of another request"):
            run(**change)
    (tmp_path / "file").touch()
    with pytest.raises(RequestError, match="cannot be written"):
        run(state=tmp_path / "file")


def test_running_statistics_and_dropout_are_those_of_evaluation():
    def model():
        return nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))

    data = clusters()
    found = run_subsets(model, data, data, num_subsets=2, training=FAST)
    np.testing.assert_array_equal(found.values, found.values_test)  # no dropout
    # Nor statistics of the batch.
    alone = run_subsets(model, data, (data[0][:1], data[1][:1]), num_subsets=2, training=FAST)
    np.testing.assert_allclose(alone.values_test[:, 0], found.values[:, 0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratio": 0.01}, r"subsets \[0, 1, 2\] are empty"),
        ({"masks": np.ones((3, 7))}, r"masks has shape \(3, 7\) for 30 examples"),
        ({"data": (torch.zeros(4, 2), [0, 1])}, "for 2 labels"),
        (
            {"model": lambda: nn.Linear(2, 2)},
            r"shape \(1, 2\), expected \(1, C\) logits with C >= 3",
        ),
        ({"model": lambda: nn.Sequential(network(), nn.Flatten(0))}, r"shape \(3,\)"),
    ],
)
def test_wrong_requests_are_refused(change, message):
    options = {"model": network, "data": clusters(), "num_subsets": 3, "training": FAST, **change}
    with pytest.raises(RequestError, match=message):
        run_subsets(options.pop("model"), options.pop("data"), **options)


def test_settings_that_train_nothing_are_refused():
    for wrong in ({"epochs": 0}, {"chunk": 0}, {"batch_size": 0}, {"learning_rate": 0.0}):
        with pytest.raises(RequestError, match="from 1 on"):
            Training(**wrong)
