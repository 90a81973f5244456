"""The report: one record that agrees with its parts, says its doubts and fits in memory."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.probes.ensembles.evaluation import evaluate
from landscape.probes.ensembles.gains import gain_curve
from landscape.probes.ensembles.ood import OOD_SCORES, ood_scores, separation
from landscape.probes.ensembles.report import ensemble_report
from landscape.probes.ensembles.temperature import calibrated_nll


@pytest.fixture
def report(draw):
    return ensemble_report(*draw(3, 60, 3), num_bins=6, seed=1)


def test_members_and_ensemble_are_those_of_the_evaluation(draw, report):
    held = evaluate(*draw(3, 60, 3))
    assert report.accuracy == held.correct.mean()
    assert report.nll == pytest.approx(held.nll.mean())
    np.testing.assert_allclose(report.member_accuracy, held.member_correct.mean(1))
    np.testing.assert_allclose(report.member_nll, held.member_nll.mean(1))
    np.testing.assert_allclose(report.member_brier, held.member_brier.mean(1))
    for index in range(3):
        alone = ensemble_report(held.members.logits[index], held.labels, num_bins=6)
        assert report.member_ece[index] == pytest.approx(alone.calibration.ece)


def test_the_gain_curve_ends_at_the_ensemble(report):
    assert report.gains.nll[-1] == pytest.approx(report.nll)
    assert report.gains.accuracy[-1] == report.accuracy
    assert report.gains.calibrated_nll[-1] == pytest.approx(report.temperature.value)
    np.testing.assert_allclose(report.gains.nll[0], report.member_nll.mean())


def test_copies_are_one_network(draw):
    logits, labels = draw(1, 60, 3)
    one = ensemble_report(logits, labels)
    three = ensemble_report(np.repeat(logits, 3, 0), labels)
    assert three.nll == one.nll
    assert three.temperature.value == one.temperature.value
    assert three.calibration.ece == one.calibration.ece
    for name in ("disagreement", "mutual_information", "brier_gain"):
        assert three.headline[name].value == 0
        assert three.headline[name].high == 0


def test_one_member_is_reported_with_a_note(draw):
    logits, labels = draw(1, 60, 3)
    report = ensemble_report(logits[0], labels)
    assert report.status == "converged"
    assert any("one member" in note for note in report.notes)
    dataset = report.to_dataset()
    assert dataset.num_members == 1
    assert dataset.disagreement == 0
    assert math.isnan(dataset.kappa)


def test_the_dataset_has_the_promised_variables_with_unit_and_name(draw):
    logits, labels = draw(3, 60, 3)
    report = ensemble_report(logits, labels, reference=logits, ood=logits[:, :9])
    dataset = report.to_dataset()
    assert report.probe == "ensemble"
    for name in ("accuracy", "nll", "brier", "ece"):
        assert dataset[name].dims == ("member",)
    for name in ("gain_accuracy", "gain_nll", "gain_brier", "gain_calibrated_nll"):
        assert dataset[name].dims == ("size",)
        assert dataset[f"{name}_spread"].dims == ("size",)
    assert dataset["size"].values.tolist() == [1, 2, 3]
    for name in ("bin_confidence", "bin_accuracy", "bin_count"):
        assert dataset[name].dims == ("bin",)
    assert dataset.sizes["bin"] == 15
    scores = ("ensemble_accuracy", "ensemble_nll", "ensemble_brier", "calibrated_nll")
    apart = ("disagreement", "normalized_disagreement", "mutual_information")
    for name in (*scores, *apart):
        ends = [dataset[f"{name}{end}"].item() for end in ("_low", "", "_high")]
        assert ends == sorted(ends), name
    for name in ("ensemble_ece", "ensemble_ece_debiased", "ece_null_high", "temperature"):
        assert dataset[name].shape == ()
    assert dataset.ece_null_low < dataset.ece_null_mean < dataset.ece_null_high
    assert dataset.deep_ensemble_equivalent == pytest.approx(3)
    assert dataset.deep_ensemble_beyond == 0
    for name in dataset.variables:
        assert set(dataset[name].attrs) == {"units", "long_name"}, name
    names = [dataset[name].attrs["long_name"] for name in dataset.variables]
    assert len(names) == len(set(names))


def test_the_dataset_does_not_read_the_settings(report):
    object.__setattr__(report, "settings", None)
    assert report.to_dataset().num_examples == 60


def test_a_reference_may_be_logits_or_its_curve(draw):
    logits, labels = draw(4, 200, 3, spread=2)
    whole = gain_curve(logits, labels)
    for reference in (logits, whole):
        found = ensemble_report(logits[:2], labels, reference=reference).equivalent
        value = ensemble_report(logits[:2], labels).temperature.value
        assert np.interp(found.size, whole.sizes, whole.calibrated_nll) == pytest.approx(value)
    best = ensemble_report(logits, labels, reference=logits[:1]).equivalent
    assert (best.size, best.relation) == (1, "more")
    noise = 9 * np.random.default_rng(0).normal(size=(2, 200, 3))
    for given, side in ((logits, 1), (noise, -1)):
        found = ensemble_report(given, labels, reference=logits[:1]).to_dataset()
        assert found.deep_ensemble_beyond == side


def test_an_infinite_loss_has_no_equivalent_and_says_why():
    logits = np.array([[[0.0, 1.0]] * 6, [[0.0, 2.0]] * 6])
    report = ensemble_report(logits, [1, 1, 1, 1, 1, 0], reference=logits)
    assert report.equivalent is None
    finite = replace(gain_curve(logits, [1, 1, 1, 1, 1, 0]), calibrated_nll=np.array([0.5, 0.4]))
    assert ensemble_report(logits, [1, 1, 1, 1, 1, 0], reference=finite).equivalent is None
    assert report.status.startswith("the calibrated loss is infinite")
    assert any("5 of 10 halves are separable" in note for note in report.notes)
    assert math.isinf(report.to_dataset().calibrated_nll)


def test_a_temperature_without_certificate_is_not_converged(draw, monkeypatch):
    from landscape.probes.ensembles import temperature

    monkeypatch.setattr(temperature, "_MAX_STEPS", 1)
    assert ensemble_report(*draw(2, 60, 3)).status.startswith("not converged")


def test_examples_from_outside_are_told_by_every_score(draw):
    logits, labels = draw(3, 60, 3)
    strange = 0.1 * np.random.default_rng(0).normal(size=(3, 20, 3))
    report = ensemble_report(logits, labels, ood=strange)
    inside, outside = ood_scores(logits), ood_scores(strange)
    assert list(report.ood) == list(OOD_SCORES)
    for name, found in report.ood.items():
        assert found == separation(inside[name], outside[name])
    assert report.ood["max_probability"].auroc > 0.8
    assert report.to_dataset().ood_auroc_entropy == report.ood["entropy"].auroc
    with pytest.raises(RequestError, match="ood has logits of 2 members"):
        ensemble_report(logits, labels, ood=strange[:2])


def test_one_logit_is_two_classes(draw):
    logits, _ = draw(3, 30, 1)
    labels = np.arange(30) % 2
    pair = np.concatenate([np.zeros_like(logits), logits], -1)
    one, other = ensemble_report(logits, labels), ensemble_report(pair, labels)
    flat = ensemble_report(logits[..., 0], labels)
    assert one.nll == pytest.approx(other.nll, rel=1e-12)
    assert flat.nll == one.nll


def test_large_logits_are_finite_throughout(draw):
    logits, labels = draw(3, 60, 3)
    dataset = ensemble_report(1e4 * logits, labels).to_dataset()
    assert dataset.ensemble_nll > 100
    finite = [name for name in dataset.data_vars if not np.isfinite(dataset[name]).all()]
    # Of one subset there is no deviation, and some bins are empty.
    assert all(name.endswith("_spread") or name.startswith("bin_") for name in finite), finite


def test_the_seed_repeats_everything(draw):
    logits, labels = draw(5, 40, 3)
    one, again, other = (ensemble_report(logits, labels, seed=s) for s in (1, 1, 2))
    assert one.to_dataset().identical(again.to_dataset())
    assert one.provenance == again.provenance
    assert other.temperature.value != one.temperature.value
    assert other.calibration.ece_null != one.calibration.ece_null


def test_the_provenance_tells_logits_and_labels_apart(draw):
    logits, labels = draw(2, 20, 3)
    one = ensemble_report(logits, labels).provenance
    swapped = ensemble_report(np.stack([logits[0], logits[0]]), labels).provenance
    relabelled = ensemble_report(logits, np.roll(labels, 1)).provenance
    assert swapped["logits_fingerprint"] != one["logits_fingerprint"]
    assert swapped["labels_fingerprint"] == one["labels_fingerprint"]
    assert relabelled["labels_fingerprint"] != one["labels_fingerprint"]


def test_what_was_handed_over_is_left_as_it_was(draw):
    logits, labels = draw(2, 20, 3)
    before = logits.copy(), labels.copy()
    ensemble_report(logits, labels)
    np.testing.assert_array_equal(logits, before[0])
    np.testing.assert_array_equal(labels, before[1])


def test_members_with_nan_and_single_examples_are_refused(draw):
    logits, labels = draw(3, 10, 3)
    logits[2, 4] = math.nan
    with pytest.raises(RequestError, match="member 2 has logits that are not finite at 1 of 10"):
        ensemble_report(logits, labels)
    with pytest.raises(RequestError, match="2 or more examples"):
        ensemble_report(logits[:, :1], labels[:1])
    with pytest.raises(RequestError, match="confidence=95"):
        ensemble_report(logits[:2], labels, confidence=95)
    with pytest.raises(RequestError, match="num_bins=0"):
        ensemble_report(logits[:2], labels, num_bins=0)


@pytest.mark.slow
def test_the_logits_are_held_once():
    program = """
import resource
import numpy as np
from landscape.probes.ensembles import evaluation, report
generator = np.random.default_rng(0)
logits = generator.normal(size=(30, 20_000, 20)).astype(np.float32)  # 48 MB, 96 MB in float64
labels = generator.integers(0, 20, 20_000)
report.ensemble_report(logits[:2, :50], labels[:50])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
held = evaluation.evaluate(logits, labels)
for subset in held.members.ensembles([(0, 1), tuple(range(30))]):
    pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    columns = 5 * 30 * 20_000 * 8 / 2**20 / 4  # about what the evaluation keeps for each example
    assert float(done.stdout) < 150 + columns


def test_the_calibrated_loss_is_that_of_its_own_function(draw, report):
    held = evaluate(*draw(3, 60, 3))
    assert (
        report.temperature.value == calibrated_nll(held.log_probability, held.labels, seed=1).value
    )
