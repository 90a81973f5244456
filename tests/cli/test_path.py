"""`landscape path` and `landscape align`, and probes between checkpoints."""

from __future__ import annotations

import shutil

import matplotlib.image
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import landscape as ls
from landscape import store
from landscape.request import Source, load_point
from landscape.trainers import train

FEW = ("--num", "5", "--execution", "loop")


@pytest.fixture(scope="session")
def trained_pair(tmp_path_factory):
    """Three networks of one architecture, each trained for itself."""
    return [
        train("single", tmp_path_factory.mktemp(name), epochs=2, seed=seed)[0]
        for seed, name in enumerate("abc")
    ]


@pytest.fixture
def pair(trained_pair, tmp_path, monkeypatch):
    """Copies of them, alone in a fresh current folder."""
    monkeypatch.chdir(tmp_path)
    return [
        tmp_path / shutil.copy(path, tmp_path / f"{name}.pt")
        for path, name in zip(trained_pair, "abc", strict=True)
    ]


def newest(path, probe):
    ((_, record),) = store.open_results(path).dataset(probe)
    return record


def ends_of(first, second):
    objective = ls.load_objective(first)
    return objective, objective.theta, load_point(second, Source(), objective)[0]


def test_the_barrier_is_that_of_the_library_and_a_number_in_the_json(run, pair):
    done = run("path", *pair[:2], *FEW, "--json")
    assert done.code == 0
    expected = ls.barrier(*ends_of(*pair[:2]), num=5, execution="loop")
    assert done.json["barrier"] == pytest.approx(expected.value, rel=1e-12)
    assert done.json["barrier_error"] == pytest.approx(expected.standard_error, rel=1e-9)
    record = newest(pair[0].with_suffix(".h5"), "barrier")
    np.testing.assert_allclose(record["loss"].values, expected.losses, rtol=1e-12)


def test_what_is_there_is_skipped_and_another_definition_is_not(run, pair):
    run("path", *pair[:2], *FEW)
    again = run("path", *pair[:2], *FEW)
    assert "was there" in again.out
    other = run("path", *pair[:2], *FEW, "--definition", "saddle")
    assert "was there" not in other.out
    third = run("path", pair[0], pair[2], *FEW)
    assert "was there" not in third.out


def test_another_network_under_the_same_name_is_measured_anew(run, pair):
    run("path", *pair[:2], *FEW)
    shutil.copy(pair[2], pair[1])
    assert "was there" not in run("path", *pair[:2], *FEW).out


def test_it_is_the_probe_of_the_same_name(run, pair):
    run("path", *pair[:2], *FEW)
    done = run("probe", pair[0], "--towards", pair[1], "--probe", "barrier", *FEW)
    assert done.code == 0
    assert "was there" in done.out


def test_alignment_lowers_the_barrier_and_both_are_printed(run, pair):
    done = run("path", *pair[:2], *FEW, "--align", "weights", "--save", "aligned.safetensors",
               "--json")  # fmt: skip
    assert done.code == 0
    assert done.json["barrier_aligned"] < done.json["barrier"]
    names = [record["probe"] for record in done.json["records"]]
    assert names == ["alignment", "barrier", "barrier_aligned"]
    assert done.json["aligned"] == "aligned.safetensors"


def test_the_aligned_network_is_the_same_function_and_can_be_measured(run, pair):
    done = run("align", *pair[:2], "--save", "aligned.safetensors", "--json")
    assert done.code == 0
    objective, _, theta = ends_of(*pair[:2])
    moved = load_point("aligned.safetensors", Source(), objective)[0]
    assert not torch.equal(moved, theta)
    assert objective.loss(moved) == pytest.approx(objective.loss(theta), rel=1e-5)
    assert set(load_file("aligned.safetensors")) == set(objective.model.state_dict())
    aligned = run("path", pair[0], "aligned.safetensors", *FEW, "--json").json["barrier"]
    both = run("path", *pair[:2], *FEW, "--align", "weights", "--json").json
    assert aligned == pytest.approx(both["barrier_aligned"], abs=1e-6)


def test_several_checkpoints_make_a_matrix_by_the_names_of_their_files(run, pair):
    done = run("path", *pair, "--num", "3", "--execution", "loop")
    assert done.code == 0
    assert "3 solutions in" in done.out
    record = newest(pair[0].with_suffix(".h5"), "barrier_matrix")
    assert record["solution"].values.tolist() == ["a", "b", "c"]
    objective, a, c = ends_of(pair[0], pair[2])
    one = ls.barrier(objective, a, c, num=3, refine=False, execution="loop")
    assert float(record["barrier"].sel(solution="a", other="c")) == pytest.approx(one.value)
    assert not pair[1].with_suffix(".h5").exists()


