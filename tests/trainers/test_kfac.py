import math

import pytest
import torch
from torch import nn
from torch.autograd.functional import hessian
from torch.func import functional_call, jacrev

from landscape.errors import RequestError
from landscape.parameters import ParameterSpace
from landscape.trainers.kfac import KroneckerPosterior, kronecker_blocks
from landscape.trainers.models import cnn, mlp, transformer


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def seeded(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().double().eval()


def randn(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def gauss_newton(network, inputs, name, loss):
    """Dense Gauss-Newton matrix of the mean loss in one parameter."""
    parameters = dict(network.named_parameters())

    def outputs(value):
        return functional_call(network, {**parameters, name: value}, (inputs,))

    jacobian = jacrev(outputs)(parameters[name]).flatten(2)  # (n, C, P)
    logits = network(inputs)
    if loss == "bce":
        probability = logits.sigmoid()
        curvature = torch.diag_embed(probability * (1 - probability))
    else:
        probability = logits.softmax(1)
        curvature = torch.diag_embed(probability) - torch.einsum(
            "ni,nj->nij", probability, probability
        )
    return torch.einsum("nip,nij,njq->pq", jacobian, curvature, jacobian) / len(inputs)


def split(block, columns):
    """The block's part that belongs to the weight alone."""
    return torch.kron(block.outputs, block.inputs[:columns, :columns])


def test_one_softmax_layer_and_one_example_are_exact():
    network = seeded(lambda: nn.Linear(4, 3))
    inputs, target = randn(1, 4), torch.tensor([1])
    (block,) = kronecker_blocks(network, inputs, "cross_entropy")
    assert block.names == ("weight", "bias")

    def loss(both):
        logits = inputs @ both[:, :-1].T + both[:, -1]
        return nn.functional.cross_entropy(logits, target)

    both = torch.cat([network.weight, network.bias[:, None]], 1).detach()
    exact = hessian(loss, both).reshape(15, 15)
    found = torch.kron(block.outputs, block.inputs)
    torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("loss", ["cross_entropy", "bce"])
def test_every_layer_is_exact_for_one_example(loss):
    outputs = 1 if loss == "bce" else 3
    network = seeded(lambda: mlp(4, (5, 6), outputs, activation="tanh"))
    inputs = randn(1, 4)
    blocks = kronecker_blocks(network, inputs, loss)
    assert [block.names for block in blocks] == [
        ("1.weight", "1.bias"), ("3.weight", "3.bias"), ("5.weight", "5.bias")
    ]  # fmt: skip
    for block, columns in zip(blocks, (4, 5, 6), strict=True):
        exact = gauss_newton(network, inputs, block.names[0], loss)
        torch.testing.assert_close(split(block, columns), exact, rtol=1e-10, atol=1e-12)


def test_equal_examples_are_exact_too_and_the_last_layers_factors_are_means():
    network = seeded(lambda: nn.Linear(4, 3, bias=False))
    inputs = randn(1, 4).repeat(1100, 1)  # more than go through at a time
    (block,) = kronecker_blocks(network, inputs, "cross_entropy")
    exact = gauss_newton(network, inputs[:1], "weight", "cross_entropy")
    torch.testing.assert_close(torch.kron(block.outputs, block.inputs), exact)
    many = randn(700, 4, seed=1)
    (block,) = kronecker_blocks(network, many, "cross_entropy")
    torch.testing.assert_close(block.inputs, many.T @ many / 700)
    probability = network(many).softmax(1)
    mean = torch.diag(probability.mean(0)) - probability.T @ probability / 700
    torch.testing.assert_close(block.outputs, mean)


def test_a_convolution_that_covers_its_image_is_a_linear_layer():
    convolution = seeded(lambda: nn.Conv2d(2, 3, 4))
    linear = nn.Linear(32, 3).double()
    linear.weight.data, linear.bias.data = convolution.weight.flatten(1).data, convolution.bias.data
    inputs = randn(5, 2, 4, 4)
    (ours,) = kronecker_blocks(nn.Sequential(convolution, nn.Flatten()), inputs, "cross_entropy")
    (theirs,) = kronecker_blocks(linear, inputs.flatten(1), "cross_entropy")
    torch.testing.assert_close(ours.inputs, theirs.inputs)
    torch.testing.assert_close(ours.outputs, theirs.outputs)


def test_a_convolutions_block_is_a_sum_over_positions_of_independent_products():
    network = seeded(
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, stride=2, padding=1, bias=False), nn.Flatten())
    )
    inputs = randn(1, 1, 3, 3)  # (1, 2, 2, 2) behind the convolution
    (block,) = kronecker_blocks(network, inputs, "cross_entropy")
    windows = nn.functional.pad(inputs[0, 0], (1, 1, 1, 1)).unfold(0, 3, 2).unfold(1, 3, 2)
    rows = windows.reshape(4, 9)
    torch.testing.assert_close(block.inputs, rows.T @ rows)
    probability = network(inputs).softmax(1)[0]
    curvature = (torch.diag(probability) - torch.outer(probability, probability)).view(2, 4, 2, 4)
    torch.testing.assert_close(block.outputs, torch.einsum("itjt->ij", curvature) / 4)


