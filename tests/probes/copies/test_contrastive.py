import numpy as np
import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.probes.copies.contrastive import simclr_correctness
from landscape.probes.copies.copies import Copies
from landscape.trainers.augment import augmentation
from landscape.trainers.contrastive import contrastive_outcome
from landscape.trainers.examples import Examples
from landscape.trainers.learnability import fixed_views
from landscape.trainers.models import mlp
from landscape.trainers.stacking import stack


def network(seed, norm="layer"):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return mlp(6, (8,), 4, norm=norm)


def drawn_pairs(objects=12, augmentations=3, noise=1.0):
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(objects, 1, 1, 6, generator=generator)
    return own + noise * torch.randn(objects, augmentations, 2, 6, generator=generator)


def recognized(first, others):
    """Index of the view that is most like one view."""
    return torch.cosine_similarity(first[None], others).argmax().item()


def test_each_view_is_looked_for_among_the_other_views_of_its_batch():
    pairs, model = drawn_pairs(), network(0)
    found = simclr_correctness(model, pairs, batch_size=4)
    for k, j in np.ndindex(12, 3):
        batch = range(k // 4 * 4, k // 4 * 4 + 4)
        others = [pairs[k, j, 1]]
        others += [pairs[i, j, which] for i in batch if i != k for which in (0, 1)]
        with torch.no_grad():
            best = recognized(model(pairs[k, j, :1])[0], model(torch.stack(others)))
        assert found.correct[0, k, j] == (best == 0)
    assert 0.2 < found.correct.mean() < 0.98
    assert found.chance == pytest.approx(1 / 7)
    assert (found.batch_size, found.num_objects, found.num_dropped) == (4, 12, 0)


def test_a_stack_is_all_of_its_networks_and_agrees_with_what_training_records():
    models, pairs = [network(seed) for seed in range(3)], drawn_pairs()
    found = simclr_correctness(stack(models), pairs, batch_size=6)
    assert found.correct.shape == (3, 12, 3)
    for index, model in enumerate(models):
        alone = simclr_correctness(model, pairs, batch_size=6)
        assert np.array_equal(found.correct[index], alone.correct[0])
    examples = Examples(pairs.flatten(0, 1), torch.zeros(36, dtype=torch.int64))
    recorded = contrastive_outcome(0.1, 3, 6)(stack(models), examples).correct
    assert np.array_equal(found.correct, recorded.view(3, 12, 3).numpy())


def test_a_smaller_batch_is_an_easier_task_with_another_chance():
    pairs = drawn_pairs(64, 2, noise=1.5)
    shares = {}
    for size in (2, 8, 64):
        found = simclr_correctness(lambda views: views, pairs, batch_size=size)
        shares[size] = found.correct.mean()
        assert found.chance == pytest.approx(1 / (2 * size - 1))
    assert shares[2] > shares[8] > shares[64]


def test_guessing_is_as_often_right_as_chance_says():
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(240) // 2  # each object twice
    for numbers, candidates in ((None, 11), (ids, 9)):
        pairs = torch.randn(240, 10, 2, 20, generator=generator)
        found = simclr_correctness(lambda views: views, pairs, batch_size=6, ids=numbers)
        assert found.chance == pytest.approx(1 / candidates)
        spread = np.sqrt(found.chance * (1 - found.chance) / 2400)
        assert found.correct.mean() == pytest.approx(found.chance, abs=4 * spread)


def test_an_object_that_stands_there_twice_is_no_negative_of_itself():
    pairs = drawn_pairs(4, 1, noise=0.3)
    twice = torch.cat([pairs, pairs])  # its other copy has the very same views
    assert not simclr_correctness(lambda views: views, twice, batch_size=8).correct.any()
    ids = [0, 1, 2, 3, 0, 1, 2, 3]
    found = simclr_correctness(lambda views: views, twice, batch_size=8, ids=ids)
    alone = simclr_correctness(lambda views: views, pairs, batch_size=4)
    assert np.array_equal(found.correct[:, :4], alone.correct)
    np.testing.assert_allclose(found.chance_of_object, 1 / 13)
    ids = [0, 1, 2, 3, 0, 5, 6, 7]
    found = simclr_correctness(lambda views: views, twice, batch_size=8, ids=ids)
    np.testing.assert_allclose(found.chance_of_object[[0, 1, 4]], [1 / 13, 1 / 15, 1 / 13])


def test_objects_that_do_not_fill_a_batch_are_refused_or_counted():
    pairs = drawn_pairs()
    with pytest.raises(RequestError, match="leaves 2 of 12 objects"):
        simclr_correctness(network(0), pairs, batch_size=5)
    found = simclr_correctness(network(0), pairs, batch_size=5, remainder="drop")
    assert found.correct.shape == (1, 10, 3)
    assert (found.num_objects, found.num_dropped) == (10, 2)
    assert len(found.chance_of_object) == 10
    whole = simclr_correctness(network(0), pairs[:10], batch_size=5)
    assert np.array_equal(found.correct, whole.correct)


def test_a_network_is_asked_in_evaluation_mode_and_is_left_as_it_was():
    model = nn.Sequential(network(0, norm="batch"), nn.Dropout(0.5)).train()
    model[0].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first, again = (simclr_correctness(model, drawn_pairs(), batch_size=6) for _ in range(2))
    assert np.array_equal(first.correct, again.correct)
    assert model.training
    assert not model[0].training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_stack_is_asked_in_evaluation_mode_and_is_left_as_it_was():
    models = [network(seed, norm="batch").train() for seed in range(2)]
    both = stack(models)
    before = {name: value.clone() for name, value in both.buffers.items()}
    found = simclr_correctness(both, drawn_pairs(), batch_size=6)
    for index, model in enumerate(models):
        alone = simclr_correctness(model.eval(), drawn_pairs(), batch_size=6)
        assert np.array_equal(found.correct[index], alone.correct[0])
    assert both.template.training
    assert all(torch.equal(value, before[name]) for name, value in both.buffers.items())


def test_the_mode_comes_back_after_an_error():
    class Broken(nn.Module):
        def forward(self, views):
            raise RuntimeError

    model = Broken().train()
    with pytest.raises(RuntimeError):
        simclr_correctness(model, drawn_pairs(), batch_size=6)
    assert model.training


def test_constant_or_broken_embeddings_recognize_nothing():
    for value in (1.0, 0.0, torch.nan):
        found = simclr_correctness(
            lambda views, value=value: torch.full((len(views), 3), value),
            drawn_pairs(),
            batch_size=6,
        )
        assert not found.correct.any()


def test_the_pairs_of_a_recipe_are_the_pairs_that_are_taken():
    mask = augmentation("mask", (6,))
    inputs = torch.randn(20, 6, generator=torch.Generator().manual_seed(1))
    views = fixed_views(
        Examples(inputs, torch.arange(20) % 2),
        mask,
        num_uniforms=mask.num_uniforms,
        num_objects=8,
        num_augmentations=2,
        views=2,
        seed=0,
    )
    pairs = views.examples.inputs.unflatten(0, (8, 2))
    found = simclr_correctness(stack([network(s) for s in range(2)]), pairs, batch_size=8)
    copies = Copies(found.correct[None], chance=found.chance, labels=views.labels)
    assert copies.mean_learnability[0] == found.correct.mean()


@pytest.mark.parametrize(
    ("pairs", "named", "words"),
    [
        (drawn_pairs()[:, 0], {}, r"pairs\[:, None\]"),
        (drawn_pairs()[:, :, :1], {}, "pairs has shape"),
        (drawn_pairs(), {"batch_size": 1}, "batch_size=1"),
        (drawn_pairs(), {"batch_size": 13}, "expected 2 ... 12"),
        (drawn_pairs(), {"ids": [0, 1]}, "ids has 2 entries"),
        (drawn_pairs(), {"remainder": "skip"}, "unknown remainder"),
    ],
)
def test_what_is_no_set_of_pairs_is_refused(pairs, named, words):
    with pytest.raises(RequestError, match=words):
        simclr_correctness(network(0), pairs, **{"batch_size": 6, **named})


def test_embeddings_that_are_no_vectors_are_refused():
    with pytest.raises(RequestError, match="Flatten them"):
        simclr_correctness(lambda views: views.unflatten(1, (2, 3)), drawn_pairs(), batch_size=6)
