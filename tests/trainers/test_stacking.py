import contextlib
import copy

import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.trainers.models import cnn, mlp
from landscape.trainers.stacking import concatenated, stack


class Tied(nn.Module):
    """One matrix under two names, and a buffer that no state dict holds."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("shift", torch.randn(4), persistent=False)

    def forward(self, inputs):
        return self.head(torch.tanh(self.embed(inputs)) + self.shift)


def frozen_head():
    model = mlp(4, (5,), 3)
    model[-1].requires_grad_(False)
    return model


def with_statistics():
    model = cnn(1, 2, 3)
    model(torch.randn(6, 1, 8, 8))
    return model.eval()


KINDS = {
    "mlp": lambda: mlp(4, (5,), 3),
    "frozen": frozen_head,
    "tied": Tied,
    "cnn": with_statistics,
}


def models(kind, number=3):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [KINDS[kind]().double() for _ in range(number)]


def inputs(kind, *more):
    shape = (1, 8, 8) if kind == "cnn" else (4,)
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*more, 6, *shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_gives_the_outputs_of_its_members(kind):
    networks = models(kind)
    together = stack(networks)
    shared, own = inputs(kind), inputs(kind, 3)
    for m, network in enumerate(networks):
        torch.testing.assert_close(together(shared)[m], network(shared))
        torch.testing.assert_close(together(own, shared=False)[m], network(own[m]))
        rest = {name: tensor[m] for name, tensor in together.rest.items()}
        alone = together.network(together.blocks(together.theta[m]), rest)
        torch.testing.assert_close(alone(shared), network(shared))


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_is_the_network_that_was_stacked(kind):
    networks = models(kind)
    together = stack(networks)
    for m, network in enumerate(networks):
        member = together.member(m)
        tensors = [*network.named_parameters(), *network.named_buffers()]
        held = dict([*member.named_parameters(), *member.named_buffers()])
        assert held.keys() == dict(tensors).keys()
        assert all(torch.equal(held[name], tensor) for name, tensor in tensors)
        assert [p.requires_grad for p in member.parameters()] == [
            p.requires_grad for p in network.parameters()
        ]
        assert member.training == network.training
    if kind == "tied":
        assert member.head.weight is member.embed.weight


def test_theta_holds_the_trainable_parameters_only():
    together = stack(models("frozen"))
    assert together.theta.shape == (3, 4 * 5 + 5)
    assert set(together.frozen) == {"3.weight", "3.bias"}
    assert stack(models("tied")).theta.shape == (3, 16)


def test_the_networks_are_copied():
    networks = models("cnn")
    before = [copy.deepcopy(network.state_dict()) for network in networks]
    together = stack(networks)
    together.theta.zero_()
    for tensor in together.rest.values():
        tensor.zero_()
    for network, state in zip(networks, before, strict=True):
        assert all(torch.equal(network.state_dict()[name], t) for name, t in state.items())


def test_members_are_selected_joined_and_copied():
    together = stack(models("cnn"))
    chosen = together.select([2, 0, 2])
    assert torch.equal(chosen.theta, together.theta[[2, 0, 2]])
    assert all(torch.equal(chosen.buffers[k], b[[2, 0, 2]]) for k, b in together.buffers.items())
    joined = concatenated([together, chosen])
    assert len(joined) == 6
    assert torch.equal(joined.theta, torch.cat([together.theta, chosen.theta]))
    copied = together.clone()
    copied.theta.zero_()
    assert together.theta.abs().sum() > 0


def test_precision_changes_and_whole_numbers_stay_whole():
    single = stack(models("cnn")).to(dtype=torch.float32)
    assert single.theta.dtype == single.space.dtype == torch.float32
    assert single.buffers["1.num_batches_tracked"].dtype == torch.int64
    assert single(inputs("cnn").float()).dtype == torch.float32


def test_a_mode_ends_with_its_block_module_by_module():
    network = models("cnn", 1)[0].train()
    network[1].eval()
    together = stack([network])
    with contextlib.suppress(KeyError), together.mode(training=False):
        assert not any(module.training for module in together.template.modules())
        raise KeyError
    assert together.template.training
    assert not together.template[1].training
    assert together.template[4].training


def changed(change):
    model = mlp(4, (5,), 3)
    change(model)
    return model


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Linear(4, 3), "it is a Linear, not a Sequential"),
        (mlp(4, (6,), 3), "1.weight is"),
        (mlp(4, (5,), 3).double(), "float64"),
        (mlp(4, (5,), 3, "tanh"), "module '2' is Tanh"),
        (changed(lambda m: m[1].requires_grad_(False)), "requires_grad"),
        (changed(lambda m: m[2].eval()), "module '2' is in another mode"),
        (nn.Sequential(*mlp(4, (5,), 3), nn.Softmax(-1)), "module '4' is in one of them only"),
    ],
)
def test_networks_of_other_shape_are_refused_with_what_differs(other, message):
    with pytest.raises(RequestError, match=f"model 1 cannot be stacked on model 0: .*{message}"):
        stack([mlp(4, (5,), 3), other])


def test_two_dropout_rates_do_not_run_as_one():
    rates = [nn.Sequential(nn.Linear(2, 2), nn.Dropout(rate)) for rate in (0.1, 0.5)]
    with pytest.raises(RequestError, match=r"Dropout\(p=0.5"):
        stack(rates)


def test_no_networks_are_refused():
    with pytest.raises(RequestError, match="no models to stack"):
        stack([])