def test_the_network_is_left_as_it_is():
    network = mlp(4, (5,), 3, norm="batch").train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    kronecker_blocks(network, randn(6, 4).float(), "cross_entropy")
    assert all(module.training for module in network.modules())
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


def test_frozen_weights_and_biases_have_no_block():
    network = seeded(lambda: mlp(4, (5,), 3))
    network[1].bias.requires_grad_(False)
    network[3].requires_grad_(False)
    (block,) = kronecker_blocks(network, randn(6, 4), "cross_entropy")
    assert block.names == ("1.weight",)
    assert block.inputs.shape == (4, 4)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, inputs):
        return self.layer(self.layer(inputs))


@pytest.mark.parametrize(
    ("network", "inputs", "message"),
    [
        (Twice(), torch.ones(2, 4), "layer is used twice"),
        (nn.Conv2d(4, 4, 1, groups=2), torch.ones(2, 4, 1, 1), "one group"),
        (nn.Conv2d(1, 4, 3, padding="same"), torch.ones(2, 1, 4, 4), "padding"),
        (nn.LayerNorm(4), torch.ones(2, 4), "no trained nn.Linear"),
        (transformer(11, 5, 8, 1, 2), torch.ones(2, 5, dtype=torch.int64), "whole examples"),
    ],
)
def test_what_has_no_kronecker_factors_is_refused(network, inputs, message):
    with pytest.raises(RequestError, match=message):
        kronecker_blocks(network, inputs, "cross_entropy")


# --- the posterior ---


def posterior(prior_precision=2.0, temperature=1.0, n=10):
    network = seeded(lambda: nn.Linear(3, 2))
    space = ParameterSpace(network)
    blocks = kronecker_blocks(network, randn(n, 3), "cross_entropy")
    theta = space.flatten(dict(network.named_parameters()))
    return KroneckerPosterior(theta, space, blocks, n, prior_precision, temperature)


def precision(found):
    (block,) = found.blocks
    matrix = found.num_examples * torch.kron(block.outputs, block.inputs)
    matrix = matrix + found.prior_precision * torch.eye(len(matrix), dtype=torch.float64)
    # From the weight with its bias behind each row to the order of the flat vector.
    order = [0, 1, 2, 4, 5, 6, 3, 7]
    return matrix[order][:, order]


@pytest.mark.parametrize("temperature", [1.0, 0.01])
def test_samples_have_the_posteriors_mean_and_covariance(temperature):
    found, count = posterior(temperature=temperature), 40_000
    drawn = found.samples(count, generator())
    exact = temperature * precision(found).inverse()
    error = (exact.diagonal() / count).sqrt()
    assert ((drawn.mean(0) - found.theta).abs() < 4.5 * error).all()
    spread = exact.diagonal()[:, None] * exact.diagonal() + exact.square()
    assert ((drawn.T.cov() - exact).abs() < 4.5 * (spread / count).sqrt()).all()


def test_the_same_generator_draws_the_same_in_the_weights_dtype():
    found = posterior()
    assert torch.equal(found.samples(3, generator(5)), found.samples(3, generator(5)))
    assert not torch.equal(found.samples(3, generator(5)), found.samples(3, generator(6)))


def test_the_log_evidence_is_that_of_the_gaussian_integral():
    found, mean_loss = posterior(prior_precision=0.7), 0.4
    matrix, size = precision(found), 8
    # log of exp(-n L) N(theta; 0, 1 / prior) (2 pi)^(P/2) det(precision)^(-1/2)
    prior = -0.5 * 0.7 * found.theta.square().sum() + 0.5 * size * math.log(0.7)
    expected = -10 * mean_loss + prior - 0.5 * matrix.logdet()
    assert found.log_evidence(mean_loss) == pytest.approx(expected.item(), rel=1e-12)


def test_parameters_without_a_block_stay_where_they_are():
    network = seeded(lambda: mlp(4, (5,), 3, norm="layer"))
    space = ParameterSpace(network)
    theta = space.flatten(dict(network.named_parameters()))
    blocks = kronecker_blocks(network, randn(6, 4), "cross_entropy")
    drawn = KroneckerPosterior(theta, space, blocks, 6, 1.0).samples(2, generator())
    for name in space.names:
        moved = (drawn - theta)[:, space.slice_of(name)]
        assert bool((moved != 0).all()) != name.startswith("2."), name


def test_a_convolutional_network_can_be_sampled():
    network = seeded(lambda: cnn(width=4))
    space = ParameterSpace(network)
    theta = space.flatten(dict(network.named_parameters()))
    blocks = kronecker_blocks(network, randn(3, 1, 8, 8), "cross_entropy")
    drawn = KroneckerPosterior(theta, space, blocks, 3, 1e12).samples(2, generator())
    torch.testing.assert_close(drawn, theta.repeat(2, 1), rtol=0, atol=1e-5)
