import h5py
import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.trainers.execution import train
from landscape.trainers.family import load_family

SWEEP = {"steps": 8, "num_evaluations": 8, "num_seeds": 2, "learning_rates": (0.001, 0.01)}


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    return train("lr-sweep", tmp_path_factory.mktemp("family") / "sweep", **SWEEP)


def test_a_family_is_the_sequence_of_its_checkpoints(family):
    assert len(family) == len(list(family)) == 4
    assert family[0] == family.checkpoints[0]
    assert family[1:] == family.checkpoints[1:]
    assert all(path.is_file() for path in family)
    assert load_family(str(family.folder)) == family


def test_members_are_selected_by_their_settings(family):
    assert family.members["name"].tolist() == [
        "lr0.001-seed0", "lr0.001-seed1", "lr0.01-seed0", "lr0.01-seed1"
    ]  # fmt: skip
    (found,) = family.select(learning_rate=0.01, seed=1)
    assert found.name == "lr0.01-seed1.pt"
    assert family.select(seed=7) == []
    with pytest.raises(RequestError, match=r"have no 'rate'. They have: .*learning_rate"):
        family.select(rate=0.1)


def test_curves_have_a_value_for_each_member_and_time(family):
    curves = family.group("curves/training")
    assert curves["train_loss"].dims == ("time", "member")
    assert curves["member"].values.tolist() == family.members["name"].tolist()
    assert curves["step"].values.tolist() == list(range(1, 9))
    last = curves["train_loss"].values[-1]
    np.testing.assert_array_equal(family.members["train_loss"].to_numpy(), last)
    with pytest.raises(RequestError, match=r"no group 'curve'. It has: .*curves/training"):
        family.group("curve")


def test_what_is_no_family_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(RequestError, match=r"no family in .*landscape train RECIPE"):
        load_family(tmp_path)
    (tmp_path / ".state").mkdir()
    with pytest.raises(RequestError, match=r"is not finished\. Give the same"):
        load_family(tmp_path)
    (tmp_path / "family.h5").write_text("not HDF5")
    with pytest.raises(RequestError, match="cannot be read"):
        load_family(tmp_path)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [({}, "was not written by"), ({"kind": "family", "format_version": 99}, "format version 99")],
)
@pytest.mark.parametrize("force", [False, True])
def test_a_foreign_or_newer_index_is_neither_read_nor_replaced(
    tmp_path, attributes, message, force
):
    with h5py.File(tmp_path / "family.h5", "w") as file:
        file.attrs.update(attributes)
    for attempt in (lambda: load_family(tmp_path), lambda: train("single", tmp_path, force=force)):
        with pytest.raises(RequestError, match=message):
            attempt()
    assert (tmp_path / "family.h5").is_file()
