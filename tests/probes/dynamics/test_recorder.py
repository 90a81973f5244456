"""A recorder writes down what a plain training loop presents, and leaves no trace in it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.dynamics.example_scores import ExampleScores
from landscape.probes.dynamics.histories import history
from landscape.probes.dynamics.measurements import MEASUREMENTS
from landscape.probes.dynamics.recorder import Recorder

N, C = 13, 3


def data():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, 4, generator=generator), torch.arange(N) % C


def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(N, 1, 6, 6, generator=generator), torch.arange(N) % C


def mlp():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, C))


def conv():
    torch.manual_seed(1)
    body = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(4, C))


def train(model, recorder, inputs, labels, *, epochs=3, batch_size=4, seed=2, start=0):
    """A plain loop; the order is drawn from the global generator, as a loader's is."""
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model.train()
    logged = []
    for epoch in range(epochs):
        table = torch.full((N, C), torch.nan, dtype=torch.float64)
        for at in torch.randperm(N).split(batch_size):
            logits = model(inputs[at])
            if epoch >= start and recorder is not None:
                recorder.record(at, logits, labels=labels[at])
            table[at] = logits.detach().double()
            optimizer.zero_grad()
            F.cross_entropy(logits, labels[at]).backward()
            optimizer.step()
        if epoch >= start and recorder is not None:
            recorder.end_epoch()
        logged.append(table)
    return torch.stack(logged)


def same(one, other, exact=True):
    for name, value in vars(one).items():
        if not isinstance(value, np.ndarray):
            assert value == getattr(other, name)
            continue
        tolerance = {} if exact else {"rtol": 1e-12, "atol": 1e-12}
        np.testing.assert_allclose(value, getattr(other, name), **(tolerance or {"rtol": 0}))


@pytest.mark.parametrize("batch_size", [13, 4, 6, 1])  # whole, ragged with one left, ones
def test_the_history_is_what_was_presented(batch_size):
    inputs, labels = data()
    recorder = Recorder(labels, C)
    logits = train(mlp(), recorder, inputs, labels, batch_size=batch_size)
    same(recorder.history, history(logits, labels, mode="presentation"))


def test_a_conv_net_with_batch_norm_in_a_plain_loop():
    inputs, labels = images()
    recorder = Recorder(labels, C)
    logits = train(conv(), recorder, inputs, labels, batch_size=6)
    same(recorder.history, history(logits, labels, mode="presentation"))


@pytest.mark.parametrize("make", [mlp, conv])
def test_recording_changes_nothing_in_the_run(make):
    inputs, labels = data() if make is mlp else images()
    silent, watched = make(), make()
    train(silent, None, inputs, labels, batch_size=6)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    train(watched, Recorder(labels, C), inputs, labels, batch_size=6)
    for name, tensor in silent.state_dict().items():
        assert torch.equal(tensor, watched.state_dict()[name]), name
    for one, other in zip(silent.parameters(), watched.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)
    assert torch.equal(state[0], torch.get_rng_state())
    assert state[1] == np.random.get_state()[1].tolist()  # noqa: NPY002


def test_without_history_the_scores_are_the_same():
    inputs, labels = data()
    kept, summed = Recorder(labels, C), Recorder(labels, C, history=False)
    train(mlp(), kept, inputs, labels)
    train(mlp(), summed, inputs, labels)
    same(kept.scores(), summed.scores(), exact=False)
    with pytest.raises(RequestError, match="keeps no history"):
        _ = summed.history


def test_no_step_reads_a_number_back(monkeypatch):
    inputs, labels = data()
    model, recorder = mlp(), Recorder(labels, C)
    logits = model(inputs)

    def refuse(*_):
        raise AssertionError("a step waited for the device")

    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "__index__", "cpu"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    recorder.record(torch.arange(N), logits, labels=labels)


def test_the_answers_are_detached_and_of_the_moment():
    inputs, labels = data()
    model, recorder = mlp().eval(), Recorder(labels, C)
    logits = model(inputs)
    kept = logits.detach().clone()
    recorder.record(torch.arange(N), logits)
    with torch.no_grad():
        logits.mul_(100)  # as activations that are changed in place
    recorder.end_epoch()
    same(recorder.history, history(kept[None], labels, mode="presentation"))


def test_permuted_ids_of_any_integer_kind_are_the_same():
    inputs, labels = data()
    logits = mlp()(inputs).detach()
    order = np.random.default_rng(0).permutation(N)
    found = []
    for at in (order, order.tolist(), torch.tensor(order, dtype=torch.int32)):
        recorder = Recorder(labels, C)
        recorder.record(at, logits[order])
        recorder.end_epoch()
        found.append(recorder.history)
    for one in found:
        same(one, history(logits[None], labels, mode="presentation"))


