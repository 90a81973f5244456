"""The network of an objective on other inputs is the network of the objective."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.objective import Objective
from landscape.probes.answers import answers
from landscape.probes.features.network import classes_of, inputs_of, network_at, opened

N = 12


def data(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(N, 4, generator=generator, dtype=torch.float64), torch.arange(N) % 3


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 5, dtype=torch.float64),
        nn.BatchNorm1d(5, dtype=torch.float64),
        nn.Dropout(0.5),
        nn.Linear(5, 3, dtype=torch.float64),
    )


@pytest.mark.parametrize("bn", ["eval", "batch", "recalibrate"])
@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_on_the_data_it_answers_as_the_objective_does(bn, scale):
    objective = Objective(network(), data(), bn=bn)
    theta = scale * objective.theta
    with network_at(objective, theta) as asked:
        found = asked(data()[0])
    torch.testing.assert_close(found, answers(objective, theta).logits)


def test_other_inputs_are_normalised_by_the_statistics_of_the_data():
    objective = Objective(network(), data(), bn="recalibrate")
    others = 5 + 3 * data(1)[0]
    with network_at(objective) as asked:
        together = asked(others)
        apart = torch.cat([asked(others[:1]), asked(others[1:])])
    torch.testing.assert_close(together, apart)


def test_parameters_that_are_no_coordinates_keep_their_values():
    model = network()
    objective = Objective(model, data(), params="3.*")
    with torch.no_grad():
        model[0].weight.zero_()  # whoever goes on training does not change the objective
    with network_at(objective) as asked:
        torch.testing.assert_close(asked(data()[0]), answers(objective).logits)


def test_inputs_take_the_networks_precision():
    with network_at(Objective(network(), data())) as asked:
        assert asked(data()[0].float()).dtype == torch.float64


@pytest.mark.parametrize("bn", ["eval", "batch"])
def test_the_model_is_left_as_it_was(bn):
    model = network().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wrong = torch.ones(N, 7)
    with (
        pytest.raises(RuntimeError, match="shapes"),
        network_at(Objective(model, data(), bn=bn)) as asked,
    ):
        _ = asked(data()[0]), asked(wrong)
    assert all(part.training for part in model.modules())
    for name, tensor in model.state_dict().items():
        assert (tensor == before[name]).all()


def test_a_module_is_asked_in_eval_mode_and_left_in_its_own():
    model = network().train()
    model[1].eval()
    with opened(model) as asked:
        assert not asked(data()[0]).requires_grad
        assert (asked(data()[0]) == asked(data()[0])).all()
    with pytest.raises(RuntimeError, match="shapes"), opened(model) as asked:
        asked(torch.ones(N, 7).double())
    assert [part.training for part in model] == [True, False, True, True]


def test_a_function_has_no_theta():
    with pytest.raises(RequestError, match="theta is a point"), opened(network(), torch.ones(3)):
        pass


def test_logits_may_be_in_a_record():
    class Record:
        logits = torch.ones(2, 3)

    with opened(lambda _: Record()) as asked:
        assert asked(torch.ones(2)).shape == (2, 3)
    with opened(lambda _: "cat") as asked, pytest.raises(RequestError, match="returned a str"):
        asked(torch.ones(2))


def test_classes_of_one_logit_are_told_by_its_sign():
    logit = torch.tensor([-1.0, 0.0, 1e-30, 2.0])  # 0 is not above 0
    assert classes_of(logit).tolist() == [0, 0, 1, 1]
    assert classes_of(logit[:, None]).tolist() == [0, 0, 1, 1]


def test_classes_of_several_logits_are_the_largest():
    assert classes_of(torch.tensor([[1.0, 2.0], [0.0, -1.0]])).tolist() == [1, 0]
    with pytest.raises(RequestError, match=r"shape \(2, 3, 4\)"):
        classes_of(torch.ones(2, 3, 4))


@pytest.mark.parametrize(
    "batch",
    [(torch.ones(2), torch.zeros(2)), {"pixels": torch.ones(2), "labels": torch.zeros(2)}],
    ids=["pair", "mapping"],
)
def test_inputs_are_what_is_not_the_target(batch):
    assert inputs_of(batch).tolist() == [1, 1]


@pytest.mark.parametrize(
    "batch",
    [
        ((torch.ones(2), torch.ones(2)), torch.ones(2)),
        {"ids": torch.ones(2), "mask": torch.ones(2), "labels": torch.ones(2)},
        torch.ones(2),
    ],
    ids=["pair", "mapping", "tensor"],
)
def test_several_inputs_are_refused(batch):
    with pytest.raises(RequestError, match="one tensor of inputs"):
        inputs_of(batch)
