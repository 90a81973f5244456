import pytest
import torch

import landscape
from landscape.errors import RequestError
from landscape.trainers.execution import train

SHORT = {"steps": 8, "num_evaluations": 8, "num_seeds": 2, "learning_rates": (0.001, 0.01)}


def test_every_checkpoint_measures_the_train_loss_that_was_recorded(tmp_path):
    family = train("lr-sweep", tmp_path, **SHORT)
    for path, loss in zip(family, family.members["train_loss"], strict=True):
        objective = landscape.load_objective(path, dtype="float64")
        assert float(objective.loss()) == pytest.approx(loss, rel=1e-5)


@pytest.mark.parametrize(("steps", "last", "kept"), [(10, 3, 3), (9, 0, 1), (8, 10, 8)])
def test_the_last_weights_end_with_the_last_step(tmp_path, steps, last, kept):
    family = train("lr-sweep", tmp_path, **{**SHORT, "steps": steps, "last_weights": last})
    found = sorted(set(family.members["step"]))
    assert len(found) == kept
    assert found == list(range(steps - kept + 1, steps + 1))
    assert len(family) == 4 * kept


def test_a_rate_that_is_there_twice_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"'lr0.1-seed0' would be trained twice"):
        train("lr-sweep", tmp_path, **{**SHORT, "learning_rates": (0.1, 0.1)})


def test_a_diverged_member_is_listed_without_a_file_and_the_others_are_kept(tmp_path):
    options = {"sphere": "none", "data": "digits", "model": "mlp", "num_seeds": 1}
    family = train("lr-sweep", tmp_path, **{**SHORT, **options, "learning_rates": (0.01, 1e30)})
    assert family.members["diverged"].astype(bool).tolist() == [False, True]
    assert family.members["file"].tolist() == ["lr0.01-seed0.pt", ""]
    assert family.members["regime"].tolist()[1] == 3
    assert len(family) == 1


@pytest.mark.slow
def test_ticks_on_the_sphere_have_three_regimes(tmp_path):
    rates = (0.0003, 0.001, 0.02, 0.03, 0.3, 1.0)
    family = train("lr-sweep", tmp_path, steps=8000, num_seeds=2, learning_rates=rates)
    found = family.group("regimes")
    assert found["regime"].values.tolist() == [1, 1, 2, 2, 3, 3]
    members = torch.load(family[0], weights_only=True)["state_dict"]
    norms = [members[name].double().norm() for name in ("0.weight", "3.weight")]
    assert float(torch.stack(norms).norm()) == pytest.approx(1, abs=1e-6)
