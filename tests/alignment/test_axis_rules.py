"""Groups counted by hand: perceptrons, convolutions, norms, recurrent networks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.alignment.permutations import Run
from landscape.alignment.symmetries import permutation_spec
from landscape.trainers.models import resnet8, resnet20
from tests.alignment.followed import IMAGES, SEQUENCES, VECTORS, Written, check


def test_hidden_layers_of_a_perceptron_are_one_group_each():
    model = nn.Sequential(
        nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)
    )
    spec = check(model, VECTORS, [7, 6])
    first, second = (Run(7, "0"),), (Run(6, "2"),)
    assert dict(spec.axes) == {
        "0.weight": (first, ()),
        "0.bias": (first,),
        "2.weight": (second, first),
        "2.bias": (second,),
        "3.weight": (second,),
        "3.bias": (second,),
        "5.weight": ((), second),
    }


def test_a_flattening_moves_blocks_and_running_statistics_move_too():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3, padding=1),
        nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(96, 10), nn.ReLU(), nn.Linear(10, 2),
    )  # fmt: skip
    spec = check(model, IMAGES, [8, 6, 10])
    assert spec.axes["6.weight"] == ((Run(10, "6"),), (Run(6, "3", block=16),))
    assert spec.axes["4.running_mean"] == spec.axes["4.running_var"] == ((Run(6, "3"),),)
    assert "4.num_batches_tracked" not in spec.axes


def test_channels_behind_space_are_repeated_runs():
    model = Written(
        lambda m, x: m.b(m.a(x).movedim(1, -1).flatten(1)), a=nn.Conv2d(3, 4, 5), b=nn.Linear(64, 2)
    )
    spec = check(model, IMAGES, [4])
    assert spec.axes["b.weight"] == ((), (Run(4, "a"),) * 16)


def test_a_residual_stream_is_one_group_up_to_its_projection():
    spec = check(resnet8(width=4), IMAGES, [4, 4, 8, 8, 16, 16])
    stream = spec.axes["4.conv2.weight"][0]
    assert spec.axes["4.shortcut.0.weight"] == (stream, spec.axes["0.weight"][0], (), ())
    assert spec.axes["5.conv1.weight"][1] == stream


def test_resnet20_has_a_group_for_each_stage_and_each_block():
    spec = permutation_spec(resnet20(), IMAGES)
    assert sorted(spec.sizes.values()) == [16] * 4 + [32] * 4 + [64] * 4


def test_a_shortcut_padded_with_zero_channels_ties_the_middle():
    def forward(m, x):
        x = m.a(x)
        padded = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return m.head((m.b(x) + padded).relu().mean((2, 3)))

    model = Written(
        forward, a=nn.Conv2d(3, 4, 3, padding=1), b=nn.Conv2d(4, 8, 3, 2, 1), head=nn.Linear(8, 2)
    )
    spec = check(model, IMAGES, [4, 2, 2])
    assert [run.group for run in spec.axes["head.weight"][1]] == ["b", "a", "b#2"]


def test_a_depthwise_convolution_follows_its_channels_and_multiplies_them():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 8, 3, groups=4),
        nn.ReLU(), nn.Conv2d(8, 2, 1),
    )  # fmt: skip
    spec = check(model, IMAGES, [4] + [2] * 4)
    assert spec.axes["1.weight"] == ((Run(4, "0"),), (), (), ())
    (run,) = spec.axes["4.weight"][1]
    assert (run.size, run.group, run.block, len(set(run.inner))) == (4, "0", 2, 4)


@pytest.mark.parametrize("transposed", [False, True])
def test_groups_of_a_convolution_move_as_blocks(transposed):
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    model = nn.Sequential(nn.Conv2d(3, 8, 1), kind(8, 12, 3, groups=2), nn.Conv2d(12, 4, 1))
    # The weight's axis that all groups share ties the units within them; the other is free.
    inner = [4, 4, 6] if transposed else [4, 6, 6]
    check(model, IMAGES, [2, *inner])


def test_group_norm_moves_groups_and_channels_within_them():
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    check(model, IMAGES, [2, 4, 4])


def test_group_norm_before_a_flattening_keeps_the_order_of_groups():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 5), nn.GroupNorm(2, 8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4)
    )
    check(model, IMAGES, [4, 4])


def test_concatenated_features_are_runs_of_one_axis():
    def forward(m, x):
        x = F.relu(m.a(x))
        x = torch.cat([x, F.relu(m.b(x))], 1)
        x = torch.cat([x, m.c(m.norm(x))], 1)
        return m.head(F.avg_pool2d(x, 2).flatten(1))

    model = Written(
        forward, a=nn.Conv2d(3, 8, 3, padding=1), b=nn.Conv2d(8, 4, 3, padding=1),
        norm=nn.BatchNorm2d(12), c=nn.Conv2d(12, 4, 3, padding=1), head=nn.Linear(256, 2),
    )  # fmt: skip
    spec = check(model, IMAGES, [8, 4, 4])
    assert spec.axes["norm.running_var"] == ((Run(8, "a"), Run(4, "b")),)
    runs = (Run(8, "a", block=16), Run(4, "b", block=16), Run(4, "c", block=16))
    assert spec.axes["head.weight"] == ((), runs)


def test_an_autoencoder_with_transposed_convolutions():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 5, 3, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(5, 7, 2, 2), nn.ReLU(), nn.ConvTranspose2d(7, 3, 2, 2),
    )  # fmt: skip
    spec = check(model, IMAGES, [8, 5, 7])
    assert spec.axes["4.weight"] == ((Run(5, "2"),), (Run(7, "4"),), (), ())


def test_a_net_with_skips_and_group_norm_over_a_concatenation():
    def forward(m, x):
        skip = m.norm(m.a(x)).relu()
        return m.out(m.norm2(torch.cat([skip, m.up(m.down(skip).relu())], 1)))

    model = Written(
        forward, a=nn.Conv2d(3, 8, 3, padding=1), norm=nn.GroupNorm(4, 8),
        down=nn.Conv2d(8, 16, 3, 2, 1), up=nn.ConvTranspose2d(16, 4, 2, 2),
        norm2=nn.GroupNorm(4, 12), out=nn.Conv2d(12, 3, 1),
    )  # fmt: skip
    # Groups of three cut pairs of channels: 2 | 1 1 | 2 | 2 and then 1 | 3 of the other branch.
    check(model, IMAGES, [16, 3, 2, 2, 2])


def test_a_gate_on_channels_follows_them():
    def forward(m, x):
        x = m.a(x)
        gate = torch.sigmoid(m.expand(F.relu(m.squeeze(x.mean((2, 3))))))
        return m.out(x * gate[:, :, None, None]).amax((2, 3))

    model = Written(
        forward, a=nn.Conv2d(3, 8, 3), squeeze=nn.Linear(8, 2), expand=nn.Linear(2, 8),
        out=nn.Conv2d(8, 4, 1),
    )  # fmt: skip
    spec = check(model, IMAGES, [8, 2])
    assert spec.axes["expand.bias"] == spec.axes["a.bias"]


def test_one_dimensional_and_three_dimensional_convolutions():
    one = nn.Sequential(nn.Conv1d(6, 4, 3), nn.BatchNorm1d(4), nn.MaxPool1d(2), nn.Flatten(),
                        nn.Linear(4, 2))  # fmt: skip
    check(one, SEQUENCES, [4])
    volume = torch.randn(2, 1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    three = nn.Sequential(nn.Conv3d(1, 4, 3), nn.ReLU(), nn.AvgPool3d(2), nn.Conv3d(4, 2, 1))
    check(three, volume, [4])


def test_normalised_weights_follow_their_units():
    norms = nn.utils.parametrizations
    model = nn.Sequential(
        norms.weight_norm(nn.Linear(5, 8)), nn.ReLU(), norms.spectral_norm(nn.Linear(8, 6)),
        nn.PReLU(6), nn.Linear(6, 2),
    )  # fmt: skip
    spec = check(model, VECTORS, [8, 6])
    assert spec.axes["2.parametrizations.weight.0._u"] == ((Run(6, spec_group(spec, "4.weight")),),)


def spec_group(spec, name):
    (run,) = next(axis for axis in spec.axes[name] if axis)
    return run.group


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_gates_of_a_recurrent_layer_follow_its_state(kind):
    model = Written(
        lambda m, x: m.head(m.layer(x)[0][:, -1]),
        layer=kind(5, 4, batch_first=True), head=nn.Linear(4, 2),
    )  # fmt: skip
    spec = check(model, SEQUENCES, [4])
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    assert spec.axes["layer.weight_hh_l0"] == ((Run(4, "layer"),) * gates, (Run(4, "layer"),))


def test_layers_and_directions_of_a_recurrent_network_are_groups_of_their_own():
    layer = nn.LSTM(5, 4, num_layers=2, bidirectional=True, batch_first=True)
    model = Written(lambda m, x: m.head(m.layer(x)[0][:, -1]), layer=layer, head=nn.Linear(8, 2))
    check(model, SEQUENCES, [4, 4, 4, 4])


def test_writing_into_parts_of_a_tensor_is_followed():
    def forward(m, x):
        out = x.new_zeros(len(x), 11)
        out[:, :8] = m.a(x).relu_()
        out[:, 8:] += m.b(x)
        out[:, 3:5].mul_(2.0)
        return m.c(out)

    model = Written(forward, a=nn.Linear(5, 8), b=nn.Linear(5, 3), c=nn.Linear(11, 2))
    check(model, VECTORS, [3, 2, 3, 3])


def test_experts_weighed_by_a_router_can_be_reordered():
    def forward(m, x):
        x = m.embed(x)
        hidden = torch.einsum("ni,kij->nkj", x, m.first).relu()
        each = torch.einsum("nkj,kjo->nko", hidden, m.second)
        return torch.einsum("nk,nko->no", m.router(x).softmax(-1), each)

    model = Written(
        forward, embed=nn.Linear(5, 8), router=nn.Linear(8, 4),
        first=nn.Parameter(torch.randn(4, 8, 6)), second=nn.Parameter(torch.randn(4, 6, 3)),
    )  # fmt: skip
    check(model, VECTORS, [4, 8, 6])


def test_units_summed_over_heads_may_not_differ_between_them():
    def forward(m, x):
        heads = m.a(x).unflatten(-1, (3, 4))
        return m.b(heads.mean(1)) + m.c(heads.flatten(1))

    model = Written(forward, a=nn.Linear(5, 12), b=nn.Linear(4, 2), c=nn.Linear(12, 2))
    spec = check(model, VECTORS, [3, 4])
    (run,) = spec.axes["a.weight"][0]
    assert len(run.inner) == 3
    assert len(set(run.inner)) == 1


def test_products_of_rows_with_each_other_tie_the_units_that_they_are_summed_over():
    def forward(m, x):
        rows = m.a(x).unflatten(-1, (3, 4))
        return m.b((rows @ rows.mT).flatten(1)) + m.c(rows.flatten(1))

    model = Written(forward, a=nn.Linear(5, 12), b=nn.Linear(9, 2), c=nn.Linear(12, 2))
    check(model, VECTORS, [3, 4])


@pytest.mark.parametrize(
    "operation",
    [
        lambda heads: heads.softmax(1),
        lambda heads: F.layer_norm(heads.mT, (3,)).mT,
        lambda heads: heads / heads.norm(dim=1, keepdim=True),
    ],
)
def test_entries_that_meet_along_an_axis_tie_what_stands_beside_it(operation):
    def forward(m, x):
        return m.b(operation(m.a(x).unflatten(-1, (3, 4))).flatten(1))

    model = Written(forward, a=nn.Linear(5, 12), b=nn.Linear(12, 2))
    check(model, VECTORS, [3, 4])
