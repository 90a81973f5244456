"""The benchmark of paths compares like with like, and says what it measured."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.path_cases import PathCase, flat, trained
from benchmarks.path_checks import reordered_copy
from benchmarks.path_connectivity import Mended
from benchmarks.path_contestants import (
    Loop,
    Ours,
    StoredImages,
    fastest_loop,
    pooled_losses,
    write_images,
)
from landscape.objective import Objective
from tests.benchmarks.test_benchmarks import benchmarks


def case(num_images=300, num_solutions=2):
    """Two or more small networks with BatchNorm, the images in three batches."""
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(num_images, 3, 4, 4)).astype(np.uint8)
    labels = torch.from_numpy(generator.integers(10, size=num_images))
    empty = PathCase("net", (), images, labels, 255, True)

    def make():
        return nn.Sequential(
            *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()),
            *(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(16, 10)),
        )

    solutions = tuple(
        trained(make, empty.transformed(images), labels, seed=seed, steps=5, batch_size=32)
        for seed in range(num_solutions)
    )
    return PathCase("net", solutions, images, labels, 255, True)


def test_stored_images_are_those_in_memory_bit_for_bit(tmp_path):
    held = case(130)
    stored = StoredImages(write_images(held, tmp_path), held)
    inputs, labels = (torch.cat(parts) for parts in zip(*held.batches(), strict=True))
    assert torch.equal(torch.stack([image for image, _ in stored]), inputs)
    assert torch.equal(torch.stack([label for _, label in stored]), labels)


def test_the_reloading_loop_reads_its_file_at_each_point(tmp_path):
    held = case(5)
    file = write_images(held, tmp_path)
    loop = fastest_loop(held, file)
    loop.losses([0.5])
    file.unlink()
    with pytest.raises(FileNotFoundError):
        loop.losses([0.5])


def test_pooled_losses_are_those_with_the_statistics_of_all_batches():
    held = case()
    model, (first, second) = held.solutions[0], (flat(one) for one in held.solutions)
    found = pooled_losses(held, [0.25])
    nn.utils.vector_to_parameters(0.75 * first + 0.25 * second, model.parameters())
    conv, norm, relu, *rest = model
    inputs = held.transformed(held.images)
    with torch.no_grad():
        hidden = conv(inputs)
        norm.running_mean, norm.running_var = hidden.mean((0, 2, 3)), hidden.var((0, 2, 3))
        # What enters the second norm has passed the first one batch by batch.
        entered = [norm.train()(part) for part in hidden.split(held.batch_size)]
        norm.running_mean, norm.running_var = hidden.mean((0, 2, 3)), hidden.var((0, 2, 3))
        before = torch.cat([rest[0](relu(part)) for part in entered])
        rest[1].running_mean, rest[1].running_var = before.mean((0, 2, 3)), before.var((0, 2, 3))
        true = F.cross_entropy(model.eval()(inputs), held.labels).item()
    assert found == pytest.approx([true], rel=1e-6)


@pytest.mark.parametrize("num_solutions", [2, 3])
def test_our_losses_are_the_pooled_ones(num_solutions):
    held = case(num_solutions=num_solutions)
    ours = Ours(held, 5)
    assert ours.num_points == {2: 5, 3: 9}[num_solutions]
    whole = ours.whole()
    assert whole.losses == pytest.approx(pooled_losses(held, np.linspace(0, 1, 5)), rel=1e-5)
    assert 0 <= whole.overhead < whole.seconds


def test_the_loops_losses_are_the_pooled_ones_where_there_is_one_batch():
    held = case(100)
    loop = Loop("loop", held, held.batches, threads=1)
    assert loop.losses([0.0, 0.5, 1.0]) == pytest.approx(
        pooled_losses(held, [0.0, 0.5, 1.0]), rel=1e-5
    )
    ends = [F.cross_entropy(one.train()(held.batches()[0][0]), held.labels).item()
            for one in held.solutions]  # fmt: skip
    assert loop.losses([0.0, 1.0]) == pytest.approx(ends, rel=1e-2)  # of biased variances
    assert loop.losses([1.0], (1, 0)) == pytest.approx(loop.losses([0.0]), rel=1e-6)


def test_a_reordered_copy_is_another_point_and_is_brought_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 3)).double()
    data = torch.randn(10, 4, dtype=torch.float64), torch.arange(10) % 3
    objective = Objective(model, data)
    copy = reordered_copy(objective, seed=0)
    assert (copy.theta - objective.theta).abs().max() > 0.1
    assert copy.alignment.moved_share > 0.5
    assert copy.difference == 0


def test_what_repair_regains_is_a_share_of_what_was_lost():
    found = Mended("net", (0, 1), "weights", 0.9, 0.5, 0.8, 0.3, 1.0)
    assert found.regained == pytest.approx(0.75)
    assert np.isnan(Mended("net", (0, 1), "weights", 0.9, 0.9, 0.8, 0.3, 1.0).regained)


# -- the whole ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """What `paths` prints and writes of few images, few solutions and little training."""
    written = tmp_path_factory.mktemp("paths") / "a.json"
    arguments = ["--images", "4", "--matrix-images", "4", "--solutions", "3", "--steps", "20"]
    arguments += ["--widths", "4,8", "--pairs", "1", "--repeats", "1", "--no-peers"]
    done = benchmarks("paths", *arguments, "--json", written)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), json.loads(written.read_text())


@pytest.mark.slow
def test_paths_compares_seconds_of_the_same_losses(paths):
    printed, found = paths
    compared = [found["barrier"], *found["matrix"]]
    points = [[row["num_points"] for row in one["rows"]] for one in compared]
    assert points == [[25, 25, 25], [27, 33, 33], [69, 75, 75]]
    for one in compared:
        names = [row["name"].partition(", threads")[0] for row in one["rows"]]
        assert names == ["landscape", "loop, data reloaded", "loop, tensors in memory"]
        assert one["rows"][0]["difference"] < 1e-5
        assert all(len(row["point"]) == 1 and row["point"][0] > 0 for row in one["rows"])
        for row in one["rows"]:
            assert any(line.startswith(row["name"] + " ") for line in printed)


@pytest.mark.slow
def test_paths_recovers_copies_and_prints_each_worst_number(paths):
    printed, found = paths
    assert len(found["exactness"]) == 13
    for check in found["exactness"]:
        assert check["measured"] <= check["bound"] <= 1e-10
        assert any(line.startswith(check["claim"] + " ") for line in printed)
    assert found["matching"]["difference"] == 0
    assert found["matching"]["moved_share"] > 0.9


@pytest.mark.slow
def test_paths_connects_pairs_of_every_width_and_names_their_seeds(paths):
    printed, found = paths
    connections = found["connectivity"]["connections"]
    assert [(one["network"], one["width"]) for one in connections] == [
        ("MLP", 4), ("MLP", 8), ("CNN", 16),
    ]  # fmt: skip
    assert all(one["seeds"] == [0, 1] for one in connections)
    assert [one["method"] for one in found["connectivity"]["mended"]] == ["weights", "activations"]
    assert sum("0 and 1" in line for line in printed) == 5


@pytest.mark.slow
def test_paths_says_of_each_target_whether_it_was_met(paths):
    printed, found = paths
    promises = [target["promise"] for target in found["targets"]]
    assert sum("takes 3 times as long" in promise for promise in promises) == 3
    assert len(promises) == len(set(promises)) == 3 * 2 + 2 + 6 + 13
    for target in found["targets"]:
        (line,) = [
            line
            for line in printed
            if line.startswith(target["promise"]) and line.endswith(" " + target["verdict"])
        ]
        assert target["found"] in line
