import math

import pytest
import torch
from torch import nn

from landscape.trainers.averaging import (
    angles,
    average,
    barriers,
    clones,
    combined,
    distances,
    diversity,
    log_probabilities,
    recalibrated,
)
from landscape.trainers.examples import Examples, evaluate
from landscape.trainers.stacking import concatenated, stack


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def network(seed, *, norm=False, dtype=torch.float64):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [nn.Linear(3, 6), *([nn.BatchNorm1d(6)] if norm else []), nn.Tanh()]
        return nn.Sequential(*layers, nn.Linear(6, 4)).to(dtype)


def examples(n=30, dtype=torch.float64):
    inputs = torch.randn(n, 3, generator=generator(), dtype=torch.float64).to(dtype)
    return Examples(inputs, torch.randint(0, 4, (n,), generator=generator(1)))


# --- weights ---


@pytest.mark.parametrize("k", [1, 2, 3, 7])
def test_the_average_of_equal_weights_is_these_weights(k):
    one = stack([network(0, dtype=torch.float32)])
    soup = average(one.select([0] * k), examples(dtype=torch.float32), "cross_entropy")
    assert len(soup) == 1
    assert torch.equal(soup.theta, one.theta)


def test_three_weights_count_a_third_each():
    members = stack([network(seed) for seed in range(3)])
    units = torch.zeros_like(members.theta)
    units[0, 0], units[1, 1], units[2, 2] = 1.0, 1.0, 1.0
    soup = average(members.at(units), examples(), "cross_entropy")
    assert soup.theta[0, :4].tolist() == [1 / 3, 1 / 3, 1 / 3, 0]


def test_frozen_weights_are_averaged_like_the_others():
    models = [network(seed) for seed in range(2)]
    for model in models:
        model[-1].requires_grad_(False)
    soup = average(stack(models), examples(), "cross_entropy").member(0)
    expected = (models[0][-1].weight + models[1][-1].weight) / 2
    torch.testing.assert_close(soup[-1].weight, expected, rtol=1e-14, atol=1e-15)


def test_the_soups_batch_norm_statistics_are_those_of_all_examples_at_its_weights():
    data = examples()
    soup = average(stack([network(seed, norm=True) for seed in range(2)]), data, "cross_entropy")
    before_norm = soup.member(0)[0](data.inputs)
    torch.testing.assert_close(soup.buffers["1.running_mean"][0], before_norm.mean(0))
    torch.testing.assert_close(soup.buffers["1.running_var"][0], before_norm.var(0))


def test_recalibration_goes_member_by_member_and_copies():
    data, members = examples(), stack([network(seed, norm=True) for seed in range(3)])
    both = recalibrated(members, data, "cross_entropy")
    for index in range(3):
        alone = recalibrated(members.select([index]), data, "cross_entropy")
        for name in ("1.running_mean", "1.running_var"):
            assert torch.equal(both.buffers[name][index], alone.buffers[name][0])
    assert torch.equal(members.buffers["1.running_mean"], torch.zeros(3, 6))
    plain = stack([network(0)])
    assert torch.equal(recalibrated(plain, data, "cross_entropy").theta, plain.theta)


def test_an_angle_does_not_depend_on_lengths():
    vector = torch.randn(50, generator=generator(), dtype=torch.float64)
    rows = torch.stack([vector, 3 * vector, 1e-5 * vector, -2 * vector])
    expected = torch.tensor([0, 0, 0, math.pi], dtype=torch.float64)
    torch.testing.assert_close(angles(rows, vector), expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("angle", [1e-9, 1e-4, 0.5, math.pi / 2, 3.0])
def test_angles_keep_their_digits_also_where_arccos_would_lose_them(angle):
    row = torch.tensor([[7 * math.cos(angle), 7 * math.sin(angle)]], dtype=torch.float64)
    found = angles(row, torch.tensor([0.1, 0.0], dtype=torch.float64)).item()
    assert found == pytest.approx(angle, rel=1e-12)


def test_distances_are_euclidean():
    theta = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    assert distances(theta, torch.zeros(2)).tolist() == [5.0, 0.0]


def test_clones_are_found_among_members_that_are_not():
    members = stack([network(seed) for seed in range(3)]).select([0, 1, 0, 2, 1])
    assert clones(members) == [(0, 2), (1, 4)]
    assert clones(stack([network(seed) for seed in range(3)])) == []


@pytest.mark.parametrize(("offset", "are_clones"), [(1e-8, True), (1e-5, False)])
def test_a_clone_may_differ_by_rounding_only(offset, are_clones):
    members = stack([network(0), network(0)])
    members.theta[1] *= 1 + offset
    assert clones(members) == ([(0, 1)] if are_clones else [])


def test_members_that_differ_in_a_frozen_head_or_are_not_finite_are_no_clones():
    first, second = network(0), network(0)
    for model in (first, second):
        model[-1].requires_grad_(False)
    second[-1].weight.data += 1
    assert clones(stack([first, second])) == []
    members = stack([network(0), network(0)])
    assert clones(members.at(members.theta * torch.nan)) == []


def test_the_barrier_of_a_line_is_its_greatest_height_above_the_chord():
    # The loss rises by 1.6 nats from one end to the other: above the chord is not above an end.
    inputs, members = examples().inputs, stack([network(seed) for seed in (1, 2)])
    members = members.at(members.theta * torch.tensor([[6.0], [3.0]], dtype=torch.float64))
    data = Examples(inputs, members.member(0)(inputs).argmax(1))
    line = [members.theta[0].lerp(members.theta[1], i / 10) for i in range(11)]
    losses = evaluate(members.select([0] * 11).at(torch.stack(line)), data, "cross_entropy").loss
    losses = losses.mean(1).tolist()
    heights = [
        loss - (losses[0] + i / 10 * (losses[-1] - losses[0])) for i, loss in enumerate(losses)
    ]
    found = barriers(members.select([0, 1, 0]), data, "cross_entropy").tolist()
    assert found == [0.0, pytest.approx(max(heights), abs=1e-12), pytest.approx(0, abs=1e-12)]
    assert 0.2 < max(heights) < 0.5


def test_permuted_units_are_the_same_function_behind_a_barrier():
    first = network(0)
    with torch.no_grad():
        first[0].weight *= 5
        first[2].weight *= 5
    second = network(0)
    order = torch.tensor([3, 5, 4, 0, 2, 1])
    second[0].weight.data, second[0].bias.data = first[0].weight[order], first[0].bias[order]
    second[2].weight.data, second[2].bias.data = first[2].weight[:, order], first[2].bias
    data = examples()
    members = stack([first, second])
    # Labels of their own making, so that both ends have a low loss.
    data = Examples(data.inputs, first(data.inputs).argmax(1))
    losses = evaluate(members, data, "cross_entropy").loss.mean(1)
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-12)
    assert barriers(members, data, "cross_entropy")[1] > 0.1
    assert barriers(members.select([0, 0]), data, "cross_entropy")[1] < 1e-12


