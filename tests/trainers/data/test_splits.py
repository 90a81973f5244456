import pytest
import torch

from landscape.errors import RequestError
from landscape.trainers.data.splits import stratified_split, subset_masks

UNEVEN = torch.repeat_interleave(torch.tensor([0, 1, 2, 7]), torch.tensor([3, 11, 20, 27]))


@pytest.mark.parametrize("parts", [[30, 20, 11], [0.5, 0.25, 0.25], [7, 7], [0.1], [61], [0, 5]])
@pytest.mark.parametrize("seed", [0, 1])
def test_parts_are_disjoint_of_exact_size_and_have_the_classes_shares(parts, seed):
    found = stratified_split(UNEVEN, parts, seed=seed)
    n = len(UNEVEN)
    together = torch.cat(found)
    assert len(together.unique()) == len(together)
    for part, indices in zip(parts, found, strict=True):
        size = part if isinstance(part, int) else part * n
        assert abs(len(indices) - size) < 1
        for label in UNEVEN.unique():
            share = int((label == UNEVEN).sum()) * len(indices) / n
            assert abs(int((UNEVEN[indices] == label).sum()) - share) < 1


def test_shares_of_one_use_every_example():
    found = stratified_split(UNEVEN, [0.7, 0.2, 0.1], seed=0)
    assert torch.cat(found).sort().values.tolist() == list(range(len(UNEVEN)))


def test_the_seed_decides_who_goes_where_and_parts_are_in_random_order():
    first, again, other = (stratified_split(UNEVEN, [30], seed=s)[0] for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert set(first.tolist()) != set(other.tolist())
    assert first.tolist() != first.sort().values.tolist()


def test_every_example_is_as_likely_as_any_other():
    counts = torch.zeros(len(UNEVEN))
    for seed in range(400):
        counts[stratified_split(UNEVEN, [0.5], seed=seed)[0]] += 1
    assert (counts - 200).abs().max() < 4.5 * (400 * 0.25) ** 0.5


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([40, 40], "more than the 61 examples"),
        ([0.8, 0.3], "more than the whole, 1"),
        ([0.5, 3], "mixes sizes and shares"),
        ([-1], "below 0"),
        ([float("nan")], "below 0"),
        ([], "empty"),
    ],
)
def test_parts_that_cannot_be_say_why(parts, message):
    with pytest.raises(RequestError, match=message):
        stratified_split(UNEVEN, parts, seed=0)


@pytest.mark.parametrize("design", ["iid", "balanced"])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("stratify", [None, UNEVEN])
def test_every_subset_has_exactly_its_share(design, ratio, stratify):
    masks = subset_masks(61, 9, ratio, seed=0, design=design, stratify=stratify)
    assert masks.shape == (9, 61)
    assert masks.sum(1).unique().tolist() == [round(ratio * 61)]


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.7])
def test_balanced_subsets_use_every_example_equally_often(ratio):
    counts = subset_masks(61, 9, ratio, seed=0, design="balanced").sum(0)
    assert int(counts.max() - counts.min()) <= 1


@pytest.mark.parametrize("design", ["iid", "balanced"])
def test_stratified_subsets_have_the_classes_shares(design):
    masks = subset_masks(61, 10, 0.3, seed=0, design=design, stratify=UNEVEN)
    for label in UNEVEN.unique():
        members = label == UNEVEN
        counts = masks[:, members].sum(1)
        # Each is a neighbour of its class's mean, which is itself rounded over all subsets.
        assert int(counts.max() - counts.min()) <= 1
        assert abs(float(counts.double().mean()) - 18 * int(members.sum()) / 61) <= 0.1
        if design == "balanced":
            columns = masks[:, members].sum(0)
            assert int(columns.max() - columns.min()) <= 1


def test_balanced_halves_come_in_complementary_pairs():
    masks = subset_masks(20, 6, 0.5, seed=0, design="balanced")
    assert torch.equal(masks[0::2], ~masks[1::2])
    assert not torch.equal(masks[0], masks[2])


def test_independent_subsets_are_independent():
    masks = subset_masks(40, 500, 0.5, seed=0, design="iid").double()
    counts = masks.sum(0)
    assert (counts - 250).abs().max() < 4.5 * (500 * 0.25) ** 0.5
    assert counts.std() > 5  # balanced columns would not spread at all
    overlap = (masks[:-1] * masks[1:]).sum(1).mean()
    assert abs(overlap - 10) < 4 * (40 / 16 / 500) ** 0.5


@pytest.mark.parametrize("num_subsets", [12, 5])
def test_leave_one_out_leaves_out_another_one_each_time(num_subsets):
    masks = subset_masks(12, num_subsets, seed=0, design="loo")
    assert masks.sum(1).tolist() == [11] * num_subsets
    left_out = (~masks).nonzero()[:, 1]
    assert len(left_out.unique()) == num_subsets
    if num_subsets == 12:
        assert left_out.tolist() == list(range(12))


def test_groups_are_taken_whole():
    groups = torch.tensor([5, 5, 2, 9, 9, 9, 2, 4])
    masks = subset_masks(8, 30, 0.5, seed=0, design="groups", groups=groups)
    for group in groups.unique():
        part = masks[:, groups == group]
        assert torch.equal(part.all(1), part.any(1))
        assert 0 < int(part[:, 0].sum()) < 30
    firsts = torch.tensor([0, 2, 3, 7])
    assert masks[:, firsts].sum(1).unique().tolist() == [2]


def test_a_seed_repeats_the_masks():
    masks = [subset_masks(20, 5, 0.4, seed=s) for s in (0, 0, 1)]
    assert torch.equal(masks[0], masks[1])
    assert not torch.equal(masks[0], masks[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"design": "balancd"}, "Did you mean 'balanced'"),
        ({"ratio": None}, "ratio=None"),
        ({"ratio": 1.2}, "ratio=1.2"),
        ({"num_subsets": 0}, "num_subsets=0"),
        ({"seed": -1}, "seed=-1"),
        ({"design": "loo"}, "ratio=0.5 is given with design='loo'"),
        ({"design": "loo", "ratio": None, "num_subsets": 11}, "more than the 10 examples"),
        ({"design": "groups"}, "groups is missing"),
        ({"groups": torch.arange(10)}, "groups is given"),
        ({"stratify": torch.arange(9)}, "9 entries for 10 examples"),
        (
            {"design": "groups", "groups": torch.arange(10), "stratify": torch.arange(10)},
            "stratify is given",
        ),
    ],
)
def test_masks_that_cannot_be_drawn_say_why(arguments, message):
    given = {"num_examples": 10, "num_subsets": 4, "ratio": 0.5, "seed": 0, **arguments}
    with pytest.raises(RequestError, match=message):
        subset_masks(**given)
