import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from landscape import preflight
from landscape.errors import RequestError
from landscape.objective import Objective

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(8, 3, generator=GENERATOR, dtype=torch.float64)
Y = torch.tensor([0, 1, 0, 1, 1, 0, 1, 0])
BATCHES = list(zip(X.split(5), Y.split(5), strict=True))


class Wrapped(nn.Module):
    """Linear, then a given function of (self, hidden), then linear."""

    def __init__(self, between, **modules):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(3, 4, dtype=torch.float64)
        self.second = nn.Linear(4, 2, dtype=torch.float64)
        for name, module in modules.items():
            setattr(self, name, module)
        self.between = between

    def forward(self, inputs):
        return self.second(self.between(self, self.first(inputs)))


class Between(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, inputs):
        return self.function(inputs)


def test_functional_dropout_is_named_with_its_module():
    model = Wrapped(lambda self, h: self.drop(h), drop=Between(F.dropout))
    with pytest.raises(
        RequestError, match=r"disagree.*output of 'drop' \(Between\).*F.dropout\(x, p, training="
    ):
        Objective(model, BATCHES)


def test_numpy_randomness_is_told_from_torchs():
    model = Wrapped(
        lambda self, h: self.noise(h),
        noise=Between(lambda h: h * np.random.rand()),  # noqa: NPY002
    )
    with pytest.raises(RequestError, match=r"No random number was drawn from torch.*'noise'"):
        Objective(model, BATCHES)


def test_state_kept_in_a_plain_attribute_is_named():
    class Counting(nn.Module):
        calls = 0

        def forward(self, inputs):
            self.calls += 1
            return inputs * self.calls

    model = Wrapped(lambda self, h: self.count(h), count=Counting())
    with pytest.raises(RequestError, match=r"keeps state from call to call.*'count'"):
        Objective(model, BATCHES)
    assert model.count.calls == 0


@pytest.mark.parametrize("bn", ["eval", "recalibrate"])
def test_batchnorm_that_forward_puts_into_training_mode_is_named(bn):
    norm = nn.BatchNorm1d(4, dtype=torch.float64).eval()
    model = Wrapped(lambda self, h: self.norm.train()(h), norm=norm)
    with pytest.raises(RequestError, match=r"puts norm \(BatchNorm1d\) in training mode"):
        Objective(model, BATCHES, bn=bn)
    assert not norm.training
    assert norm.num_batches_tracked == 0


def test_dropout_that_forward_puts_into_training_mode_is_named():
    model = Wrapped(lambda self, h: self.drop.train()(h), drop=nn.Dropout(0.5))
    with pytest.raises(RequestError, match=r"puts drop \(Dropout\) in training mode"):
        Objective(model, BATCHES)


def test_dropout_and_batchnorm_modules_left_in_training_mode_are_evaluated_in_eval_mode():
    norm = nn.BatchNorm1d(4, dtype=torch.float64)
    model = Wrapped(lambda self, h: self.drop(self.norm(h)), norm=norm, drop=nn.Dropout(0.5))
    found = Objective(model.train(), BATCHES).value
    assert found == pytest.approx(F.cross_entropy(model.eval()(X), Y).item(), rel=1e-12)


@pytest.mark.parametrize("bn", ["eval", "recalibrate"])
def test_buffer_that_counts_calls_is_harmless_and_unchanged(bn):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.ones((), dtype=torch.float64))

        def forward(self, inputs):
            self.calls += 1
            return inputs * self.calls

    norm = nn.BatchNorm1d(4, dtype=torch.float64)
    model = Wrapped(lambda self, h: self.count(self.norm(h)), count=Counting(), norm=norm)
    objective = Objective(model, BATCHES, bn=bn)
    assert model.count.calls == 1
    # Each batch starts from the checkpoint's buffers, in whatever order they come.
    assert Objective(model, BATCHES[::-1], bn=bn).value == pytest.approx(objective.value, rel=1e-12)
    assert objective.loss() == objective.loss() == pytest.approx(objective.value, rel=1e-12)


def test_statistics_that_one_batch_writes_are_not_seen_by_the_next():
    norm = nn.BatchNorm1d(4, dtype=torch.float64)
    model = Wrapped(lambda self, h: self.norm(h) + self.norm.running_mean, norm=norm)
    objective = Objective(model, BATCHES, bn="batch")
    reverse = Objective(model, BATCHES[::-1], bn="batch")
    assert objective.value == pytest.approx(reverse.value, rel=1e-12)
    assert not norm.running_mean.any()


