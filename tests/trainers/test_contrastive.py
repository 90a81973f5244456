import math

import pytest
import torch
from torch import nn
from torch.func import vmap
from torch.fx.experimental.proxy_tensor import make_fx

from landscape.errors import RequestError
from landscape.trainers.contrastive import (
    chance_of_pair,
    contrastive_correct,
    contrastive_outcome,
    nt_xent,
    nt_xent_task,
)
from landscape.trainers.examples import Examples
from landscape.trainers.gradients import Gradients
from landscape.trainers.models import cnn
from landscape.trainers.stacking import stack


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def brute_force(first, second, temperature, ids=None):
    """The definition, view by view, in float64."""
    views = [v.double() for v in (*first, *second)]
    directions = [v / v.norm() if v.norm() > 0 else v for v in views]
    size = len(first)
    ids = list(range(size)) if ids is None else ids
    total = 0.0
    for i, own in enumerate(directions):
        pair = (i + size) % (2 * size)
        terms = [
            float(own @ other) / temperature
            for j, other in enumerate(directions)
            if j == pair or (j != i and ids[j % size] != ids[i % size])
        ]
        highest = max(terms)
        total += highest + math.log(sum(math.exp(term - highest) for term in terms))
        total -= float(own @ directions[pair]) / temperature
    return total / (2 * size)


@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
@pytest.mark.parametrize("ids", [None, [0, 1, 2, 0, 1, 5], [4] * 6])
def test_the_loss_is_the_cross_entropy_of_finding_ones_pair(temperature, ids):
    first, second = drawn(2, 6, 5)
    found = nt_xent(first, second, temperature, None if ids is None else torch.tensor(ids))
    assert found.item() == pytest.approx(brute_force(first, second, temperature, ids), rel=1e-12)


def test_float32_at_a_low_temperature_agrees_with_float64():
    first, second = drawn(2, 40, 8)
    found = nt_xent(first.float(), second.float(), 0.01)
    assert found.item() == pytest.approx(brute_force(first, second, 0.01), rel=1e-4)


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e-6, 1e6, 1e30])
def test_neither_loss_nor_gradient_overflows_whatever_the_embeddings_length(length):
    first, second = drawn(2, 6, 5, dtype=torch.float32) * length
    first.requires_grad_()
    loss = nt_xent(first, second, 0.01)
    loss.backward()
    assert loss.isfinite()
    assert first.grad.isfinite().all()
    if length >= 1e-6:
        expected = brute_force(*drawn(2, 6, 5, dtype=torch.float32), 0.01)
        assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_one_vector_that_is_zero_leaves_the_others_as_they_are():
    first, second = drawn(2, 6, 5)
    first[2] = 0
    assert nt_xent(first, second, 0.07).item() == pytest.approx(brute_force(first, second, 0.07))


def test_the_gradient_is_that_of_finite_differences():
    first, second = drawn(2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.5), (first, second))


def test_embeddings_that_all_agree_cost_the_logarithm_of_the_candidates():
    views = torch.ones(8, 3, dtype=torch.float64)
    assert nt_xent(views, views, 0.07).item() == pytest.approx(math.log(15))
    assert chance_of_pair(8) == 1 / 15


def test_a_duplicate_changes_nothing_for_itself_once_it_is_named():
    first, second = drawn(2, 5, 4)
    twice = [torch.cat([part, part[:1]]) for part in (first, second)]
    ids = torch.tensor([0, 1, 2, 3, 4, 0])
    assert contrastive_correct(*twice, ids)[0] == contrastive_correct(first, second)[0]
    # Unnamed, the two copies of one view are as similar as can be, and nobody can be recognized.
    assert not contrastive_correct(*twice)[0]


def test_the_loss_runs_under_vmap_and_is_recorded_as_a_graph():
    first, second = drawn(2, 3, 6, 5)
    each = torch.stack([nt_xent(a, b, 0.07) for a, b in zip(first, second, strict=True)])
    torch.testing.assert_close(vmap(lambda a, b: nt_xent(a, b, 0.07))(first, second), each)
    graph = make_fx(lambda a, b: nt_xent(a, b, 0.07))(first[0], second[0])
    torch.testing.assert_close(graph(first[1], second[1]), each[1])


