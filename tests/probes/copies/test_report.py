import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.probes.copies.copies import Copies
from landscape.probes.copies.heterogeneity import heterogeneity
from landscape.probes.copies.matching import first_time_above, match_times
from landscape.probes.copies.report import copies_report
from landscape.trainers.execution import train

CONTRACT = {
    ("time", "object"): {"learnability"},
    ("time",): {
        "mean_learnability", "mae", "mae_null", "mae_p", "over_dispersion", "over_dispersion_p",
        "chi_square", "chi_square_p", "object_share", "view_share", "object_share_low",
        "object_share_high",
    },
    ("time", "class"): {"class_learnability"},
}  # fmt: skip


def answers(times=3, augmentations=3, **named):
    rng = np.random.default_rng(0)
    hard = rng.uniform(-0.3, 0.3, (1, 1, 40, 1))
    level = np.linspace(0.35, 0.65, times)[:, None, None, None]
    correct = rng.random((times, 6, 40, augmentations)) < level + hard
    return Copies(correct, **{"labels": np.arange(40) % 4, "chance": 0.25, **named})


@pytest.fixture(scope="module")
def report():
    return copies_report(answers(), seed=0, num_draws=50)


def test_the_dataset_has_what_was_promised_with_units_and_names(report):
    dataset = report.to_dataset()
    for dims, names in CONTRACT.items():
        for name in names:
            assert dataset[name].dims == dims, name
            assert np.isfinite(dataset[name]).all(), name
    for name, variable in dataset.data_vars.items():
        assert variable.attrs["units"] == "1", name
        assert variable.attrs["long_name"], name
    assert dataset["class"].values.tolist() == [0, 1, 2, 3]
    assert report.probe == "copies"
    assert report.status == "converged"


def test_the_numbers_are_those_of_the_single_measurements(report):
    copies, dataset = report.copies, report.to_dataset()
    np.testing.assert_array_equal(dataset.learnability, copies.learnability)
    np.testing.assert_array_equal(dataset.mean_learnability, copies.mean_learnability)
    np.testing.assert_array_equal(dataset.sorted_learnability, np.sort(copies.learnability, 1))
    np.testing.assert_array_equal(dataset.mae, report.heterogeneity.mae)
    np.testing.assert_array_equal(dataset.view_mae, report.view_heterogeneity.mae)
    np.testing.assert_array_equal(dataset.object_share, report.components.object_share.value)
    by_class = copies.learnability.reshape(3, 10, 4).mean(1)
    np.testing.assert_allclose(dataset.class_learnability, by_class, rtol=1e-12)
    for name in ("learnability", "class_learnability", "object_share", "view_share"):
        assert (dataset[f"{name}_low"] <= dataset[name]).all(), name
        assert (dataset[name] <= dataset[f"{name}_high"]).all(), name
        assert (dataset[f"{name}_low"] < dataset[f"{name}_high"]).any(), name


def test_averages_have_the_null_of_permuted_copies_and_single_views_the_binomial_one(report):
    assert report.heterogeneity.null == "copies"
    assert report.view_heterogeneity.null == "binomial"
    assert report.beyond_views.null == "views"
    for found in (report.heterogeneity, report.view_heterogeneity, report.beyond_views):
        assert found.num_draws == 50
    first = heterogeneity(report.copies.view(0), num_draws=50, seed=9)
    assert np.array_equal(first.over_dispersion, report.view_heterogeneity.over_dispersion)


def test_the_headline_is_the_time_whose_mean_is_nearest_one_half(report):
    dataset = report.to_dataset()
    nearest = int(np.abs(report.copies.mean_learnability - 0.5).argmin())
    assert nearest == 1
    assert dataset.time_at_half == report.copies.times[nearest]
    scalars = [name for name in dataset.data_vars if name.endswith("_at_half")]
    assert len(scalars) == 15
    for name in scalars:
        of_time = name.removesuffix("_at_half")
        assert dataset[name].ndim == 0
        assert dataset[name] == dataset[of_time][nearest]
    assert np.isnan(dataset.time_above_75)
    assert dataset.time_above_50 == first_time_above(report.copies, [0.5])[0]