def test_loss_that_is_not_finite_names_the_batch():
    model = Wrapped(lambda self, h: h * torch.where(h.isnan(), 1.0, torch.inf))
    with pytest.raises(RequestError, match=r"loss of batch 0 is (nan|inf).*float64"):
        Objective(model, BATCHES)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(wrong):
    model = Wrapped(lambda self, h: h)
    with torch.no_grad():
        model.first.weight[1, 2] = wrong
    with pytest.raises(RequestError, match=r"not finite in 1 tensor.*first.weight \(1\)"):
        Objective(model, BATCHES)


def test_infinite_mask_buffer_is_fine_and_nan_in_a_buffer_is_not():
    model = Wrapped(lambda self, h: h + self.second.mask.exp())
    model.second.register_buffer("mask", torch.full((4,), -torch.inf, dtype=torch.float64))
    expected = F.cross_entropy(model(X), Y).item()
    assert Objective(model, BATCHES).value == pytest.approx(expected, rel=1e-12)
    model.second.mask[0] = torch.nan
    with pytest.raises(RequestError, match=r"second.mask \(1\)"):
        Objective(model, BATCHES)


def test_forward_that_writes_to_its_parameters_is_refused():
    class Clamping(nn.Linear):
        def forward(self, inputs):
            with torch.no_grad():
                self.weight.clamp_(-0.01, 0.01)
            return super().forward(inputs)

    model = Wrapped(lambda self, h: self.clamp(h), clamp=Clamping(4, 4, dtype=torch.float64))
    before = model.clamp.weight.detach().clone()
    with pytest.raises(RequestError, match="writes to the parameters"):
        Objective(model, BATCHES)
    assert torch.equal(model.clamp.weight, before)


def test_embedding_with_max_norm_is_refused():
    model = nn.Sequential(nn.Embedding(3, 2, max_norm=0.1), nn.Flatten(), nn.Linear(2, 2))
    with pytest.raises(RequestError, match="max_norm=None"):
        Objective(model, (torch.arange(3)[:, None], torch.tensor([0, 1, 1])))


def test_compiled_model_is_measured_inside_its_wrapper():
    model = Wrapped(lambda self, h: h)
    plain = Objective(model, BATCHES)

    class OptimizedModule(nn.Module):  # as torch.compile wraps it, without its slow import
        def __init__(self, inner):
            super().__init__()
            self._orig_mod = inner

    for wrapper in (OptimizedModule, nn.DataParallel):
        objective = Objective(wrapper(model), BATCHES)
        assert objective.value == plain.value
        assert objective.space.names == plain.space.names
        assert f"measured the module inside {wrapper.__name__}" in objective.notes
    inner, notes = preflight.unwrap(OptimizedModule(nn.DataParallel(model)))
    assert inner is model
    assert len(notes) == 2


@pytest.mark.slow
def test_submodule_compiled_in_place_runs_eagerly():
    model = Wrapped(lambda self, h: h)
    plain = Objective(model, BATCHES)

    def compiled(*_, **__):
        raise AssertionError("compiled code was run")

    backend = torch.compile(model.first.forward, backend=lambda *_: compiled)
    model.first._compiled_call_impl = backend
    assert Objective(model, BATCHES).value == plain.value
    assert model.first._compiled_call_impl is backend


def test_what_is_no_module_is_refused():
    with pytest.raises(RequestError, match="the model is a dict"):
        Objective({"weight": X}, BATCHES)


def test_parameter_read_from_a_copy_is_an_error():
    model = Wrapped(lambda self, h: h * self.copies[0])
    model.gain = nn.Parameter(torch.ones(4, dtype=torch.float64))
    model.copies = [model.gain]
    with pytest.raises(RequestError, match=r"reads gain from a copy"):
        Objective(model, BATCHES)
    Objective(model, BATCHES, params="!gain")


def test_unused_parameter_is_a_note_and_has_zero_gradient():
    model = Wrapped(lambda self, h: h, spare=nn.Linear(2, 2, dtype=torch.float64))
    objective = Objective(model, BATCHES)
    assert any("2 parameter tensor(s) do not enter" in note for note in objective.notes)
    gradient = objective.gradient()
    assert not gradient[objective.space.slice_of("spare.weight")].any()
    assert gradient[objective.space.slice_of("first.weight")].all()


def test_detached_loss_is_a_note_and_only_its_gradient_an_error():
    objective = Objective(
        Wrapped(lambda self, h: h), BATCHES, lambda o, t: F.cross_entropy(o, t).detach()
    )
    assert objective.notes == ("the loss carries no gradient: only its values can be measured",)
    assert objective.loss() == objective.value
    with pytest.raises(RequestError, match="carries no gradient"):
        objective.gradient()


def test_batchnorm_without_running_statistics_is_noted():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False))
    data = (torch.randn(8, 3), torch.randint(4, (8,)))
    assert any("without running statistics" in note for note in Objective(model, data).notes)
    assert Objective(model, data, bn="batch").notes == ()