def test_the_task_is_replayed_and_equals_each_networks_own_loss_on_both_views_at_once():
    models = []
    for seed in range(3):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            models.append(cnn(1, 2, 4).double())
    views = drawn(2, 3, 5, 1, 8, 8)
    members = stack(models)
    gradients = Gradients(members, nt_xent_task(0.2), chunk=3)
    rest = {name: tensor.clone() for name, tensor in members.rest.items()}
    losses, found = gradients(members.theta, rest, [*views, torch.zeros(3, 5)])
    assert gradients.replayed
    for index, model in enumerate(models):
        # In training mode, where BatchNorm tells one batch of ten from two of five.
        embeddings = model(torch.cat([views[0, index], views[1, index]]))
        loss = nt_xent(embeddings[:5], embeddings[5:], 0.2)
        expected = torch.autograd.grad(loss, list(model.parameters()))
        torch.testing.assert_close(losses[index], loss.detach())
        torch.testing.assert_close(found[index], torch.cat([g.flatten() for g in expected]))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(RequestError, match="temperature"):
        nt_xent_task(temperature)


def test_an_object_is_recognized_if_its_pair_is_the_most_similar_of_all_other_views():
    angles = torch.tensor([[0.0, 100.0, 200.0], [10.0, 150.0, 195.0]]).deg2rad()
    first, second = torch.stack([angles.cos(), angles.sin()], -1)
    assert contrastive_correct(first, second).tolist() == [True, True, True]
    angles[1, 2] = math.radians(145)
    first, second = torch.stack([angles.cos(), angles.sin()], -1)
    # Object 1 (at 100) has its pair 50 degrees away, and object 2's second view at 45; object 2
    # (at 200) has its own pair at 55 now, and object 1's second view at 50.
    assert contrastive_correct(first, second).tolist() == [True, False, False]


def test_first_views_are_candidates_too():
    first = torch.tensor([[1.0, 0.0], [1.0, 0.01]])
    second = torch.tensor([[1.0, 0.1], [-1.0, 0.0]])
    assert contrastive_correct(first, second).tolist() == [False, False]


def test_a_network_of_constant_output_recognizes_nobody():
    for views in (torch.zeros(2, 4, 3), torch.ones(2, 4, 3)):
        assert not contrastive_correct(*views).any()


def test_unrelated_views_are_recognized_at_the_rate_of_chance():
    first, second = drawn(2, 400, 10, 6)
    rate, chance = contrastive_correct(first, second).double().mean().item(), chance_of_pair(10)
    assert abs(rate - chance) < 4 * math.sqrt(chance * (1 - chance) / 4000)


def outcome_of_two_networks(num_candidates, pairs, augmentations=2):
    networks = stack([new_linear(0), new_linear(1)])
    examples = Examples(pairs, torch.zeros(len(pairs), dtype=torch.int64))
    return networks, contrastive_outcome(0.1, augmentations, num_candidates)(networks, examples)


def new_linear(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Linear(5, 4, dtype=torch.float64)


@pytest.mark.parametrize("num_candidates", [6, 3])
def test_the_outcome_tells_apart_fixed_groups_of_objects_under_the_same_augmentation(
    num_candidates,
):
    pairs = drawn(6 * 2, 2, 5)  # 6 objects, 2 augmentations
    pairs[:, 1] = pairs[:, 0] + 0.7 * drawn(6 * 2, 5, seed=1)
    networks, found = outcome_of_two_networks(num_candidates, pairs)
    for member in range(2):
        with torch.no_grad():
            embeddings = networks.member(member)(pairs)  # (K M, 2, D)
        for augmentation in range(2):
            for start in range(0, 6, num_candidates):
                rows = 2 * torch.arange(start, start + num_candidates) + augmentation
                first, second = embeddings[rows].unbind(1)
                correct = contrastive_correct(first, second)
                assert torch.equal(found.correct[member, rows], correct)
                assert torch.equal(found.margin[member, rows] > 0, correct)
                # The loss over both directions is the mean of the two.
                reverse = contrastive_outcome(0.1, 2, num_candidates)(
                    networks, Examples(pairs.flip(1), torch.zeros(12))
                )
                both = (found.loss + reverse.loss)[member, rows].mean() / 2
                torch.testing.assert_close(both, nt_xent(first, second, 0.1))
    torch.testing.assert_close(found.probability, (-found.loss).exp())
    assert 0 < found.correct.double().mean() < 1


def test_candidates_that_do_not_divide_the_objects_are_refused():
    with pytest.raises(RequestError, match="num_candidates=4 does not divide the 6 objects"):
        outcome_of_two_networks(4, drawn(12, 2, 5))
