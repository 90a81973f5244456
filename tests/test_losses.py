from functools import partial
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.errors import RequestError
from landscape.losses import resolve_loss
from landscape.objective import Objective

CPU = torch.device("cpu")
NUM_CLASSES = 4


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def classes(*shape, seed=1):
    return torch.randint(NUM_CLASSES, shape, generator=torch.Generator().manual_seed(seed))


X, LABELS = normal(10, 3), classes(10)


def linear(out=NUM_CLASSES):
    torch.manual_seed(0)
    return nn.Linear(3, out, dtype=torch.float64)


def split(*tensors, size):
    """Batches of `size`, the last one ragged."""
    return list(zip(*(tensor.split(size) for tensor in tensors), strict=True))


def value(model, data, loss, **options):
    return Objective(model, data, loss, **options).value


class TokenModel(nn.Module):
    """(n, T, 3) -> token logits (n, T, C), or (n, C, T)."""

    def __init__(self, *, classes_second=False):
        super().__init__()
        self.layer = linear()
        self.classes_second = classes_second

    def forward(self, tokens):
        logits = self.layer(tokens)
        return logits.movedim(-1, 1) if self.classes_second else logits


NAMED = {
    "cross_entropy": (F.cross_entropy, LABELS, NUM_CLASSES),
    "mse": (F.mse_loss, normal(10, 2, seed=2), 2),
    "bce": (F.binary_cross_entropy_with_logits, classes(10, 2) % 2, 2),
}


@pytest.mark.parametrize("size", [10, 9, 3])
@pytest.mark.parametrize("name", NAMED)
def test_named_losses_equal_torchs_on_any_batching(name, size):
    function, target, out = NAMED[name]
    model = linear(out)
    expected = function(model(X), target.double() if name == "bce" else target).item()
    assert value(model, split(X, target, size=size), name) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("size", [10, 9, 3])
@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(
            weight=torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64), label_smoothing=0.1
        ),
        nn.CrossEntropyLoss(ignore_index=1),
        nn.CrossEntropyLoss(reduction="sum"),
        nn.MultiMarginLoss(),
        F.cross_entropy,
        F.multi_margin_loss,
        partial(F.cross_entropy, label_smoothing=0.1),
        lambda output, target: F.cross_entropy(output, target),
        lambda output, target: F.cross_entropy(output, target, reduction="sum"),
    ],
    ids=str,
)
def test_torch_losses_keep_their_own_average_on_any_batching(loss, size):
    model = linear()
    expected = loss(model(X), LABELS).item()
    assert value(model, split(X, LABELS, size=size), loss) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("size", [10, 9, 3])
def test_class_probabilities_are_averaged_over_examples(size):
    model, target = linear(), F.softmax(normal(10, NUM_CLASSES, seed=5), 1)
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64)
    for loss in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(weight=weight)):
        expected = loss(model(X), target).item()
        assert value(model, split(X, target, size=size), loss) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("classes_second", [False, True])
@pytest.mark.parametrize("ignore_index", [-100, 255])
@pytest.mark.parametrize("weighted", [False, True])
def test_token_average_over_ragged_padding_equals_one_big_batch(
    classes_second, ignore_index, weighted
):
    tokens, target = normal(6, 5, 3), classes(6, 5)
    for row, kept in enumerate([5, 1, 2, 5, 3, 0]):
        target[row, kept:] = ignore_index
    weight = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=torch.float64) if weighted else None
    loss = nn.CrossEntropyLoss(weight=weight, ignore_index=ignore_index)
    model = TokenModel(classes_second=classes_second)
    logits = model.layer(tokens)
    expected = loss(logits.flatten(0, 1), target.flatten()).item()
    for size in (6, 5, 4, 1):
        objective = Objective(model, split(tokens, target, size=size), loss)
        assert objective.value == pytest.approx(expected, rel=1e-12)
        hits = (logits.argmax(-1) == target)[target != ignore_index]
        assert objective.metrics()["accuracy"] == pytest.approx(hits.double().mean().item())


def test_example_whose_every_token_is_left_out_has_no_loss_of_its_own():
    target = classes(2, 5)
    target[1] = -100
    losses = Objective(TokenModel(), (normal(2, 5, 3), target)).per_example()
    assert losses.isnan().tolist() == [False, True]


USERS_LOSSES = {
    "mean": lambda output, target: (output - target).square().mean(1).mean(),
    "vector": lambda output, target: (output - target).square().mean(1),
    "pair": lambda output, target: ((output - target).square().mean(1).sum(), len(target)),
    "tensor pair": lambda output, target: (
        (output - target).square().sum(),
        torch.tensor(target.numel()),
    ),
    "model": lambda model, batch: F.mse_loss(model(batch[0]), batch[1]),
    "batch": lambda f, batch: F.mse_loss(f(batch[0]), batch[1]),
}


