import pytest
import torch

from landscape.errors import RequestError
from landscape.trainers.orders import Orders, child_seed


def epoch(orders, number):
    steps = range(number * orders.steps_per_epoch, (number + 1) * orders.steps_per_epoch)
    return [orders.batch(step)[0].clone() for step in steps]


@pytest.mark.parametrize("batch_size", [1, 3, 10, 11, 50])
def test_an_epoch_takes_every_example_exactly_once(batch_size):
    orders = Orders([0, 1], 11, batch_size)
    for number in (0, 1, 5):
        batches = epoch(orders, number)
        sizes = [batch.shape[1] for batch in batches]
        assert set(sizes[:-1]) <= {batch_size}
        assert 0 < sizes[-1] <= batch_size
        for row in torch.cat(batches, 1):
            assert sorted(row.tolist()) == list(range(11))


def test_equal_seeds_see_equal_batches_and_others_do_not():
    orders = Orders([4, 4, 5], 50, 7, num_uniforms=2)
    indices, uniforms = orders.batch(3)
    assert indices.shape == (3, 7)
    assert uniforms.shape == (3, 7, 2)
    assert torch.equal(indices[0], indices[1])
    assert torch.equal(uniforms[0], uniforms[1])
    assert not torch.equal(indices[0], indices[2])
    assert not torch.equal(uniforms[0], uniforms[2])
    # Beside which members a seed runs does not matter either.
    alone, numbers = Orders([5], 50, 7, num_uniforms=2).batch(3)
    assert torch.equal(alone[0], indices[2])
    assert torch.equal(numbers[0], uniforms[2])


def test_each_epoch_has_another_order_and_other_numbers():
    orders = Orders([0], 50, 25, num_uniforms=1)
    first, second = orders.batch(0), orders.batch(2)
    assert not torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])


def test_a_member_sees_its_subset_only_and_all_of_it():
    subsets = torch.tensor([[8, 2, 5, 0, 9], [1, 3, 5, 7, 4]])
    orders = Orders([0, 0], 10, 2, subsets)
    assert orders.steps_per_epoch == 3
    for row, subset in zip(torch.cat(epoch(orders, 1), 1), subsets, strict=True):
        assert sorted(row.tolist()) == sorted(subset.tolist())


def test_a_full_batch_takes_the_examples_in_their_own_order():
    orders = Orders([0, 1], 6, 100)
    assert orders.steps_per_epoch == 1
    for step in (0, 1, 7):
        assert orders.batch(step)[0].tolist() == [list(range(6))] * 2
    subsets = torch.tensor([[4, 1, 2]])
    assert Orders([0], 6, 3, subsets).batch(2)[0].tolist() == [[4, 1, 2]]


def test_a_batch_does_not_depend_on_what_was_asked_before():
    def new():
        return Orders([0, 1], 10, 3, num_uniforms=1)

    walked = new()
    one_after_another = [tuple(part.clone() for part in walked.batch(step)) for step in range(12)]
    jumping = new()
    for step in (11, 0, 5, 4, 9):
        for asked in (jumping, new()):
            found = asked.batch(step)
            assert all(map(torch.equal, found, one_after_another[step]))


def test_the_global_generator_neither_moves_nor_matters():
    state = torch.get_rng_state()
    first = Orders([0], 10, 3).batch(0)[0]
    assert torch.equal(torch.get_rng_state(), state)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert torch.equal(Orders([0], 10, 3).batch(0)[0], first)


def test_child_seeds_differ_for_every_seed_and_path():
    paths = [(), (0,), (1,), (0, 0), (0, 1), (1, 0)]
    found = {child_seed(seed, *path) for seed in range(50) for path in paths}
    assert len(found) == 50 * len(paths)
    assert all(0 <= one < 2**64 for one in found)


def test_a_batch_of_no_example_is_refused():
    with pytest.raises(RequestError, match="batch_size=0 takes no example"):
        Orders([0], 10, 0)
