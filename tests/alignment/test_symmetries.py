"""Specifications derived and tested: what goes in, what stays in place, what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.alignment.permutations import PermutationSpec, Run
from landscape.alignment.symmetries import permutation_spec, verify
from landscape.errors import RequestError
from landscape.objective import Objective
from tests.alignment.followed import VECTORS, Written, check, small


def test_an_objective_brings_its_own_data():
    objective = Objective(small().eval(), (VECTORS, torch.tensor([0, 1, 0])))
    spec = permutation_spec(objective)
    assert spec.sizes == {"0": 4}
    assert verify(objective, spec) < 1e-12


def test_a_loss_that_calls_only_parts_of_the_model_is_refused():
    def loss(model, batch):
        return model[3](model[0](batch[0])).square().sum(1).mean()

    objective = Objective(small().eval(), [(VECTORS, VECTORS)], loss)
    with pytest.raises(RequestError, match="does not call the model itself"):
        permutation_spec(objective)
    assert permutation_spec(objective, VECTORS).sizes == {"0": 4}


def test_named_and_several_inputs_are_passed_on():
    model = Written(
        lambda m, x, shift=0.0: m.b(m.a(x) + shift), a=nn.Linear(5, 4), b=nn.Linear(4, 2)
    )
    assert permutation_spec(model, {"x": VECTORS, "shift": 1.0}).sizes == {"a": 4}
    assert permutation_spec(model, (VECTORS, 2.0)).sizes == {"a": 4}


def test_inputs_are_asked_for():
    with pytest.raises(RequestError, match="example_inputs is missing"):
        permutation_spec(small())


# -- what stays in place ---------------------------------------------------------------------
@pytest.mark.parametrize(
    "operation", [lambda x: x.cumsum(-1), lambda x: x.roll(1, -1), lambda x: x[:, ::2].repeat(1, 2)]
)
def test_what_depends_on_the_order_stays_in_place(operation):
    model = Written(
        lambda m, x: m.c(operation(m.b(m.a(x)))), a=nn.Linear(5, 6), b=nn.Linear(6, 8),
        c=nn.Linear(8, 2),
    )  # fmt: skip
    check(model, VECTORS, [6])


def test_an_operation_without_a_rule_is_noted_and_its_units_stay():
    model = Written(
        lambda m, x: m.c(m.b(m.a(x)).sort(-1)[0]), a=nn.Linear(5, 6), b=nn.Linear(6, 8),
        c=nn.Linear(8, 2),
    )  # fmt: skip
    note = "the operation 'sort' (1 time) is not followed: the units that enter it stay in place."
    check(model, VECTORS, [6], notes=(note,))


def test_outputs_of_all_kinds_stay_in_place():
    def forward(m, x):
        hidden = m.a(x)
        return {"logits": m.b(hidden), "more": (m.c(hidden), [hidden])}

    model = Written(forward, a=nn.Linear(5, 6), b=nn.Linear(6, 2), c=nn.Linear(6, 2))
    with pytest.raises(RequestError, match="nothing was found in Written"):
        permutation_spec(model, VECTORS)


# -- the test itself ------------------------------------------------------------------------


HIDDEN = (Run(4, "hidden"),)
RIGHT = {
    "0.weight": (HIDDEN, ()), "0.bias": (HIDDEN,), "1.weight": (HIDDEN,), "1.bias": (HIDDEN,),
    "1.running_mean": (HIDDEN,), "1.running_var": (HIDDEN,), "3.weight": ((), HIDDEN),
}  # fmt: skip


def blank():
    """A network that hides mistakes: every weight that can be is 0 or 1."""
    model = small()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model[1].weight.fill_(1.0)
    return model


def test_a_right_specification_by_hand_passes():
    assert verify(blank(), PermutationSpec(RIGHT), VECTORS) < 1e-12


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_a_forgotten_axis_is_found_even_where_all_weights_are_alike(name):
    spec = PermutationSpec({key: axes for key, axes in RIGHT.items() if key != name})
    with pytest.raises(RequestError, match="the group 'hidden' moves an axis"):
        verify(blank(), spec, VECTORS)


def test_only_the_groups_that_break_the_function_are_named():
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(6)))
    axes = {}
    for layer in range(6):
        into = (Run(4, f"h{layer - 1}"),) if layer else ()
        out = (Run(4, f"h{layer}"),) if layer < 5 else ()
        axes[f"{layer}.weight"] = (out, into)
        axes[f"{layer}.bias"] = (out,)
    axes["2.bias"] = ((),)
    axes["4.bias"] = ((),)
    with pytest.raises(RequestError, match="the groups 'h2', 'h4' move axes"):
        verify(model, PermutationSpec(axes), VECTORS[:, :4])


def test_a_specification_for_other_shapes_is_refused():
    with pytest.raises(RequestError, match=r"0\.bias has shape"):
        verify(small(), PermutationSpec({"0.bias": ((Run(5, "g"),),)}), VECTORS)


def test_a_group_that_fails_is_taken_out_of_a_derived_specification(monkeypatch):
    from landscape.alignment import tracing

    model = Written(
        lambda m, x: m.c(m.b(m.a(x).relu()).cumsum(-1)), a=nn.Linear(5, 6), b=nn.Linear(6, 8),
        c=nn.Linear(8, 2),
    )  # fmt: skip
    wrong = lambda call: [call.of("self")]  # noqa: E731
    monkeypatch.setitem(tracing._RULES, "cumsum", wrong)
    spec = permutation_spec(model, VECTORS)
    assert spec.sizes == {"a": 6}
    assert spec.axes["b.weight"] == ((), (Run(6, "a"),))
    assert "b.bias" not in spec.axes
    assert "the group 'b' did not pass the test" in spec.notes[0]


def test_a_network_that_computes_in_single_precision_is_tested_to_it():
    model = Written(
        lambda m, x: m.b(F.relu(m.a(x)).float().softmax(-1).double()), a=nn.Linear(5, 40),
        b=nn.Linear(40, 2),
    )  # fmt: skip
    spec = permutation_spec(model, VECTORS)
    assert spec.sizes == {"a": 40}
    assert spec.notes == ()
