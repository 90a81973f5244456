import math

import pytest
import torch
from torch import nn

from landscape.errors import RequestError
from landscape.parameters import ParameterSpace
from landscape.trainers.examples import Examples
from landscape.trainers.models import mlp, tick_mlp
from landscape.trainers.sphere import Sphere, invariant_groups
from landscape.trainers.stacking import stack
from landscape.trainers.training import Plan, fit

JOINT = (("0.weight", "3.weight"),)
SINGLE = (("0.weight",), ("3.weight",))


def networks(dtype=torch.float64, scales=(1.0, 1.0)):
    """Two scale-invariant networks without eps, their weights multiplied, layer by layer."""
    models = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = tick_mlp(6, 5).to(dtype)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 0.0
        with torch.no_grad():
            model[0].weight *= scales[0]
            model[3].weight *= scales[1]
        models.append(model)
    return stack(models)


def examples(dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(24, 6, generator=generator, dtype=torch.float64).to(dtype)
    return Examples(inputs, (inputs[:, :1] > 0).to(dtype))


def trained(members, groups, sphere="projected", dtype=torch.float64, steps=60):
    plan = Plan(
        steps=steps, learning_rate=[0.01, 0.03], batch_size=5, seeds=[0, 1], loss="bce",
        groups=groups, sphere=sphere, chunk=2,
    )  # fmt: skip
    return fit(members, plan, examples(dtype)).stack


@pytest.mark.parametrize("sphere", ["projected", "riemannian"])
@pytest.mark.parametrize("groups", [JOINT, SINGLE])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_norms_stay_what_they_are(sphere, groups, dtype, bound):
    members = networks(dtype, (2.0, 5.0))
    after = trained(members, groups, sphere, dtype)
    assert (after.theta - members.theta).abs().max() > 1e-2
    for group in groups:
        parts = [members.space.slice_of(name) for name in group]
        before, now = (
            torch.cat([one.theta[:, part] for part in parts], 1).norm(dim=1)
            for one in (members, after)
        )
        assert (now / before - 1).abs().max() < bound


def outputs(members):
    with torch.no_grad():
        return members(examples().inputs)


@pytest.mark.parametrize("sphere", ["projected", "riemannian"])
@pytest.mark.parametrize(
    ("groups", "scales"), [(JOINT, (10.0, 10.0)), (SINGLE, (10.0, 10.0)), (SINGLE, (3.0, 0.2))]
)
def test_an_effective_rate_trains_the_same_function_at_every_radius(sphere, groups, scales):
    small = trained(networks(), groups, sphere)
    large = trained(networks(scales=scales), groups, sphere)
    torch.testing.assert_close(outputs(large), outputs(small), rtol=0, atol=1e-8)
    assert (outputs(small) - outputs(networks())).abs().max() > 0.1


def drawn(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 55, generator=generator, dtype=torch.float64)


def test_a_projected_step_is_a_gradient_step_divided_by_its_norm():
    members = networks(scales=(4.0, 4.0))
    after = trained(members, JOINT, steps=1)
    indices = fit_batch()
    for m, effective in enumerate((0.01, 0.03)):
        model = members.member(m)
        inputs, targets = (t[indices[m]] for t in (examples().inputs, examples().targets))
        loss = nn.functional.binary_cross_entropy_with_logits(model(inputs), targets)
        weights = [model[0].weight, model[3].weight]
        gradient = torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])
        radius = members.theta[m].norm()
        moved = members.theta[m] - effective * radius**2 * gradient
        torch.testing.assert_close(after.theta[m], moved * radius / moved.norm())


def fit_batch():
    from landscape.trainers.orders import Orders

    return Orders([0, 1], 24, 5).batch(0)[0]


@pytest.mark.parametrize("groups", [JOINT, SINGLE])
def test_a_riemannian_step_is_the_exponential_map(groups):
    members = networks(scales=(2.0, 7.0))
    theta = members.theta.clone()
    sphere = Sphere.around(theta, members.space, groups, method="riemannian")
    gradient, effective = drawn(3), torch.tensor([[0.01], [0.3]], dtype=torch.float64)
    before = theta.clone()
    sphere.move(theta, gradient, sphere.learning_rates(effective, members.space.size))
    for m in range(2):
        for g, columns in enumerate(sphere.columns):
            at, slope, now = (t[m, columns] for t in (before, gradient, theta))
            radius = sphere.radius[m, g]
            tangent = slope - (slope @ at) / (at @ at) * at
            velocity = -effective[m] * radius**2 * tangent
            angle = velocity.norm() / radius  # lr |g| / rho
            expected = at * angle.cos() + velocity / velocity.norm() * radius * angle.sin()
            torch.testing.assert_close(now, expected, rtol=1e-12, atol=1e-12)
            assert now.norm() == pytest.approx(radius.item(), rel=1e-14)  # without projection
            turned = math.acos(((now @ at) / radius**2).item())
            wrapped = math.acos(math.cos(angle.item()))
            assert turned == pytest.approx(wrapped, rel=1e-6)


def test_a_critical_point_is_not_left():
    members = networks()
    theta = members.theta.clone()
    sphere = Sphere.around(theta, members.space, JOINT, method="riemannian")
    radial = 3 * theta.clone()
    sphere.move(theta, torch.zeros_like(theta), torch.ones(2, 1, dtype=torch.float64))
    assert torch.equal(theta, members.theta)
    sphere.move(theta, radial, torch.ones(2, 1, dtype=torch.float64))
    torch.testing.assert_close(theta, members.theta, rtol=0, atol=1e-14)


def test_weights_off_every_sphere_are_refused_by_name():
    model = mlp(6, (5,), 2, norm="layer").double()
    theta, space = stack([model]).theta, ParameterSpace(model)
    with pytest.raises(RequestError, match=r"1.bias, 2.weight.* change the output when they are"):
        Sphere.around(theta, space, [["1.weight"]])


def test_a_misspelt_method_gets_the_nearest_one():
    members = networks()
    with pytest.raises(RequestError, match="Did you mean 'projected'"):
        Sphere.around(members.theta, members.space, JOINT, method="projectd")


def test_invariant_groups_are_found_in_the_network():
    members = networks()
    assert invariant_groups(members, examples().inputs) == JOINT
    assert sorted(invariant_groups(members, examples().inputs, per_group=True)) == sorted(SINGLE)


def test_a_network_without_invariant_weights_is_refused():
    members = stack([mlp(6, (5,), 2)])
    with pytest.raises(RequestError, match=r"no weights of this Sequential.*sphere='none'"):
        invariant_groups(members, torch.randn(9, 6))
