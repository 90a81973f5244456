import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.errors import RequestError
from landscape.trainers.examples import Examples, evaluate, loss_task, mean_outcomes
from landscape.trainers.models import mlp
from landscape.trainers.stacking import stack


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def networks(outputs=3, number=2, norm=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return stack([mlp(4, (5,), outputs, norm=norm).double() for _ in range(number)])


def labels(*shape, classes=3):
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(9))


class Identity(nn.Module):
    """Outputs are the inputs, so that logits can be prescribed."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, inputs):
        return inputs * self.scale


def test_outcomes_of_classes_follow_by_hand():
    logits, targets = normal(7, 4), labels(7, classes=4)
    found = evaluate(stack([Identity()]), Examples(logits, targets), "cross_entropy")
    for i, (row, target) in enumerate(zip(logits, targets, strict=True)):
        probability = row.exp()[target] / row.exp().sum()
        others = [value for c, value in enumerate(row) if c != target]
        assert found.probability[0, i].item() == pytest.approx(probability.item())
        assert found.loss[0, i].item() == pytest.approx(-probability.log().item())
        assert found.margin[0, i].item() == pytest.approx((row[target] - max(others)).item())
        assert found.correct[0, i] == (row[target] > max(others))


def test_outcomes_of_two_classes_follow_by_hand():
    logits, targets = normal(9, 1) * 3, labels(9, 1, classes=2).double()
    found = evaluate(stack([Identity()]), Examples(logits, targets), "bce")
    probability = torch.where(targets > 0, logits.sigmoid(), 1 - logits.sigmoid()).flatten()
    torch.testing.assert_close(found.probability[0], probability)
    torch.testing.assert_close(found.loss[0], -probability.log())
    torch.testing.assert_close(found.margin[0], torch.where(targets > 0, logits, -logits)[:, 0])
    assert torch.equal(found.correct[0], probability > 0.5)


def test_each_position_of_a_sequence_is_an_example():
    logits, targets = normal(3, 5, 4), labels(3, 5, classes=4)
    found = evaluate(stack([Identity()]), Examples(logits, targets), "cross_entropy")
    flat = Examples(logits.flatten(0, 1), targets.flatten())
    expected = evaluate(stack([Identity()]), flat, "cross_entropy")
    for name, value in vars(expected).items():
        assert torch.equal(getattr(found, name), value)


@pytest.mark.parametrize("sets", ["shared", "targets", "both"])
@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_pieces_of_any_size_give_the_same_outcomes(monkeypatch, sets, loss):
    members, examples = networks(3 if loss == "cross_entropy" else 1), of_sets(sets, loss)
    whole = evaluate(members, examples, loss)
    assert whole.loss.shape == (2, 11)
    # Four rows at a time: 4 doubles, two members.
    monkeypatch.setattr("landscape.trainers.examples._MEMBER_BYTES", 4 * 4 * 8 * 16 * 2)
    calls, call = [], type(members).__call__
    monkeypatch.setattr(type(members), "__call__", lambda *a, **k: calls.append(1) or call(*a, **k))
    pieces = evaluate(members, examples, loss)
    assert len(calls) == 3
    for name, value in vars(whole).items():
        torch.testing.assert_close(getattr(pieces, name), value, rtol=1e-13, atol=1e-14)


def of_sets(sets, loss):
    inputs, targets = normal(2, 11, 4), labels(2, 11)
    if loss == "bce":
        targets = (targets > 1).double().unsqueeze(-1)
    which = torch.tensor([1, 0])
    return {
        "shared": Examples(inputs[0], targets[0]),
        "targets": Examples(inputs[0], targets, None, which),
        "both": Examples(inputs, targets, which, which),
    }[sets]


@pytest.mark.parametrize("sets", ["targets", "both"])
def test_each_member_is_judged_on_its_own_set(sets):
    members, examples = networks(), of_sets(sets, "cross_entropy")
    found = mean_outcomes(evaluate(members, examples, "cross_entropy"))
    for m, which in enumerate([1, 0]):
        inputs = examples.inputs[which] if sets == "both" else examples.inputs
        logits, targets = members.member(m)(inputs), examples.targets[which]
        assert found["loss"][m].item() == pytest.approx(F.cross_entropy(logits, targets).item())
        share = (logits.argmax(1) == targets).double().mean().item()
        assert found["accuracy"][m].item() == share


def test_evaluation_runs_in_evaluation_mode_and_leaves_the_mode_and_the_statistics():
    members = networks(norm="batch")
    examples = of_sets("shared", "cross_entropy")
    before = {name: buffer.clone() for name, buffer in members.buffers.items()}
    found = evaluate(members, examples, "cross_entropy")
    expected = F.cross_entropy(members.member(0).eval()(examples.inputs), examples.targets)
    assert found.loss[0].mean().item() == pytest.approx(expected.item())
    assert not found.loss.requires_grad
    assert members.template.training
    assert all(torch.equal(members.buffers[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("sets", ["shared", "targets", "both"])
def test_examples_are_gathered_member_by_member(sets):
    examples = of_sets(sets, "cross_entropy")
    indices = torch.tensor([[3, 0, 10], [5, 5, 1]])
    inputs, targets = examples.gather(indices)
    for m, which in enumerate([1, 0]):
        x = examples.inputs[which] if sets == "both" else examples.inputs
        y = examples.targets if sets == "shared" else examples.targets[which]
        assert torch.equal(inputs[m], x[indices[m]])
        assert torch.equal(targets[m], y[indices[m]])
    assert len(examples) == 11
    assert examples.is_shared == (sets != "both")


def test_precision_changes_for_inputs_and_not_for_labels():
    single = of_sets("both", "cross_entropy").to(dtype=torch.float32)
    assert (single.inputs.dtype, single.targets.dtype) == (torch.float32, torch.int64)
    assert single.target_set.tolist() == [1, 0]


def test_training_losses_are_those_of_torch():
    logits, targets = normal(3, 5, 4), labels(3, 5, classes=4)
    found = loss_task("cross_entropy")(lambda x: x, logits, targets)
    assert torch.equal(found, F.cross_entropy(logits.view(15, 4), targets.view(15)))
    one, truth = normal(6, 1), labels(6, 1, classes=2).double()
    found = loss_task("bce")(lambda x: x, one, truth)
    assert torch.equal(found, F.binary_cross_entropy_with_logits(one, truth))


@pytest.mark.parametrize("call", [loss_task, lambda name: evaluate(None, None, name)])
def test_a_misspelt_loss_gets_the_nearest_one(call):
    with pytest.raises(RequestError, match="Did you mean 'cross_entropy'"):
        call("cross_entropi")


def test_the_squared_loss_is_the_mean_over_classes_and_the_output_the_probability():
    network = nn.Linear(2, 3, dtype=torch.float64)
    inputs = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    classes = torch.tensor([0, 2, 1, 1])
    targets = nn.functional.one_hot(classes, 3).double()
    found = evaluate(stack([network]), Examples(inputs, targets), "mse")
    outputs = network(inputs).detach()
    for example, true in enumerate(classes.tolist()):
        row = outputs[example]
        other = max(row[c].item() for c in range(3) if c != true)
        assert found.loss[0, example].item() == pytest.approx(
            sum((row[c].item() - (c == true)) ** 2 for c in range(3)) / 3
        )
        assert found.margin[0, example].item() == pytest.approx(row[true].item() - other)
        assert found.probability[0, example].item() == pytest.approx(row[true].item())
        assert found.correct[0, example].item() == (row[true].item() > other)
    mean = loss_task("mse")(network, inputs, targets)
    assert mean.item() == pytest.approx(found.loss.mean().item())
    assert mean.item() == pytest.approx(nn.MSELoss()(outputs, targets).item())