def test_an_example_that_a_dropped_batch_left_out_is_passed_over():
    _, labels = data()
    recorder = Recorder(labels, C)
    right = 4.0 * F.one_hot(labels, C)
    recorder.record(torch.arange(N), right)
    recorder.end_epoch()
    recorder.record(torch.arange(12), -right[:12])
    recorder.end_epoch()
    assert recorder.history.correct[1].tolist() == [0] * 12 + [-1]
    scores = recorder.scores()
    assert scores.forgetting.tolist() == [1] * 12 + [0]
    assert scores.times_presented.tolist() == [2] * 12 + [1]
    assert scores.learned.tolist() == [False] * 12 + [True]


def test_nan_logits_are_wrong_and_counted_and_the_run_goes_on():
    _, labels = data()
    recorder = Recorder(labels, C)
    logits = 4.0 * F.one_hot(labels, C)
    for broken in (0, 2):
        logits[:broken] = torch.nan
        recorder.record(torch.arange(N), logits)
        recorder.end_epoch()
    scores = recorder.scores()
    assert scores.num_undefined.tolist() == [1, 1] + [0] * 11
    assert scores.forgetting.tolist() == [1, 1] + [0] * 11
    assert np.isnan(scores.aum[:2]).all()
    assert np.isfinite(scores.aum[2:]).all()


def test_a_mistake_on_the_way_is_raised_and_the_next_epoch_is_clean():
    inputs, labels = data()
    logits = mlp()(inputs)
    recorder = Recorder(labels, C)
    with pytest.raises(RequestError, match=r"indices out of range: 13 \.\.\. 13"):
        recorder.record(torch.tensor([N]), logits[:1])
    with pytest.raises(RequestError, match="labels are others"):
        recorder.record(torch.arange(N), logits, labels=labels.roll(1))
    with pytest.raises(RequestError, match="nothing was recorded"):
        recorder.end_epoch()
    recorder.record(torch.arange(N), logits)
    recorder.record(torch.arange(2), logits[:2])
    with pytest.raises(RequestError, match="example 0 was presented 2 times"):
        recorder.end_epoch()
    with pytest.raises(RequestError, match="no time yet"):
        recorder.scores()
    recorder.record(torch.arange(N), logits)
    recorder.end_epoch(time=5)
    assert recorder.times.tolist() == [5]
    recorder.record(torch.arange(N), logits)
    with pytest.raises(RequestError, match="expected a later one"):
        recorder.end_epoch(time=5)


def test_a_step_is_a_time_where_examples_are_drawn_with_replacement():
    _, labels = data()
    recorder = Recorder(labels, C, history=False)
    generator = torch.Generator().manual_seed(0)
    right = torch.zeros(N)
    for _ in range(20):
        at = torch.randint(N, (4,), generator=generator).unique()
        recorder.record(at, torch.randn(len(at), C, generator=generator))
        recorder.end_epoch()
        right[at] += 1
    assert recorder.scores().times_presented.tolist() == right.tolist()


# -- views --------------------------------------------------------------------------------------


