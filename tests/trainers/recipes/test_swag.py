import pytest
import torch

from landscape.errors import RequestError
from landscape.trainers.execution import train
from landscape.trainers.recipes.swag import gaussian_samples

SHORT = {
    "pretrain_epochs": 1, "epochs": 4, "num_examples": 40, "num_members": 3, "num_scratch": 0,
    "batch_size": 16,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _no_recording():
    # To trace a graph takes longer than the few steps of these tests.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("landscape.trainers.gradients._recorded", lambda *_: (None, 0))
        yield


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("count", [2, 3, 20])  # fewer weights than coordinates, and more
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_samples_have_the_covariance_of_the_closed_form(count, scale):
    weights = torch.randn(count, 6, generator=generator(), dtype=torch.float64)
    weights = weights @ torch.randn(6, 6, generator=generator(1), dtype=torch.float64)
    num_samples = 40_000
    drawn = gaussian_samples(weights, num_samples, generator=generator(2), scale=scale)
    covariance = weights.T.cov()
    exact = scale / 2 * (torch.diag(covariance.diagonal()) + covariance)
    error = (exact.diagonal() / num_samples).sqrt()
    assert ((drawn.mean(0) - weights.mean(0)).abs() < 4.5 * error).all()
    spread = exact.diagonal()[:, None] * exact.diagonal() + exact.square()
    assert ((drawn.T.cov() - exact).abs() < 4.5 * (spread / num_samples).sqrt()).all()


def test_equal_weights_are_drawn_as_they_are():
    weights = torch.ones(3, 5)
    assert torch.equal(gaussian_samples(weights, 2, generator=generator()), torch.ones(2, 5))


def test_the_mean_of_the_collected_weights_is_kept_and_samples_lie_around_it(tmp_path):
    family = train("swag", tmp_path / "out", scale=1e-12, **SHORT)
    states = [
        torch.load(family.folder / f"{name}.pt", weights_only=True)["state_dict"]
        for name in ("mean", "model-2", "model-3")
    ]
    for key in states[0]:
        torch.testing.assert_close(states[1][key], states[0][key], rtol=0, atol=1e-5)
        torch.testing.assert_close(states[2][key], states[0][key], rtol=0, atol=1e-5)
    assert family.members.set_index("name").loc["mean", "role"] == "mean"


def test_one_epoch_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"epoch_ratio=0\.1 leaves one epoch"):
        train("swag", tmp_path / "out", epoch_ratio=0.1, **SHORT)


@pytest.mark.slow
def test_the_headers_numbers_hold(tmp_path):
    ensemble = train("swag", tmp_path / "out").group("ensemble")
    assert float(ensemble["ensemble_test_accuracy"]) > 0.93
    assert float(ensemble["barrier"][:-1].max()) < 0.01
