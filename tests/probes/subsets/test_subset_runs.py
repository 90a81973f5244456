from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from landscape.errors import RequestError
from landscape.probes.subsets.memorization import memorization
from landscape.probes.subsets.subset_runs import SubsetRuns
from landscape.trainers.execution import train

MASKS = [[1, 0, 1], [0, 0, 1]]
CORRECT = [[1, 1, 0], [0, 1, 1]]


@pytest.fixture
def runs():
    return SubsetRuns(
        MASKS,
        CORRECT,
        values=[[0.5, 1.0, -1.0], [-2.0, 0.25, 3.0]],
        correct_test=[[1], [0]],
        values_test=[[2.0], [-2.0]],
        labels=[0, 1, 2],
        labels_test=[1],
        provenance={"seed": 3},
    )


@pytest.mark.parametrize(
    "convert", [list, np.array, torch.tensor, lambda v: torch.tensor(v).bool()]
)
def test_masks_and_outcomes_come_as_lists_arrays_or_tensors(convert):
    runs = SubsetRuns(convert(MASKS), convert(CORRECT))
    assert runs.masks.dtype == runs.correct.dtype == bool
    assert runs.num_models == 2
    assert runs.num_examples == 3
    assert runs.num_in.tolist() == [1, 0, 2]
    assert runs.num_out.tolist() == [1, 2, 0]
    assert runs.sizes.tolist() == [2, 1]


def test_it_keeps_copies():
    masks = np.array(MASKS, dtype=bool)
    runs = SubsetRuns(masks, CORRECT)
    masks[:] = False
    assert runs.masks.any()


def test_a_selection_takes_rows_and_columns_of_everything(runs):
    part = runs.select(models=[1, 0], examples=[2, 0])
    assert part.masks.tolist() == [[True, False], [True, True]]
    assert part.correct.tolist() == [[True, False], [False, True]]
    assert part.values.tolist() == [[3.0, -2.0], [-1.0, 0.5]]
    assert part.correct_test.tolist() == [[False], [True]]
    assert part.values_test.tolist() == [[-2.0], [2.0]]
    assert part.labels.tolist() == [2, 0]
    assert part.labels_test.tolist() == [1]
    assert part.provenance == {"seed": 3}
    assert runs.select(models=np.array([False, True])).num_models == 1
    assert runs.select().masks.tolist() == runs.masks.tolist()


def test_a_file_brings_everything_back(runs, tmp_path):
    runs.save(tmp_path / "runs.npz")
    back = SubsetRuns.load(tmp_path / "runs.npz")
    for name in ("masks", "correct", "values", "correct_test", "values_test", "labels"):
        np.testing.assert_array_equal(getattr(back, name), getattr(runs, name))
    assert back.labels_test.tolist() == [1]
    assert back.provenance == {"seed": 3}
    SubsetRuns(MASKS, CORRECT).save(tmp_path / "bare.npz")
    assert SubsetRuns.load(tmp_path / "bare.npz").values is None


def test_another_file_is_refused(tmp_path):
    (tmp_path / "other.npz").write_text("no archive")
    for name in ("other.npz", "absent.npz"):
        with pytest.raises(RequestError, match="cannot be read as subset runs"):
            SubsetRuns.load(tmp_path / name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": [[1, 1], [0, 1]]}, r"correct has shape \(2, 2\), expected \(2, 3\)"),
        ({"correct": [[1, 1, 2], [0, 1, 1]]}, "other values than 0 and 1"),
        ({"correct": [[1, 1, np.nan], [0, 1, 1]]}, "other values than 0 and 1"),
        ({"masks": [1, 0, 1]}, r"masks has shape \(3,\)"),
        ({"masks": np.zeros((0, 3)), "correct": np.zeros((0, 3))}, "one model"),
        ({"values": [[0, 0, np.nan], [0, 0, 0]]}, r"values is NaN for models \[0\]"),
        ({"correct_test": [[1, 0]]}, r"correct_test has shape \(1, 2\)"),
        ({"correct_test": [[1], [0]], "values_test": [[1, 2], [0, 1]]}, "values_test has shape"),
        ({"labels": [0, 1]}, r"labels has shape \(2,\)"),
        ({"labels_test": [0]}, "labels_test has shape"),
    ],
)
def test_arrays_that_do_not_go_together_are_refused(change, message):
    given = {"masks": MASKS, "correct": CORRECT, **change}
    if "labels_test" in change:
        given["correct_test"] = [[1, 1], [0, 1]]
    with pytest.raises(RequestError, match=message):
        SubsetRuns(given.pop("masks"), given.pop("correct"), **given)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    options = {"data": "prototypes", "num_examples": 40, "num_subsets": 8, "epochs": 4, "chunk": 8}
    return train("subsets", tmp_path_factory.mktemp("family"), ratio=0.5, seed=1, **options)


def test_what_the_recipe_recorded_is_read(family):
    recorded, tests = family.group("subsets/train"), family.group("subsets/test")
    for source in (family, family.folder, str(family.folder)):
        runs = SubsetRuns.from_family(source)
        np.testing.assert_array_equal(runs.masks, recorded.mask.values.astype(bool))
        np.testing.assert_array_equal(runs.correct, recorded.correct.values.astype(bool))
        np.testing.assert_array_equal(runs.values, recorded.margin.values)
        np.testing.assert_array_equal(runs.correct_test, tests.correct.values.astype(bool))
        np.testing.assert_array_equal(runs.labels, recorded.label.values)
        np.testing.assert_array_equal(runs.labels_test, tests.label.values)
        assert runs.provenance["example_hash"] == recorded.attrs["example_hash"]
        assert runs.provenance["convention"] == "size-matched"
    soft = SubsetRuns.from_family(recorded, values="probability")
    np.testing.assert_array_equal(soft.values, recorded.probability.values)
    assert soft.correct_test is None
    assert isinstance(recorded, xr.Dataset)
    assert len(memorization(runs).value) == 40
    runs.save(family.folder / "runs.npz")  # attributes are plain enough for a file


def test_a_family_without_subsets_is_refused(family):
    other = replace(family, recipe="supervised")
    with pytest.raises(RequestError, match="recipe 'supervised'"):
        SubsetRuns.from_family(other)
    with pytest.raises(RequestError, match="unknown values 'logit'"):
        SubsetRuns.from_family(family, values="logit")
