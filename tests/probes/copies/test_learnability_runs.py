import numpy as np
import pytest
import torch
import torch.nn.functional as F

from landscape.errors import RequestError
from landscape.factory import Factory
from landscape.probes.copies import learnability_runs
from landscape.probes.copies.learnability_runs import ShortTraining, one_epoch_learnability
from landscape.trainers.data.prototypes import prototype_examples
from landscape.trainers.examples import Examples
from landscape.trainers.learnability import child_seeds
from landscape.trainers.models import mlp
from landscape.trainers.orders import Orders
from landscape.trainers.problems import networks

pytestmark = pytest.mark.slow  # networks are trained

DRAWN = prototype_examples(num_examples=120, num_features=16, num_classes=4)
DATA = Examples(DRAWN.inputs, DRAWN.targets)
FACTORY = Factory(
    "landscape.trainers.models:mlp", {"in_features": 16, "hidden": [16], "num_classes": 4}
)
TRAINING = ShortTraining(batch_size=16, chunk=20)


def run(**changed):
    chosen = {"copies": 20, "seed": 3, "training": TRAINING} | changed
    return one_epoch_learnability(FACTORY, DATA, **chosen)


@pytest.fixture(scope="module")
def watched():
    """What is found, and the initial weights and examples of each condition."""
    seen, fit = [], learnability_runs.fit

    def watching(stack, plan, examples, evaluations):
        seen.append((stack.theta.clone(), examples))
        return fit(stack, plan, examples, evaluations)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(learnability_runs, "fit", watching)
        return run(), seen


@pytest.fixture(scope="module")
def found(watched):
    return watched[0]


def test_real_examples_are_less_alike_than_noise_and_the_weak_ones_are_hard(found):
    assert list(found) == ["real", "random_labels", "random_inputs"]
    real, *controls = (rates.heterogeneity.over_dispersion[0] for rates in found.values())
    assert real > 1.5 * max(controls)
    assert found["real"].heterogeneity.mae_p[0] < 0.01
    assert found["real"].goodness_of_fit.p_value < 1e-6
    assert np.corrcoef(found["real"].error_rate, DRAWN.strength)[0, 1] < -0.3


def test_the_error_rate_is_the_share_of_wrong_networks_beside_its_null(found):
    for rates in found.values():
        wrong = ~rates.copies.correct[0, :, :, 0]
        np.testing.assert_allclose(rates.error_rate, wrong.mean(0), rtol=1e-12)
        np.testing.assert_array_equal(rates.sorted_error_rate, np.sort(rates.error_rate))
        assert (rates.null_low < rates.null_mean + 0.05).all()  # counts of 20 are coarse
        assert (rates.null_mean < rates.null_high + 0.05).all()
        assert (rates.null_low <= rates.null_high).all()
        assert (np.diff(rates.null_mean) >= 0).all()
        assert rates.null_mean.mean() == pytest.approx(rates.error_rate.mean(), rel=1e-9)
    assert found["real"].sorted_error_rate[0] < found["real"].null_low[0]
    assert found["real"].sorted_error_rate[-1] > found["real"].null_high[-1]


def test_each_network_is_what_a_plain_loop_makes_of_its_seed():
    found = run(epochs=2, controls=())["real"].copies.correct[0, :, :, 0]
    seeds = child_seeds(3, 20)
    orders = Orders(seeds, 120, 16)
    for index in (0, 13):
        network = networks(FACTORY, seeds).member(index)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        for step in range(2 * 8):
            rows = orders.batch(step)[0][index]
            optimizer.zero_grad()
            F.cross_entropy(network(DATA.inputs[rows]), DATA.targets[rows]).backward()
            optimizer.step()
        right = network(DATA.inputs).argmax(1) == DATA.targets
        assert (found[index] == right.numpy()).mean() > 0.98  # rounding may tip one


def test_the_controls_change_one_thing_each(watched):
    found, seen = watched
    (theta, real), (of_labels, labels), (of_inputs, inputs) = seen
    assert torch.equal(theta, of_labels)
    assert torch.equal(theta, of_inputs)
    assert torch.equal(labels.inputs, real.inputs)
    assert torch.equal(labels.targets.bincount(), real.targets.bincount())
    assert not torch.equal(labels.targets, real.targets)
    assert torch.equal(inputs.targets, real.targets)
    assert inputs.inputs.mean().item() == pytest.approx(real.inputs.mean().item(), abs=0.2)
    assert inputs.inputs.std().item() == pytest.approx(real.inputs.std().item(), rel=0.15)
    correlation = np.corrcoef(inputs.inputs.flatten(), real.inputs.flatten())[0, 1]
    assert abs(correlation) < 4 / np.sqrt(1920)
    assert found["random_labels"].copies.labels.tolist() == labels.targets.tolist()


def test_a_condition_follows_from_the_seed_whoever_stands_beside_it(found):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    alone = run(controls=["random_inputs"])
    assert torch.equal(before, torch.get_rng_state())
    assert list(alone) == ["real", "random_inputs"]
    for name, rates in alone.items():
        assert np.array_equal(rates.copies.correct, found[name].copies.correct)
        assert np.array_equal(rates.null_mean, found[name].null_mean)
    other = run(seed=4, controls=())["real"]
    assert not np.array_equal(other.copies.correct, found["real"].copies.correct)


def test_a_network_that_diverged_is_counted_and_left_out():
    made = []

    def factory():
        network = mlp(16, (16,), 4)
        if len(made) == 1:
            torch.nn.init.constant_(network[1].weight, torch.inf)
        made.append(network)
        return network

    real = one_epoch_learnability(
        factory, DATA, copies=4, seed=3, controls=(), training=ShortTraining(chunk=4)
    )["real"]
    assert real.copies.num_dropped == 1
    assert real.copies.num_copies == 3
    with pytest.raises(RequestError, match="all 20 networks diverged on real"):
        run(training=ShortTraining(learning_rate=1e30, batch_size=16, chunk=20))


def test_two_classes_may_have_one_logit():
    targets = (DATA.targets > 0).float()[:, None]
    found = one_epoch_learnability(
        lambda: mlp(16, (16,), 1),
        Examples(DATA.inputs, targets),
        copies=4,
        seed=0,
        controls=["random_labels"],
        training=ShortTraining(loss="bce", chunk=4),
    )
    assert found["random_labels"].copies.labels.sum() == targets.sum()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"copies": 1}, "copies=1"),
        ({"epochs": 0}, "epochs=0"),
        ({"controls": ["random_label"]}, "Did you mean 'random_labels'"),
    ],
)
def test_what_shows_nothing_is_refused(changed, words):
    with pytest.raises(RequestError, match=words):
        run(**changed)


def test_examples_with_several_targets_are_refused():
    data = Examples(DATA.inputs, F.one_hot(DATA.targets).float())
    with pytest.raises(RequestError, match="4 targets"):
        one_epoch_learnability(FACTORY, data, seed=0)
