"""Recipes that go on from a family: finetune, swa; and those with stages of their own."""

from __future__ import annotations

import pytest
import torch

import landscape as ls
from landscape.checkpoint import read_checkpoint
from landscape.errors import RequestError
from landscape.trainers import train
from landscape.trainers.averaging import angles
from landscape.trainers.examples import evaluate
from landscape.trainers.forecast import Forecast
from landscape.trainers.making import Making, Place
from landscape.trainers.starts import starting_points


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    return train(
        "lr-sweep", folder, steps=60, num_seeds=2, learning_rates=(1e-3, 0.03), num_evaluations=10
    )


def flat(path):
    state = read_checkpoint(path).state_dict
    return torch.cat([tensor.flatten() for tensor in state.values()]).double()


def test_starts_bring_each_its_own_data(sweep, tmp_path):
    make = Making(tmp_path, "finetune", {}, "", Place())
    starts = starting_points(make, str(sweep.folder))
    assert len(starts) == 4
    assert starts.which == (0, 1, 0, 1)
    assert starts.setting(2, "learning_rate") == 0.03
    outcomes = evaluate(starts.stack, starts.side_by_side(range(4)).train, "bce")
    for index, path in enumerate(sweep):
        objective = ls.load_objective(path)
        assert torch.equal(starts.stack.theta[index], objective.theta)
        loss = outcomes.loss[index].mean().item()
        assert loss == pytest.approx(objective.value, rel=1e-5)


@pytest.mark.parametrize(
    ("start", "said"),
    [("", "--start"), ("nowhere.pt", "nowhere.pt"), ("{sweep}/lr0.001-seed9.pt", "seed9")],
)
def test_a_start_that_is_not_there_is_refused(sweep, tmp_path, start, said):
    with pytest.raises((RequestError, ValueError), match=said):
        train("finetune", tmp_path / "out", start=start.format(sweep=sweep.folder))


def test_a_role_that_no_member_has_is_refused(sweep, tmp_path):
    make = Making(tmp_path, "finetune", {}, "", Place())
    with pytest.raises(RequestError, match="final"):
        starting_points(make, str(sweep.folder), role="child")


def test_finetune_goes_on_from_each_start_at_each_rate(sweep, tmp_path):
    family = train(
        "finetune", tmp_path, start=str(sweep.folder), steps=40, learning_rates=(1e-4, 1e-3)
    )
    table = family.members
    assert len(table) == 8
    assert set(table["step"]) == {100}
    # A small rate lowers the loss of what a large one has left hovering.
    curves = family.group("curves/fine-tuning")["train_loss"]
    hovering = table["start_learning_rate"] == 0.03
    assert (curves[-1, hovering.to_numpy()] < curves[0, hovering.to_numpy()]).all()
    for row, path in zip(table.itertuples(), family, strict=True):
        assert ls.load_objective(path).value == pytest.approx(row.train_loss, rel=1e-4)
    unmoved = flat(sweep.folder / f"{table['start'][0]}.pt")
    assert flat(family[0]).norm() == pytest.approx(unmoved.norm().item(), rel=1e-5)  # on its sphere


def test_finetune_compares_the_lowest_and_the_highest_rate(sweep, tmp_path):
    family = train(
        "finetune", tmp_path, start=str(sweep.folder), steps=40, learning_rates=(1e-2, 1e-4, 1e-3)
    )
    record, table = family.group("comparison"), family.members
    means = table.groupby(["start_learning_rate", "learning_rate"])["test_accuracy"].mean()
    for (start, rate), value in means.items():
        found = record["test_accuracy"].sel(start_learning_rate=start, learning_rate=rate)
        assert found.item() == pytest.approx(value)
    heights = []
    for seed in (0, 1):  # by another road: the objective of each checkpoint, point by point
        low, high = (
            ls.load_objective(tmp_path / f"lr0.03-seed{seed}-ft{rate}.pt")
            for rate in ("0.0001", "0.01")
        )
        shares = torch.linspace(0, 1, 11, dtype=torch.float64)
        errors = [
            1 - low.metrics(torch.lerp(low.theta.double(), high.theta.double(), share))["accuracy"]
            for share in shares
        ]
        chord = [(1 - share) * errors[0] + share * errors[-1] for share in shares.tolist()]
        heights.append(max(error - level for error, level in zip(errors, chord, strict=True)))
    exact = sum(heights) / 2
    assert record["barrier"].sel(start_learning_rate=0.03).item() == pytest.approx(exact, abs=1e-9)