def test_views_are_an_axis_together_or_one_by_one():
    _, labels = data()
    logits = torch.randn(N, 2, C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together, alone, mixed = (Recorder(labels, C, num_augmentations=2) for _ in range(3))
    together.record(torch.arange(N), logits)
    for view in (1, 0):
        alone.record(torch.arange(N), logits[:, view], augmentation=view)
    views = torch.arange(N) % 2
    for which in (views, 1 - views):
        mixed.record(torch.arange(N), logits[torch.arange(N), which], augmentation=which)
    for recorder in (together, alone, mixed):
        recorder.end_epoch()
        found = recorder.history
        assert found.correct.shape == (1, N, 2)
        for view in range(2):
            single = history(logits[None, :, view], labels)
            for name in MEASUREMENTS:
                np.testing.assert_array_equal(
                    getattr(found, name)[..., view], getattr(single, name)
                )


# -- evaluation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [True, False])
def test_an_evaluation_is_in_evaluation_mode_and_leaves_no_trace(training):
    inputs, labels = images()
    model = conv().train(training)
    model[1].eval()  # somebody froze one layer
    model(inputs).sum().backward()
    before = copy.deepcopy(model.state_dict())
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    recorder = Recorder(labels, C, mode="eval")
    recorder.evaluate(model, (inputs, labels))
    with torch.no_grad():
        expected = copy.deepcopy(model).eval()(inputs)
    found = recorder.history
    np.testing.assert_allclose(found.margin, history(expected[None], labels).margin, rtol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    pairs = zip(gradients, model.parameters(), strict=True)
    assert all(torch.equal(gradient, parameter.grad) for gradient, parameter in pairs)
    assert modes == [module.training for module in model.modules()]
    assert torch.equal(state, torch.get_rng_state())


def test_each_evaluation_is_of_the_weights_and_statistics_of_its_moment():
    inputs, labels = images()
    model, recorder = conv(), Recorder(labels, C, mode="eval")
    expected = []
    for _ in range(3):
        recorder.evaluate(model, (inputs, labels))
        with torch.no_grad():
            expected.append(copy.deepcopy(model).eval()(inputs))
        train(model, None, inputs, labels, epochs=1, batch_size=6)
    wanted = history(torch.stack(expected), labels)
    np.testing.assert_allclose(recorder.history.margin, wanted.margin, atol=1e-5)
    assert len(np.unique(wanted.margin[:, 0])) == 3


def test_scores_do_not_depend_on_the_order_or_the_company_of_examples():
    inputs, labels = images()
    model, order = conv(), torch.randperm(N, generator=torch.Generator().manual_seed(0))
    one, other = Recorder(labels, C, mode="eval"), Recorder(labels[order], C, mode="eval")
    one.evaluate(model, (inputs, labels))
    shuffled = list(zip(inputs[order].split(5), labels[order].split(5), strict=True))
    other.evaluate(model, shuffled)
    np.testing.assert_allclose(
        other.scores().aum, one.scores().aum[order.numpy()], rtol=1e-4, atol=1e-6
    )


class Failing(nn.Module):
    """Raises at the third pass, inside a training-mode subtree."""

    def __init__(self):
        super().__init__()
        self.inner, self.fails = mlp(), False

    def forward(self, inputs):
        if self.fails:
            raise RuntimeError("out of memory")
        return self.inner(inputs)


def test_the_mode_is_restored_after_an_exception_and_nothing_is_recorded():
    inputs, labels = data()
    model, recorder = Failing().train(), Recorder(labels, C, mode="eval")
    recorder.evaluate(model, (inputs, labels))
    model.fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        recorder.evaluate(model, (inputs, labels))
    assert all(module.training for module in model.modules())
    assert recorder.times.tolist() == [0]
    model.fails = False
    recorder.evaluate(model, (inputs, labels))
    assert recorder.times.tolist() == [0, 1]


def test_an_objective_is_evaluated_at_any_point():
    inputs, labels = data()
    objective = Objective(mlp(), (inputs, labels))
    recorder = Recorder(labels, C, mode="eval")
    recorder.evaluate(objective)
    recorder.evaluate(objective, torch.zeros_like(objective.theta), time=10)
    assert recorder.history.times.tolist() == [0, 10]
    np.testing.assert_allclose(recorder.history.loss[1], np.log(C))
    np.testing.assert_allclose(recorder.history.loss[0].mean(), objective.value, rtol=1e-6)
    with pytest.raises(RequestError, match="brings its data itself"):
        recorder.evaluate(objective, (inputs, labels))


def test_views_are_rows_of_the_data_example_by_example():
    inputs, labels = data()
    views = torch.stack([inputs, 2 * inputs], 1).flatten(0, 1)
    model, recorder = mlp(), Recorder(labels, C, mode="eval", num_augmentations=2)
    recorder.evaluate(model, (views, labels.repeat_interleave(2)))
    single = Recorder(labels, C, mode="eval")
    single.evaluate(model, (2 * inputs, labels))
    np.testing.assert_allclose(
        recorder.history.margin[..., 1], single.history.margin, rtol=1e-5, atol=1e-6
    )


def test_other_examples_or_labels_are_refused():
    inputs, labels = data()
    model, recorder = mlp(), Recorder(labels, C, mode="eval")
    with pytest.raises(RequestError, match="labels are others than the recorder's"):
        recorder.evaluate(model, (inputs, labels.roll(1)))
    with pytest.raises(
        RequestError, match=r"the network gave logits \(12, 3\), expected \(13, 3\)"
    ):
        recorder.evaluate(model, (inputs[1:], labels[1:]))
    with pytest.raises(RequestError, match="lacks the data"):
        recorder.evaluate(model, None)
    recorder.evaluate(model, (inputs, labels))
    with pytest.raises(RequestError, match="other examples"):
        recorder.evaluate(model, (inputs.flip(1), labels))


def test_a_mode_is_not_taken_for_the_other():
    inputs, labels = data()
    with pytest.raises(RequestError, match="has mode='presentation'"):
        Recorder(labels, C).evaluate(mlp(), (inputs, labels))
    recorder = Recorder(labels, C, mode="eval")
    with pytest.raises(RequestError, match="has mode='eval'"):
        recorder.record(torch.arange(N), mlp()(inputs))
    with pytest.raises(RequestError, match="has mode='eval'"):
        recorder.end_epoch()
    with pytest.raises(RequestError, match="unknown mode 'train'"):
        Recorder(labels, C, mode="train")


# -- what it is of, and between two runs --------------------------------------------------------


def test_hashes_tell_labels_and_examples_apart():
    inputs, labels = data()
    recorder = Recorder(labels, C, examples=inputs)
    assert recorder.label_hash == Recorder(labels.tolist(), C).label_hash
    assert recorder.label_hash != Recorder(labels.flip(0), C).label_hash
    assert recorder.example_hash == Recorder(labels, C, examples=inputs.numpy()).example_hash
    assert recorder.example_hash != Recorder(labels, C, examples=inputs + 1).example_hash
    assert Recorder(labels, C).example_hash == ""


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("open_time", [True, False])
def test_an_interrupted_run_goes_on(tmp_path, keep, open_time):
    inputs, labels = data()
    logits = torch.randn(3, N, C, generator=torch.Generator().manual_seed(0))
    whole = Recorder(labels, C, history=keep, examples=inputs)
    going = Recorder(labels, C, history=keep, examples=inputs)
    halves = torch.arange(N).split(7)
    stop = 3 if open_time else 2  # in the middle of the second epoch, or before it
    for step, (epoch, at) in enumerate((e, at) for e in range(3) for at in halves):
        if step == stop:
            going.save(tmp_path / "recorder.npz")
            going = Recorder.load(tmp_path / "recorder.npz", labels)
        for recorder in (whole, going):
            recorder.record(at, logits[epoch, at])
            if step % 2:
                recorder.end_epoch()
    same(going.scores(), whole.scores())
    assert isinstance(going.scores(), ExampleScores)
    assert (going.example_hash, going.mode) == (whole.example_hash, whole.mode)
    assert going.keeps_history is keep
    if keep:
        same(going.history, whole.history)


def test_an_interrupted_evaluation_goes_on_with_the_same_examples_only(tmp_path):
    inputs, labels = data()
    model, recorder = mlp(), Recorder(labels, C, mode="eval")
    recorder.evaluate(model, (inputs, labels))
    recorder.save(tmp_path / "recorder.npz")
    again = Recorder.load(tmp_path / "recorder.npz")
    with pytest.raises(RequestError, match="other examples"):
        again.evaluate(model, (inputs + 1, labels))
    again.evaluate(model, (inputs, labels))
    assert again.times.tolist() == [0, 1]


def test_a_new_recorder_can_be_kept_too(tmp_path):
    _, labels = data()
    Recorder(labels, C).save(tmp_path / "recorder.npz")
    again = Recorder.load(tmp_path / "recorder.npz")
    assert again.keeps_history
    assert len(again.times) == 0


def test_files_of_others_are_refused(tmp_path):
    _, labels = data()
    path = tmp_path / "recorder.npz"
    Recorder(labels, C).save(path)
    with pytest.raises(RequestError, match="belongs to other labels"):
        Recorder.load(path, labels.flip(0))
    with pytest.raises(RequestError, match="cannot keep the recorder"):
        Recorder(labels, C).save(tmp_path / "none" / "recorder.npz")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(RequestError, match="cannot be read as a recorder"):
        Recorder.load(path)
    np.savez(path, a=np.zeros(3))
    with pytest.raises(RequestError, match="cannot be read as a recorder"):
        Recorder.load(path)
    with pytest.raises(RequestError, match="cannot be read as a recorder"):
        Recorder.load(tmp_path / "absent.npz")


def test_impossible_recorders_are_refused():
    with pytest.raises(RequestError, match="two classes"):
        Recorder([0, 0], 1)
    with pytest.raises(RequestError, match="one augmentation"):
        Recorder([0, 1], 2, num_augmentations=0)
    with pytest.raises(RequestError, match="there are 2 classes"):
        Recorder([0, 2], 2)
    with pytest.raises(RequestError, match="labels is empty"):
        Recorder(np.zeros(0, dtype=int), 2)