def test_one_augmentation_has_one_measurement_and_no_share():
    report = copies_report(answers(augmentations=1, labels=None), seed=0, num_draws=20)
    dataset = report.to_dataset()
    assert report.beyond_views is None
    assert "class" not in dataset.coords
    assert "mae_null_beyond_views" not in dataset
    np.testing.assert_array_equal(dataset.mae, dataset.view_mae)
    assert np.isnan(dataset.object_share).all()


def test_copies_that_know_all_or_nothing_leave_it_undefined():
    report = copies_report(Copies(np.ones((2, 3, 5, 2))), seed=0, num_draws=10)
    assert report.status.startswith("undefined")
    dataset = report.to_dataset()
    for name in ("mae", "mae_p", "over_dispersion", "chi_square", "chi_square_p", "object_share"):
        assert np.isnan(dataset[name]).all(), name


def test_a_seed_repeats_all_of_it_and_settings_are_kept(report):
    again = copies_report(answers(), seed=0, num_draws=50)
    assert report.to_dataset().equals(again.to_dataset())
    assert not report.to_dataset().equals(copies_report(answers(), seed=1).to_dataset())
    assert report.settings == {"seed": 0, "num_draws": 50, "confidence": 0.95}


def test_copies_that_were_left_out_are_noted():
    report = copies_report(answers(times=1, num_dropped=2), seed=0, num_draws=10)
    assert report.notes == ("2 copies diverged and were left out",)
    assert report.to_dataset().num_diverged == 2


def test_one_copy_is_refused():
    with pytest.raises(RequestError, match="there is one copy"):
        copies_report(Copies(np.eye(3)[None, :1]), seed=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Prototypes under noise: objects show their class more or less strongly."""
    shared = {
        "num_copies": 6, "num_objects": 96, "num_augmentations": 5, "num_examples": 256,
        "batch_size": 64, "chunk": 6, "epochs": 16,
    }  # fmt: skip
    more = {"simclr": {"num_candidates": 96, "dim": 32}, "supervised": {}}
    folders = {name: tmp_path_factory.mktemp(name) for name in more}
    for name, options in more.items():
        train(name, folders[name], **shared, **options)
    return {name: copies_report(Copies.from_family(f), seed=0) for name, f in folders.items()}


@pytest.mark.slow
def test_objects_differ_in_supervised_training_and_single_views_in_contrastive(trained):
    simclr, supervised = trained["simclr"].copies, trained["supervised"].copies
    start = int(np.flatnonzero(simclr.times == first_time_above(simclr, [0.75])[0])[0])
    matching = match_times(simclr, supervised)
    other = int(matching.indices[start])
    assert abs(matching.mismatch[start]) < 0.05
    contrastive = trained["simclr"].to_dataset().isel(time=start)
    classified = trained["supervised"].to_dataset().isel(time=other)
    assert classified.object_share_low > contrastive.object_share_high
    assert contrastive.view_share > 0.8
    assert classified.object_share > 0.6
    # One fixed augmentation is heterogeneous in both, and averaging removes it in one.
    assert contrastive.view_over_dispersion_p < 0.02
    assert classified.view_over_dispersion_p < 0.02
    assert contrastive.mae_p_beyond_views > 0.05
    assert classified.mae_p_beyond_views < 0.02
    assert classified.mae > contrastive.mae


@pytest.mark.slow
def test_the_families_are_read_with_their_epochs_and_chances(trained):
    for name, chance in (("simclr", 1 / 191), ("supervised", 0.1)):
        copies = trained[name].copies
        assert copies.chance == pytest.approx(chance)
        assert copies.times.tolist() == list(range(17))
        assert copies.correct.shape == (17, 6, 96, 5)
        assert copies.num_dropped == 0