# --- predictions ---


def test_an_ensemble_averages_probabilities():
    data, members = examples(), stack([network(seed) for seed in range(3)])
    probability = torch.stack([members.member(i)(data.inputs).softmax(1) for i in range(3)])
    mean = probability.mean(0)
    found = combined(log_probabilities(members, data, "cross_entropy"), data.targets)
    row = torch.arange(30)
    assert found.loss == pytest.approx(-mean[row, data.targets].log().mean().item(), rel=1e-12)
    assert found.accuracy == (mean.argmax(1) == data.targets).double().mean().item()
    expected = -probability[:, row, data.targets].log().mean(1)
    torch.testing.assert_close(found.losses, expected)
    assert found.accuracies.shape == (3,)


def test_an_ensemble_of_certain_and_wrong_members_keeps_a_finite_loss():
    logits = torch.tensor([[[0.0, 1e4]], [[0.0, 2e4]]], dtype=torch.float64)
    found = combined(logits.log_softmax(-1), torch.tensor([0]))
    assert found.loss == pytest.approx(1e4 + math.log(2))


def test_one_logit_stands_for_two_classes():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        members = stack([nn.Linear(3, 1).double(), nn.Linear(3, 1).double()])
    inputs = examples().inputs
    targets = (inputs[:, :1] > 0).double()
    data = Examples(inputs, targets)
    found = combined(log_probabilities(members, data, "bce"), targets)
    outcomes = evaluate(members, data, "bce")
    torch.testing.assert_close(found.losses, outcomes.loss.mean(1))
    torch.testing.assert_close(found.accuracies, outcomes.correct.double().mean(1))


def test_positions_of_a_sequence_count_as_examples():
    tokens = torch.randint(0, 5, (4, 6), generator=generator())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        members = stack([nn.Embedding(5, 5).double() for _ in range(2)])
    data = Examples(tokens, tokens)
    assert log_probabilities(members, data, "cross_entropy").shape == (2, 24, 5)


def test_predictions_are_taken_in_evaluation_mode():
    members = stack([network(0, norm=True)])
    members.template.train()
    data = examples()
    expected = members.member(0).eval()(data.inputs).log_softmax(-1)
    torch.testing.assert_close(log_probabilities(members, data, "cross_entropy")[0], expected)
    assert members.template.training


def test_diversity_is_disagreement_over_error():
    targets = torch.tensor([0, 0, 0, 0])
    predictions = torch.tensor([[0, 0, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]])
    # Pairs disagree on 2, 0 and 2 of 4 examples; each member errs on 1 of 4.
    assert diversity(predictions, targets) == pytest.approx((4 / 12) / (1 / 4))


def test_equal_members_have_no_diversity_and_none_is_defined_without_pairs_or_errors():
    targets = torch.tensor([0, 1])
    assert diversity(torch.tensor([[0, 0], [0, 0]]), targets) == 0
    assert math.isnan(diversity(torch.tensor([[0, 0]]), targets))
    assert math.isnan(diversity(torch.tensor([[0, 1], [0, 1]]), targets))


def test_a_soup_of_a_stack_and_its_copy_is_no_other_network():
    members, data = stack([network(seed) for seed in range(2)]), examples()
    once = average(members, data, "cross_entropy")
    twice = average(concatenated([members, members]), data, "cross_entropy")
    torch.testing.assert_close(once.theta, twice.theta, rtol=1e-14, atol=1e-16)