def test_a_family_is_probed_and_opened_as_it_is(sweep):
    outcomes = ls.probe(sweep, plan=ls.Plan(probes=("metrics",)))
    assert [outcome.state for outcome in outcomes] == ["measured"] * 4
    table = ls.open_results(sweep).table()
    assert len(table) == 4
    losses = sweep.members.set_index("file")["train_loss"]
    for _, row in table.iterrows():
        assert row["metrics.loss"] == pytest.approx(losses[row["checkpoint"]], rel=1e-4)


def test_swa_is_the_uniform_mean_of_the_start_and_what_follows(sweep, tmp_path):
    start = sweep.folder / "lr0.03-seed0.pt"
    options = {"start": str(start), "interval": 5}
    family = train("swa", tmp_path / "swa", counts=(1, 2, 3), **options)
    files = {row.count: family.folder / row.file for row in family.members.itertuples(index=False)}
    one, two, three = (flat(files[count]) for count in (1, 2, 3))
    assert torch.equal(one, flat(start))
    # The weights themselves, out of the means: each lies on the sphere of the start.
    size = 2048
    second, third = 2 * two - one, 3 * three - 2 * two
    for weights in (one, second, third):
        assert weights[:size].norm() == pytest.approx(1.0, rel=1e-5)
    recorded = family.members.set_index("count")["angle_to_start"]
    assert recorded[1] == pytest.approx(0, abs=1e-6)
    exact = angles(three[None, :size], one[:size]).item()
    assert recorded[3] == pytest.approx(exact, rel=1e-4)


def test_swa_recomputes_batch_statistics(tmp_path):
    start = train("single", tmp_path / "cnn", model="cnn", epochs=1, batch_size=128)
    family = train(
        "swa", tmp_path / "swa", start=str(start.folder), sphere="none", counts=(2,),
        interval=5, batch_size=128,
    )  # fmt: skip
    (path,) = family
    kept = ls.load_objective(path)
    again = ls.load_objective(path, bn="recalibrate", batch_size=2000)
    assert kept.value == pytest.approx(again.value, rel=1e-4)
    before = read_checkpoint(start[0]).state_dict["1.running_mean"]
    assert not torch.allclose(read_checkpoint(path).state_dict["1.running_mean"], before)


def test_two_stage_takes_four_paths_to_each_rate(tmp_path):
    family = train(
        "two-stage", tmp_path, steps=30, num_seeds=2, finetune_rates=(1e-4, 1e-3), batch_size=32
    )
    table = family.members
    assert len(table) == 4 * 2 * 2
    assert table.groupby("path")["step"].first().to_dict() == {"0": 30, "1": 60, "1-2": 90, "2": 60}
    assert len(family.notes) == 8
    assert len(family) == 16


def test_edge_of_stability_records_the_sharpness_of_each_network(tmp_path):
    family = train(
        "edge-of-stability", tmp_path, steps=20, learning_rates=(0.5, 1.0), num_evaluations=2,
        num_examples=100,
    )  # fmt: skip
    record = family.group("sharpness")
    assert record["edge"].values.tolist() == [4.0, 2.0]
    for index, path in enumerate(family):
        with ls.HessianOperator(ls.load_objective(path)) as hessian:
            value = ls.eigsh(hessian, k=1, which="LA", tol=1e-4, seed=1).values[0]
        assert record["sharpness"].values[-1, index] == pytest.approx(value, rel=2e-3)


@pytest.mark.slow
def test_full_batch_descent_ends_at_the_edge_of_stability(tmp_path):
    family = train("edge-of-stability", tmp_path, learning_rates=(1.0, 2.0), num_evaluations=12)
    record = family.group("sharpness")
    late = (record["sharpness"] / record["edge"])[6:]
    assert ((late > 0.95) & (late < 1.3)).all()


def test_a_forecast_counts_steps_members_and_files_and_trains_nothing(sweep):
    make = Making(sweep.folder, "finetune", {}, "", Place(), forecast=Forecast())
    starts = starting_points(make, str(sweep.folder))
    from landscape.trainers.recipes import finetune

    before = starts.stack.theta.clone()
    finetune.run(finetune.Options(start=str(sweep.folder), steps=500), make)
    (phase,) = make.forecast.phases
    assert (phase.members, phase.steps, phase.parameters) == (8, 500, 2048)
    assert phase.seconds > 0
    written = sum(path.stat().st_size for path in sweep) * 2  # twice as many, of one shape
    assert make.forecast.disk == pytest.approx(written, rel=0.3)
    assert torch.equal(starts.stack.theta, before)
    assert len(list(sweep.folder.glob("*-ft*"))) == 0
    assert "8 x 2,048 parameters" in make.forecast.lines()[0]