@pytest.mark.parametrize(
    ("probe", "words", "said"),
    [
        ("curve", ("--curve-steps", "5"), "above the chord"),
        ("neb", ("--neb-steps", "3", "--num-pivots", "4"), "saddle"),
        ("similarity", (), "CKA"),
        ("soup", (), "accuracy"),
        ("repair", (), "variance ratio"),
        ("alignment", (), "of the units moved"),
    ],
)
def test_every_probe_between_checkpoints_prints_its_headline(run, pair, probe, words, said):
    done = run("path", *pair[:2], "--probe", probe, *words)
    assert done.code == 0, done.err
    assert said in done.out
    assert store.records(pair[0].with_suffix(".h5"))[0].probe == probe


def test_test_data_are_measured_too(run, pair):
    done = run("path", *pair[:2], *FEW, "--test-args", '{"split": "test"}')
    assert done.code == 0, done.err
    assert "test error rises" in done.out
    record = newest(pair[0].with_suffix(".h5"), "barrier")
    assert float(record["test_loss"][0]) != float(record["loss"][0])


def test_a_greedy_soup_asks_for_data_of_its_own(run, pair):
    words = ("path", *pair, "--probe", "soup", "--soup", "greedy")
    refused = run(*words)
    assert refused.code == 1
    assert "on data of their own" in refused.err
    done = run(*words, "--test-args", '{"split": "test"}')
    assert done.code == 0, done.err
    assert newest(pair[0].with_suffix(".h5"), "greedy_soup")["kept"].sum() >= 1


def test_the_record_states_definition_metric_and_statistics(run, pair):
    run("path", *pair[:2], *FEW)
    settings = store.records(pair[0].with_suffix(".h5"))[0].settings
    assert settings["definition"] == "chord"
    assert settings["metric"] == "loss"
    assert settings["path_bn"] == "recalibrate"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a.pt",), "name two"),
        (("a.pt", "b.pt", "c.pt", "--probe", "curve"), "curve is between two checkpoints"),
        (("a.pt", "b.pt", "--probe", "barier"), "barrier"),
        (("a.pt", "b.pt", "--probe", "trace"), "probe between checkpoints"),
        (("a.pt", "b.pt", "--save", "x.safetensors"), "add --align weights"),
        (("a.pt", "b.pt", "--align", "weights", "--save", "no/x.safetensors"), "no folder 'no'"),
        (("a.pt", "missing.pt"), "missing.pt"),
        (("a.pt", "b.pt", "--definition", "chrod"), "chord"),
        (("a.pt", "b.pt", "--num", "2"), "num"),
    ],
)
def test_a_wrong_request_is_one_line_and_code_2(run, pair, words, message):
    done = run("path", *words)
    assert done.code == 2
    assert message in done.err
    assert len(done.err.strip().splitlines()) == 1


def test_a_checkpoint_of_another_network_is_refused(run, pair, tmp_path):
    other = train("single", tmp_path / "other", epochs=1, model="cnn")[0]
    done = run("path", pair[0], other, *FEW)
    assert done.code == 2
    assert "another network" in done.err


def test_a_probe_between_checkpoints_needs_another_one(run, pair):
    done = run("probe", pair[0], "--probe", "barrier")
    assert done.code == 2
    assert "name another with --towards" in done.err


def test_paths_and_other_probes_of_several_checkpoints_go_together(run, pair):
    done = run("probe", *pair, "--probe", "metrics", "--probe", "barrier", *FEW, "--json")
    assert done.code == 0
    probes = [[record["probe"] for record in one["records"]] for one in done.json]
    assert probes == [["metrics", "barrier"], ["metrics"], ["metrics"]]


def test_barriers_before_and_after_an_alignment_are_drawn_together(run, pair):
    run("path", *pair[:2], *FEW, "--align", "weights")
    done = run("plot", pair[0].with_suffix(".h5"))
    drawn = {line.rpartition("/")[2] for line in done.out.splitlines()}
    assert {"a-barrier.png", "a-barrier-aligned.png"} <= drawn


def test_one_barrier_is_drawn_by_itself(run, pair):
    run("path", *pair[:2], *FEW)
    drawn = run("plot", pair[0].with_suffix(".h5")).out.splitlines()
    assert [line.rpartition("/")[2] for line in drawn] == ["a-barrier.png"]


def test_a_curve_is_drawn_over_its_plane(run, pair):
    words = ("path", *pair[:2], "--probe", "curve", "--curve-steps", "5", "--curve-plane")
    done = run(*words, "--execution", "loop")
    assert done.code == 0, done.err
    file = pair[0].with_suffix(".h5")
    plane = newest(file, "plane")
    assert plane["mark"].values.tolist() == ["a", "b", "bend"]
    tall = image_height(run, file)
    alone = run("path", *pair[:2], "--probe", "curve", "--curve-steps", "4", "--json")
    assert [record["probe"] for record in alone.json["records"]] == ["curve"]
    assert image_height(run, file) < tall


def image_height(run, file):
    run("plot", file)
    return matplotlib.image.imread(file.with_name("a-curve.png")).shape[0]


def test_a_curve_of_two_bends_lies_in_no_plane(run, pair):
    words = ("--probe", "curve", "--curve-steps", "5", "--num-bends", "2", "--curve-plane")
    done = run("path", *pair[:2], *words)
    assert done.code == 1
    assert "lies in no plane" in done.err
