"""Stacked training against plain PyTorch loops, which share none of its code."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape.errors import RequestError
from landscape.trainers.examples import Examples
from landscape.trainers.models import cnn, mlp, tick_mlp, transformer
from landscape.trainers.optimizers import Optimizer
from landscape.trainers.schedules import cosine
from landscape.trainers.stacking import stack
from landscape.trainers.training import Plan, Watch, fit

MEMBERS, NUM, SEEN, BATCH, STEPS = 4, 11, 8, 3, 20  # batches of 3, 3 and 2
SEEDS = [3, 0, 3, 12]  # two members see the same order, under other rates
RATES = [0.02, 0.1, 0.05, 0.03]
DECAYS = [0.0, 0.01, 0.1, 0.03]

NETWORKS = {
    "mlp": lambda: mlp(6, (7, 5), 3),
    "mlp-layernorm": lambda: mlp(6, (7,), 3, "tanh", norm="layer"),
    "cnn-batchnorm": lambda: cnn(1, 2, 3),
    "transformer": lambda: transformer(vocabulary=5, context=4, dim=8, depth=1, heads=2),
}
OPTIMIZERS = {
    "sgd": (Optimizer(), lambda p, lr: torch.optim.SGD(p, lr)),
    "sgd-decay": (Optimizer(), lambda p, lr, wd: torch.optim.SGD(p, lr, weight_decay=wd)),
    "momentum": (
        Optimizer(momentum=0.9),
        lambda p, lr, wd: torch.optim.SGD(p, lr, momentum=0.9, weight_decay=wd),
    ),
    "nesterov": (
        Optimizer(momentum=0.8, nesterov=True),
        lambda p, lr, wd: torch.optim.SGD(p, lr, momentum=0.8, nesterov=True, weight_decay=wd),
    ),
    "adam": (Optimizer("adam"), lambda p, lr, wd: torch.optim.Adam(p, lr, weight_decay=wd)),
    "adamw": (
        Optimizer("adamw", betas=(0.8, 0.95), eps=1e-6),
        lambda p, lr, wd: torch.optim.AdamW(p, lr, betas=(0.8, 0.95), eps=1e-6, weight_decay=wd),
    ),
    "clipped": (Optimizer(momentum=0.9, clip=0.3), lambda p, lr: torch.optim.SGD(p, lr, 0.9)),
}


def new_models(name, dtype=torch.float64):
    models = []
    for seed in range(MEMBERS):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            models.append(NETWORKS[name]().to(dtype))
    return models


def new_data(name, dtype=torch.float64):
    """Inputs for all, two sets of labels, and the part of the examples that each member sees."""
    generator = torch.Generator().manual_seed(5)
    if name == "transformer":
        inputs = torch.randint(5, (NUM, 4), generator=generator)
        targets = torch.randint(5, (2, NUM, 4), generator=generator)
    else:
        shape = (NUM, 1, 8, 8) if name == "cnn-batchnorm" else (NUM, 6)
        inputs = torch.randn(shape, generator=generator, dtype=dtype)
        targets = torch.randint(3, (2, NUM), generator=generator)
    subsets = torch.stack([torch.randperm(NUM, generator=generator)[:SEEN] for _ in SEEDS])
    return inputs, targets, torch.tensor([0, 1, 1, 0]), subsets


def order(seed, epoch):
    word = np.random.SeedSequence(seed, spawn_key=(0, epoch)).generate_state(1, np.uint64)[0]
    return torch.randperm(SEEN, generator=torch.Generator().manual_seed(int(word)))


def one_by_one(models, data, make_optimizer, *, decay=True, clip=None, annealed=False):
    """What a reader would write for one network, for each of them."""
    inputs, targets, label_set, subsets = data
    trained, per_epoch = [], math.ceil(SEEN / BATCH)
    for m, model in enumerate(models):
        model = copy.deepcopy(model).train()
        more = [DECAYS[m]] if decay else []
        optimizer = make_optimizer(model.parameters(), RATES[m], *more)
        for step in range(STEPS):
            epoch, position = divmod(step, per_epoch)
            seen = subsets[m][order(SEEDS[m], epoch)][position * BATCH : (position + 1) * BATCH]
            outputs, wanted = model(inputs[seen]), targets[label_set[m]][seen]
            loss = F.cross_entropy(outputs.reshape(-1, outputs.shape[-1]), wanted.reshape(-1))
            optimizer.zero_grad()
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            if annealed:
                optimizer.param_groups[0]["lr"] = (
                    RATES[m] * (1 + math.cos(math.pi * step / STEPS)) / 2
                )
            optimizer.step()
        trained.append(model)
    return trained


def together(models, data, optimizer, *, decay=True, annealed=False, **more):
    inputs, targets, label_set, subsets = data
    plan = Plan(
        steps=STEPS,
        learning_rate=RATES,
        batch_size=BATCH,
        seeds=SEEDS,
        loss="cross_entropy",
        optimizer=optimizer,
        weight_decay=DECAYS if decay else None,
        subsets=subsets,
        **{"schedule": cosine(STEPS)} if annealed else {},
        **{"chunk": MEMBERS, **more},
    )
    examples = Examples(inputs, targets, None, label_set)
    return fit(stack([m.train() for m in models]), plan, examples)


def difference(trained, models, *, without_key_bias=False):
    """The largest difference of any weight or buffer, in units of the largest weight."""
    worst = 0.0
    for m, model in enumerate(models):
        held = trained.stack.member(m).state_dict()
        for name, expected in model.state_dict().items():
            if expected.is_floating_point():
                apart = (held[name] - expected).abs()
                if without_key_bias and name.endswith("attend.bias"):
                    apart = apart.view(3, -1)[[0, 2]]
                worst = max(worst, apart.max().item())
            else:
                assert torch.equal(held[name], expected)  # num_batches_tracked
    return worst / trained.stack.theta.abs().max().item()


def pairs():
    """Each network and each rule in float64; the rest, of which recording takes long, is slow."""
    for network in NETWORKS:
        for rule in OPTIMIZERS:
            for dtype, bound in [(torch.float64, 1e-12), (torch.float32, 1e-6)]:
                quick = network == "mlp" or (rule == "momentum" and bound < 1e-6)
                marks = () if quick else pytest.mark.slow
                name = f"{network}-{rule}-{str(dtype)[6:]}"
                yield pytest.param(network, rule, dtype, bound, marks=marks, id=name)


@pytest.mark.parametrize(("network", "rule", "dtype", "bound"), [*pairs()])
def test_a_stack_is_trained_as_its_members_would_be_one_by_one(network, rule, dtype, bound):
    models, data = new_models(network, dtype), new_data(network, dtype)
    optimizer, plain = OPTIMIZERS[rule]
    decay = rule not in ("sgd", "clipped")
    expected = one_by_one(models, data, plain, decay=decay, clip=optimizer.clip)
    trained = together(models, data, optimizer, decay=decay)
    assert ((trained.stack.theta - stack(models).theta).abs().amax(1) > 0.01).all()
    # Adam divides by the gradient's size. A key's bias has none, as softmax takes it away: its
    # steps are those of rounding. Elsewhere, where a gradient is small, Adam magnifies rounding:
    # 2e-6 was measured in the CNN, 4e-4 in the transformer.
    is_adam = rule.startswith("adam")
    if is_adam and dtype == torch.float32:
        bound = 1e-3 if network == "transformer" else 1e-5
    found = difference(trained, expected, without_key_bias=is_adam and network == "transformer")
    assert found < bound


def test_a_schedule_multiplies_the_rate_of_every_member():
    models, data = new_models("mlp"), new_data("mlp")
    optimizer, plain = OPTIMIZERS["momentum"]
    expected = one_by_one(models, data, plain, annealed=True)
    assert difference(together(models, data, optimizer, annealed=True), expected) < 1e-12


@pytest.mark.parametrize(
    "network", ["mlp", *(pytest.param(n, marks=pytest.mark.slow) for n in [*NETWORKS][1:])]
)
@pytest.mark.parametrize("chunk", [1, 3])
def test_the_number_of_members_in_one_graph_does_not_matter(network, chunk):
    models, data = new_models(network), new_data(network)
    optimizer = Optimizer(momentum=0.9, clip=0.5)
    whole = together(models, data, optimizer)
    split = together(models, data, optimizer, chunk=chunk)
    assert (split.chunk, whole.chunk) == (chunk, MEMBERS)
    torch.testing.assert_close(split.stack.theta, whole.stack.theta, rtol=0, atol=1e-12)
    for name, buffer in whole.stack.buffers.items():
        torch.testing.assert_close(split.stack.buffers[name], buffer, rtol=1e-12, atol=1e-12)


def test_the_stack_that_is_given_stays_as_it_is():
    models = new_models("cnn-batchnorm")
    members = stack([m.train() for m in models])
    before = members.clone()
    plan = small_plan(learning_rate=RATES, seeds=SEEDS, evaluate_at=(0, 2))
    inputs, targets, *_ = new_data("cnn-batchnorm")
    fit(members, plan, Examples(inputs, targets[0]))
    assert torch.equal(members.theta, before.theta)
    assert all(torch.equal(members.buffers[k], before.buffers[k]) for k in before.buffers)


def small_plan(**more):
    options = {"steps": 7, "learning_rate": [0.1] * MEMBERS, "batch_size": 4, "seeds": [0, 1, 2, 3]}
    return Plan(**{**options, "loss": "cross_entropy", "chunk": MEMBERS, **more})


def test_a_member_that_diverges_leaves_the_others_alone():
    models, data = new_models("mlp"), new_data("mlp")
    inputs, targets, _, _ = data
    examples = Examples(inputs, targets[0])
    healthy = fit(stack(models), small_plan(), examples)
    plan = small_plan(learning_rate=[0.1, 1e200, 0.1, 0.1])
    mixed = fit(stack(models), plan, examples, {"train": examples})
    rows = [0, 2, 3]
    assert not mixed.stack.theta[1].isfinite().all()
    assert torch.equal(mixed.stack.theta[rows], healthy.stack.theta[rows])
    assert np.isfinite(mixed.curves["train_loss"][-1]).tolist() == [True, False, True, True]


def test_curves_are_those_of_the_weights_at_their_step():
    models, data = new_models("mlp"), new_data("mlp")
    inputs, targets, _, _ = data
    examples = Examples(inputs, targets[0])
    plan = small_plan(evaluate_at=(0, 3), snapshots=(0, 3, 7), batch_size=NUM)
    trained = fit(stack(models), plan, examples, {"train": examples})
    assert trained.steps.tolist() == [0, 3, 7]
    for row, step in enumerate(trained.steps):
        for m in range(MEMBERS):
            with torch.no_grad():
                loss = F.cross_entropy(trained.at(int(step)).member(m)(inputs), targets[0]).item()
            assert trained.curves["train_loss"][row, m] == pytest.approx(loss, rel=1e-12)
    assert np.isnan(trained.curves["running_loss"][0]).all()
    # Full batches: the mean of the losses at steps 0, 1 and 2.
    assert (trained.curves["running_loss"][1] < trained.curves["train_loss"][0]).all()
    assert (trained.curves["running_loss"][1] > trained.curves["train_loss"][1]).all()


# --- Interrupted, and gone on with ---


class Disturb(nn.Module):
    """Noise of its own, as a network may say of itself."""

    draws = True

    def forward(self, inputs):
        return inputs + 0.1 * torch.randn_like(inputs) if self.training else inputs


def turned(images, uniforms):
    return images + uniforms[:, :1]


def case(name):
    """Models, plan and examples of a short run."""
    models, (inputs, targets, *_) = new_models("mlp"), new_data("mlp")
    more = {"evaluate_at": (0, 2, 5), "snapshots": (1, 4), "record": ("train",)}
    match name:
        case "momentum":
            more["optimizer"] = Optimizer(momentum=0.9)
        case "adam":
            more |= {"optimizer": Optimizer("adam"), "learning_rate": [0.01] * MEMBERS}
        case "noise":
            more["optimizer"] = Optimizer(noise=0.01)
        case "dropout":
            models = [nn.Sequential(m, nn.Dropout(0.3)) for m in models]
        case "draws":
            models = [nn.Sequential(m, Disturb()) for m in models]
        case "augmentation":
            more |= {"augment": turned, "num_uniforms": 2}
        case "batchnorm":
            models, (inputs, targets, *_) = new_models("cnn-batchnorm"), new_data("cnn-batchnorm")
        case "sphere" | "riemannian":
            models = [tick_mlp(6, 5).double() for _ in models]
            targets = (targets % 2).double().unsqueeze(-1)
            more |= {"loss": "bce", "groups": (("0.weight", "3.weight"),)}
            more["sphere"] = "projected" if name == "sphere" else "riemannian"
    examples = Examples(inputs, targets[0])
    return stack([m.train() for m in models]), small_plan(**more), examples


CASES = [
    "momentum",
    "adam",
    "noise",
    "dropout",
    "draws",
    "augmentation",
    "batchnorm",
    "sphere",
    "riemannian",
]


@pytest.mark.parametrize(
    ("name", "stopped_at"),
    [
        *((name, step) for name in CASES if name != "batchnorm" for step in (1, 3, 7)),
        pytest.param("batchnorm", 3, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_was_interrupted_ends_as_one_that_was_not(name, stopped_at):
    members, plan, examples = case(name)
    whole = fit(members, plan, examples, {"train": examples})
    disk = {}

    def keep(state):
        disk["state"] = copy.deepcopy(state)
        if state["step"] == stopped_at:
            raise KeyboardInterrupt

    def load():
        return copy.deepcopy(disk.get("state"))

    with pytest.raises(KeyboardInterrupt):
        fit(members, plan, examples, {"train": examples}, Watch(load, keep, interval=0.0))
    again = fit(members, plan, examples, {"train": examples}, Watch(load, interval=0.0))
    assert_same(again, whole)


def assert_same(found, expected):
    assert torch.equal(found.stack.theta, expected.stack.theta)
    for name, buffer in expected.stack.buffers.items():
        assert torch.equal(found.stack.buffers[name], buffer)
    assert found.steps.tolist() == expected.steps.tolist()
    for name, curve in expected.curves.items():
        np.testing.assert_array_equal(found.curves[name], curve)
    for evaluation, fields in expected.outcomes.items():
        for name, values in fields.items():
            np.testing.assert_array_equal(found.outcomes[evaluation][name], values)
    assert found.snapshots.keys() == expected.snapshots.keys()
    for step, (theta, buffers) in expected.snapshots.items():
        assert torch.equal(found.snapshots[step][0], theta)
        assert all(torch.equal(found.snapshots[step][1][k], b) for k, b in buffers.items())


def test_a_run_that_was_interrupted_by_its_report_starts_from_what_was_kept():
    members, plan, examples = case("momentum")
    whole, kept = fit(members, plan, examples), []

    def report(done, total, words):
        raise KeyboardInterrupt

    def keep(state):
        kept.append(copy.deepcopy(state))

    with pytest.raises(KeyboardInterrupt):
        fit(members, plan, examples, None, Watch(lambda: None, keep, report, interval=0.0))
    again = fit(members, plan, examples, None, Watch(lambda: kept[-1] if kept else None))
    assert_same(again, whole)


def test_a_finished_phase_is_read_and_not_run():
    members, plan, examples = case("momentum")
    kept = []
    whole = fit(members, plan, examples, None, Watch(keep=lambda s: kept.append(copy.deepcopy(s))))
    assert [state["step"] for state in kept] == [7]

    def fails(step):
        raise AssertionError("a step was taken")

    plan = small_plan(schedule=fails)
    assert_same(fit(members, plan, examples, None, Watch(lambda: kept[0])), whole)


@pytest.mark.parametrize(("seconds", "lost"), [(1.0, 3), (10.0, 1)])
def test_a_kill_costs_at_most_the_interval_however_slow_a_step_is(monkeypatch, seconds, lost):
    # A clock that a step moves on by `seconds`; 2.5 s is the interval.
    now = [0.0]
    monkeypatch.setattr("landscape.trainers.training.time.perf_counter", lambda: now[0])

    def slow(step):
        now[0] += seconds
        return 1.0

    members, _, examples = case("momentum")
    steps = []
    watch = Watch(keep=lambda state: steps.append(state["step"]), interval=2.5)
    fit(members, small_plan(steps=12, schedule=slow), examples, None, watch)
    assert max(np.diff([0, *steps])) <= lost


# --- What else a plan says ---


def test_dropout_repeats_with_the_seed_and_differs_between_members():
    members, plan, examples = case("dropout")
    same = members.select([0, 0, 0, 0])
    plan = small_plan(seeds=[5] * MEMBERS)
    state = torch.get_rng_state()
    first, again = (fit(same, plan, examples).stack.theta for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])
    other = fit(same, small_plan(seeds=[6] * MEMBERS), examples).stack.theta
    assert not torch.equal(first, other)


def test_langevin_noise_has_the_variance_that_it_promises():
    wide = stack([nn.Linear(6, 3000).double() for _ in range(2)])
    inputs = torch.zeros(4, 6, dtype=torch.float64)
    plan = Plan(
        steps=1, learning_rate=[0.01, 0.04], batch_size=4, seeds=[0, 1], loss="cross_entropy",
        task=lambda network, inputs, targets: 0 * network(inputs).sum(),
        optimizer=Optimizer(noise=0.5), chunk=2,
    )  # fmt: skip
    moved = fit(wide, plan, Examples(inputs, torch.zeros(4).long())).stack.theta - wide.theta
    expected = 0.5**2 * torch.tensor([0.01, 0.04], dtype=torch.float64)
    error = expected * (2 / moved.shape[1]) ** 0.5
    assert ((moved.square().mean(1) - expected).abs() < 4 * error).all()
    assert torch.corrcoef(moved)[0, 1].abs() < 4 / moved.shape[1] ** 0.5


def test_an_augmentation_sees_each_view_with_its_own_numbers():
    seen = []

    def watched(images, uniforms):
        seen.append(uniforms)
        return images

    def task(network, first, second, targets):
        return (network(first) - network(second)).square().mean()

    members, _, examples = case("momentum")
    plan = small_plan(steps=1, augment=watched, num_uniforms=2, views=2, task=task)
    trained = fit(members, plan, examples)
    first, second = seen
    assert first.shape == second.shape == (4 * MEMBERS, 2)
    assert not torch.equal(first, second)
    assert torch.equal(trained.stack.theta, members.theta)  # two equal views: no gradient


@pytest.mark.parametrize("name", ["learning_rate", "seeds", "weight_decay"])
def test_a_list_without_an_entry_for_each_member_is_refused(name):
    members, _, examples = case("momentum")
    with pytest.raises(RequestError, match=f"{name} has 2 entries for 4 members"):
        fit(members, small_plan(**{name: [1, 2]}), examples)


@pytest.mark.parametrize(
    "more", [{"optimizer": Optimizer(momentum=0.9)}, {"weight_decay": [0.1] * MEMBERS}]
)
def test_a_riemannian_step_refuses_what_it_would_leave_out(more):
    members, plan, examples = case("riemannian")
    plan = small_plan(loss="bce", groups=plan.groups, sphere="riemannian", **more)
    with pytest.raises(RequestError, match="takes plain gradient steps"):
        fit(members, plan, examples)