@pytest.mark.parametrize("size", [10, 9, 3, 2, 1])
@pytest.mark.parametrize("kind", USERS_LOSSES)
def test_users_own_loss_is_read_as_the_mean_it_is(kind, size):
    model, target = linear(2), normal(10, 2, seed=2)
    objective = Objective(model, split(X, target, size=size), USERS_LOSSES[kind])
    assert objective.value == pytest.approx(F.mse_loss(model(X), target).item(), rel=1e-12)
    assert objective.loss_function.reduction == "mean"


@pytest.mark.parametrize("size", [10, 9, 3, 2])
def test_users_own_sum_is_found_to_be_one(size):
    model, target = linear(2), normal(10, 2, seed=2)
    objective = Objective(
        model,
        split(X, target, size=size),
        lambda output, target: F.mse_loss(output, target, reduction="sum"),
    )
    expected = F.mse_loss(model(X), target, reduction="sum")
    assert objective.value == pytest.approx(expected.item(), rel=1e-12)
    gradient = torch.autograd.grad(expected, list(model.parameters()))
    torch.testing.assert_close(objective.gradient(), objective.space.flatten(gradient))
    assert objective.loss() == pytest.approx(objective.value)
    if size < 10:
        assert any("sums over its batch" in note for note in objective.notes)


def test_reduction_sum_leaves_out_the_division():
    model, target = linear(2), normal(10, 2, seed=2)
    expected = F.mse_loss(model(X), target, reduction="sum").item()
    for loss in ("mse", F.mse_loss, USERS_LOSSES["vector"]):
        scale = 2 if loss is USERS_LOSSES["vector"] else 1  # it averages over two elements
        found = value(model, split(X, target, size=3), loss, reduction="sum")
        assert scale * found == pytest.approx(expected, rel=1e-12)


def test_loss_that_is_neither_mean_nor_sum_is_noted():
    objective = Objective(
        linear(), split(X, LABELS, size=5), lambda o, t: F.cross_entropy(o, t).square()
    )
    assert any("neither the mean nor the sum" in note for note in objective.notes)


def test_subclass_of_a_torch_loss_reduces_in_its_own_way():
    class Focal(nn.CrossEntropyLoss):
        def forward(self, output, target):
            losses = F.cross_entropy(output, target, reduction="none")
            return ((1 - (-losses).exp()).square() * losses).mean()

    model = linear()
    expected = Focal()(model(X), LABELS).item()
    assert value(model, split(X, LABELS, size=3), Focal()) == pytest.approx(expected, rel=1e-12)


def test_loss_module_may_take_the_model():
    class Penalised(nn.Module):
        def forward(self, model, batch):
            return F.cross_entropy(model(batch[0]), batch[1])

    model = linear()
    expected = F.cross_entropy(model(X), LABELS).item()
    assert value(model, split(X, LABELS, size=3), Penalised()) == pytest.approx(expected, rel=1e-12)


def test_loss_object_that_cannot_be_hashed_is_called():
    class Unhashable:
        __hash__ = None

        def __call__(self, output, target):
            return F.cross_entropy(output, target)

    expected = F.cross_entropy(linear()(X), LABELS).item()
    assert value(linear(), (X, LABELS), Unhashable()) == pytest.approx(expected)


def test_class_weights_follow_the_objectives_dtype_and_the_users_stay():
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 0.5, 3.0]))
    model = linear().float()
    found = value(model, (X.float(), LABELS), loss, dtype=torch.float64)
    exact = F.cross_entropy(model.double()(X.float().double()), LABELS, loss.weight.double())
    assert found == pytest.approx(exact.item(), rel=1e-12)
    assert loss.weight.dtype == torch.float32


def test_output_with_logits_is_taken_apart():
    class Wrapped(nn.Module):
        def __init__(self, wrap):
            super().__init__()
            self.layer, self.wrap = linear(), wrap

        def forward(self, inputs):
            return self.wrap(self.layer(inputs))

    expected = F.cross_entropy(linear()(X), LABELS).item()
    for wrap in (lambda y: SimpleNamespace(logits=y, loss=None), lambda y: {"logits": y}):
        batch = {"inputs": X, "labels": LABELS}
        assert value(Wrapped(wrap), batch, "cross_entropy") == pytest.approx(expected)
    with pytest.raises(RequestError, match="without 'logits'"):
        Objective(Wrapped(lambda y: (y, y)), (X, LABELS))
    raw = value(Wrapped(lambda y: (y, y)), (X, LABELS), lambda o, t: F.cross_entropy(o[0], t))
    assert raw == pytest.approx(expected)


class Add(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = linear()

    def forward(self, first, second):
        return self.layer(first + second)


def test_nested_inputs_are_the_models_arguments():
    expected = F.cross_entropy(linear()(3 * X), LABELS).item()
    for batch in [
        ((X, 2 * X), LABELS),
        ([X, 2 * X], LABELS),
        ({"second": 2 * X, "first": X}, LABELS),
        {"second": 2 * X, "first": X, "target": LABELS},
    ]:
        assert value(Add(), [batch], "cross_entropy") == pytest.approx(expected, rel=1e-12)
        assert value(Add(), batch, "cross_entropy", batch_size=3) == pytest.approx(expected)


@pytest.mark.parametrize("size", [10, 9, 3])
@pytest.mark.parametrize("flipped", [False, True])
def test_column_against_vector_is_not_broadcast(size, flipped):
    model = nn.Sequential(linear(1), *([nn.Flatten(0)] if flipped else []))
    target = normal(10, 1, seed=2) if flipped else normal(10, seed=2)
    expected = F.mse_loss(linear(1)(X).flatten(), target.flatten()).item()
    assert value(model, split(X, target, size=size), "mse") == pytest.approx(expected, rel=1e-12)
    binary = (target > 0).long()
    expected = F.binary_cross_entropy_with_logits(
        linear(1)(X).flatten(), binary.flatten().double()
    ).item()
    objective = Objective(model, split(X, binary, size=size), "bce")
    assert objective.value == pytest.approx(expected, rel=1e-12)
    right = (linear(1)(X).flatten() > 0) == binary.flatten().bool()
    assert objective.metrics()["accuracy"] == pytest.approx(right.double().mean().item())


def test_mean_squared_error_of_class_indices_hints_one_hot():
    with pytest.raises(RequestError, match=r"F.one_hot\(target, 4\)"):
        Objective(linear(), (X, LABELS), "mse")


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_shapes_that_would_broadcast_are_refused(loss):
    with pytest.raises(RequestError, match="every output against every target"):
        Objective(linear(2), (X, normal(10, seed=2)), loss)


def test_ambiguous_token_logits_are_refused():
    tokens, target = normal(5, NUM_CLASSES, 3), classes(5, NUM_CLASSES)
    with pytest.raises(RequestError, match="second or the last dimension"):
        Objective(TokenModel(), (tokens, target))


def test_class_shapes_that_do_not_fit_are_refused():
    with pytest.raises(RequestError, match="class indices need an output"):
        Objective(linear(), [(X, LABELS[:9])])
    with pytest.raises(RequestError, match="floating-point, so class probabilities"):
        Objective(linear(), (X, LABELS.double()))


def test_column_of_class_indices_is_squeezed():
    assert value(linear(), (X, LABELS[:, None]), "cross_entropy") == value(
        linear(), (X, LABELS), "cross_entropy"
    )


@pytest.mark.parametrize("wrong", [NUM_CLASSES, -1])
def test_labels_out_of_range_are_named(wrong):
    labels = LABELS.clone()
    labels[7] = wrong
    with pytest.raises(RequestError, match=rf"out of range: {wrong} in 1 places.*labels 0..3"):
        Objective(linear(), split(X, labels, size=3))


def test_all_labels_left_out_is_refused():
    with pytest.raises(RequestError, match="every target is left out"):
        Objective(linear(), (X, torch.full((10,), -100)))


def test_unknown_names_get_the_nearest():
    with pytest.raises(RequestError, match="Did you mean 'cross_entropy'"):
        resolve_loss("crossentropy", device=CPU)
    with pytest.raises(RequestError, match="Did you mean 'sum'"):
        resolve_loss("mse", "sums", device=CPU)


@pytest.mark.parametrize(
    "loss", [lambda output: 0, lambda a, b, c: 0, lambda a, b, *, c: 0, nn.ReLU()]
)
def test_loss_of_wrong_arity_is_refused(loss):
    with pytest.raises(RequestError, match="expected two arguments"):
        resolve_loss(loss, device=CPU)


def test_what_is_no_loss_is_refused():
    with pytest.raises(RequestError, match=r"expected an instance: CrossEntropyLoss\(\)"):
        resolve_loss(nn.CrossEntropyLoss, device=CPU)
    with pytest.raises(RequestError, match="the loss is a float"):
        resolve_loss(0.5, device=CPU)
    with pytest.raises(RequestError, match="returned a float"):
        Objective(linear(), (X, LABELS), lambda output, target: 0.5)
    with pytest.raises(RequestError, match=r"second part has shape \(10, 4\)"):
        Objective(linear(), (X, LABELS), lambda o, t: (F.cross_entropy(o, t), o))


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"inputs": X, "classes": LABELS}, "none of them is a target"),
        ([(X, LABELS, LABELS)], "tuple of 3 elements"),
        (X, "a batch is a Tensor"),
        ([(X, {"a": LABELS})], "target is a dict"),
    ],
)
def test_batches_that_are_not_input_and_target_are_refused(batch, words):
    with pytest.raises(RequestError, match=words):
        Objective(linear(), batch)


def test_loss_of_model_and_batch_takes_any_batch():
    assert value(linear(), X, lambda model, batch: model(batch).square().mean()) == pytest.approx(
        linear()(X).square().mean().item(), rel=1e-12
    )


def test_regression_to_integers_reports_no_accuracy():
    objective = Objective(linear(1), (X, LABELS[:, None]), "mse")
    assert set(objective.metrics()) == {"loss"}
