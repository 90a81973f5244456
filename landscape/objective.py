"""Objective: a model, data and a loss as a function of the flat parameter vector.

`parameters` holds the coordinates, `batches` the data, `losses` what a batch contributes,
`preflight` the trial before the first number; `curvature` differentiates.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from landscape import preflight
from landscape.accuracy import correctness
from landscape.batch_norm import Moments, batch_statistics
from landscape.batches import Batches, preserved_rng
from landscape.errors import RequestError, unknown_choice
from landscape.fingerprint import fingerprint
from landscape.losses import Reduction, Term, resolve_loss
from landscape.parameters import ParameterSpace

__all__ = ["BatchNormPolicy", "Objective"]

BatchNormPolicy = Literal["eval", "batch", "recalibrate"]
_POLICIES = ("eval", "batch", "recalibrate")


class Objective:
    """L(theta) = sum_i w_i l_i(theta) / sum_i w_i over a fixed data set.

    Args:
        model: evaluated in eval mode, whatever mode it is in. It is never changed: training
            flags, buffers, `.grad`, `requires_grad` and the random generators are after every
            call what they were before it, also when the call raises. Its weights are copied.
        data: tensors `(inputs, targets)`, a mapping of tensors, a `Dataset`, or any iterable of
            batches; a batch is `(inputs, target)` or a mapping with the key `labels` or `target`.
        loss: `"cross_entropy"` (logits; target -100 is left out), `"mse"` (over all elements) or
            `"bce"` (logits); a torch loss; a `loss(output, target)`; or a `loss(model, batch)`.
            A callable returns the batch's mean or sum, a value for each example, or a pair
            (weighted sum, sum of weights), which is exact for token averages and padding.
        params: which parameters are coordinates: globs such as `"*.weight"`, `"!head"`.
        bn: BatchNorm statistics. `"eval"`: the running ones; `"batch"`: each batch's own;
            `"recalibrate"`: those of the whole data at theta, pooled (see `buffers_at`).
        reduction: `"sum"` leaves out the division. `"auto"` settles it by a trial.
        batch_size: splits tensors or a `Dataset`; an iterable has its own batches.
        cache_bytes: memory for batches on the device; by default a quarter of what is free.
        device, dtype: where and in what precision to compute; by default the model's own.

    Raises:
        RequestError: two passes that disagree (dropout, BatchNorm in training mode, a shuffling
            or augmenting loader), labels out of range, NaN in data or weights, a loss that is not
            finite, an empty loader, shapes that do not fit.

    Attributes:
        theta: (n,) the point that the model was at.
        space: the `ParameterSpace` of theta.
        value: L(theta).
        notes: what the user should know about how L was read.
    """

    def __init__(
        self,
        model: nn.Module,
        data: object,
        loss: str | Callable[..., object] = "cross_entropy",
        *,
        params: str | Sequence[str] = "*",
        bn: BatchNormPolicy = "eval",
        reduction: Reduction = "auto",
        batch_size: int | None = None,
        cache_bytes: int | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if bn not in _POLICIES:
            raise unknown_choice("BatchNorm policy", str(bn), _POLICIES)
        self.model, unwrapped = preflight.unwrap(model)
        self.space = ParameterSpace(self.model, params, dtype=dtype)
        self.device = torch.device(device) if device is not None else self.space.device
        self.bn: BatchNormPolicy = bn
        self._under: dict[BatchNormPolicy, Objective] = {}  # the same under other policies
        self._norms = {
            name: module
            for name, module in self.model.named_modules()
            if isinstance(module, _BatchNorm)
        }
        # Tensors made in the caller's inference mode could not be used by autograd later.
        with torch.inference_mode(False):
            self._constants = {
                name: self._place(parameter, dtype)
                for name, parameter in self.model.named_parameters()
            }
            self._buffers = {
                name: self._place(buffer, dtype) for name, buffer in self.model.named_buffers()
            }
            preflight.check_weights(self._constants, self._buffers)
            self.theta = self.space.flatten(self._constants)
            for name in self.space.names:
                del self._constants[name]
            # Buffers that a forward pass writes to are written to in this copy.
            self._scratch = {name: buffer.clone() for name, buffer in self._buffers.items()}
            self.loss_function = resolve_loss(loss, reduction, device=self.device, dtype=dtype)
            self.batches = Batches(
                data,
                device=self.device,
                dtype=dtype,
                cache_bytes=cache_bytes,
                batch_size=batch_size,
                array_dtype=self.space.dtype,
            )
            report = preflight.run(self)
        self.loss_function = replace(self.loss_function, reduction=report.reduction)
        self.total_weight, self.value = report.total_weight, report.value
        self.notes = (*unwrapped, *report.notes)

    def __repr__(self) -> str:
        return (
            f"Objective({type(self.model).__name__}, {self.loss_function.name}, "
            f"{self.batches.num_examples:,} examples in {self.batches.num_batches} batches, "
            f"n={self.space.size:,}, loss={self.value:.6g})"
        )

    def _place(self, tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
        kept = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
        # A copy in every case: the user's model may go on training.
        return tensor.detach().to(device=self.device, dtype=kept, copy=True)

    # -- values -------------------------------------------------------------------------------

    def loss(self, theta: Tensor | None = None) -> float:
        """L at theta (n,), summed over batches in float64."""
        return self.losses((self.theta if theta is None else theta).unsqueeze(0))[0].item()

    def losses(self, thetas: Tensor) -> Tensor:
        """L at many points (k, n), in one pass over the data: float64 (k,)."""
        if thetas.ndim != 2 or thetas.shape[1] != self.space.size:
            raise RequestError(
                f"thetas has shape {tuple(thetas.shape)}, expected (k, {self.space.size})."
            )
        with self.evaluation(), torch.no_grad():
            totals = torch.zeros(len(thetas), dtype=torch.float64)
            buffers = [self.buffers_at(theta) for theta in thetas]
            for batch in self.batches:
                for point, theta in enumerate(thetas):
                    term = self.term(self._split(theta), batch, buffers[point])
                    totals[point] += term.total.item()
            return totals / self.total_weight

    def metrics(self, theta: Tensor | None = None) -> dict[str, float]:
        """`loss`, and `accuracy` (a share, not per cent) where there are classes, in one pass."""
        theta = self.theta if theta is None else theta
        total, correct, counted = 0.0, 0, 0
        with self.evaluation(), torch.no_grad():
            buffers = self.buffers_at(theta)
            for batch in self.batches:
                term = self.term(self._split(theta), batch, buffers)
                total += term.total.item()
                hits = correctness(self.loss_function, term)
                if hits is not None:
                    correct, counted = correct + int(hits.right.sum()), counted + hits.count
        found = {"loss": total / self.total_weight}
        return found | ({"accuracy": correct / counted} if counted else {})

    def per_example(self, theta: Tensor | None = None) -> Tensor:
        """The loss of each example (N,): l_i with L = sum_i w_i l_i / sum_i w_i.

        An example of several elements (tokens, pixels) has the weighted mean of its elements,
        NaN where all are left out.

        Raises:
            RequestError: the loss gives only a batch's value; name one, or give a torch loss.
        """
        if not self.loss_function.is_pointwise:
            raise RequestError(
                f"the loss {self.loss_function.name!r} does not tell its examples apart. Give "
                "'cross_entropy', 'mse', 'bce' or a torch loss module."
            )
        theta = self.theta if theta is None else theta
        found = []
        with self.evaluation(), torch.no_grad():
            buffers = self.buffers_at(theta)
            for batch in self.batches:
                term = self.term(self._split(theta), batch, buffers)
                assert term.losses is not None
                assert term.weights is not None
                by_example = (len(term.losses), -1)
                total, weight = (
                    part.reshape(by_example).sum(1) for part in (term.losses, term.weights)
                )
                found.append(total / weight)
            return torch.cat(found)

    def gradient(self, theta: Tensor | None = None) -> Tensor:
        """The gradient of L at theta: (n,)."""
        theta = self.theta if theta is None else theta
        with self.evaluation(), torch.enable_grad():
            gradient = torch.zeros_like(self.theta)
            buffers = self.buffers_at(theta)
            for batch in self.batches:
                leaves = self.leaves(theta)
                total = self.term(leaves, batch, buffers).total
                if not total.requires_grad:
                    raise RequestError(
                        f"the loss {self.loss_function.name!r} carries no gradient (detached, or "
                        "under no_grad). Return a differentiable tensor."
                    )
                blocks = torch.autograd.grad(total, leaves, materialize_grads=True)
                gradient += self.space.flatten(blocks)
            return gradient / self.total_weight

    # -- for those who differentiate ----------------------------------------------------------

    @contextmanager
    def evaluation(self, *, draws: bool = True) -> Iterator[None]:
        """The model in eval mode (BatchNorm by policy) inside, as it was outside.

        `draws=False`, where no forward pass is run, saves the copies of the random generators.
        """
        before = [(module, dict(vars(module))) for module in self.model.modules()]
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            if draws:
                stack.enter_context(preserved_rng(self.device))
            stack.enter_context(_one_path(self.model))
            try:
                # Flags are set one by one: `.eval()` may be overridden, and must be undone exactly.
                for module, _ in before:
                    module.training = self.bn == "batch" and isinstance(module, _BatchNorm)
                yield
            finally:
                # Not the flags alone: pruning, spectral norm and RNNs keep the weights that they
                # were last called with as plain attributes.
                for module, attributes in before:
                    for name in vars(module).keys() - attributes.keys():
                        del vars(module)[name]
                    vars(module).update(attributes)

    def leaves(self, theta: Tensor) -> list[Tensor]:
        """Fresh leaves that require gradients, in the order of `space.names`."""
        # A copy, not views: all views of theta would share one version counter.
        return [block.detach().clone().requires_grad_() for block in self._split(theta)]

    def _split(self, theta: Tensor) -> list[Tensor]:
        return self.space.split(theta.to(self.device))

    def term(
        self,
        parameters: Sequence[Tensor],
        batch: object,
        buffers: dict[str, Tensor] | None = None,
        *,
        check: bool = False,
    ) -> Term:
        """One batch's share of L at the given parameters; to be called inside `evaluation()`."""
        bound = _Bound(self.model)
        tensors = dict(zip(self.space.names, parameters, strict=True)) | self._constants
        tensors |= self._fresh_buffers() | (buffers or {})
        swapped = {f"model.{name}": tensor for name, tensor in tensors.items()}

        def evaluate(model: nn.Module) -> Term:
            return self.loss_function.term(model, batch, check=check)

        term: Term = functional_call(bound, swapped, (evaluate,))
        return term

    def buffers_at(
        self, theta: Tensor, batches: Iterable[object] | None = None
    ) -> dict[str, Tensor] | None:
        """BatchNorm statistics of the whole data at theta; None unless there are some to find.

        Means and unbiased variances are pooled over all values, whatever the batches' order. But
        each batch passes on its own statistics: behind a first BatchNorm their sizes are felt.

        Args:
            batches: the very batches of the data, in another layout of memory.
        """
        if self.bn != "recalibrate" or not self._norms:
            return None
        pooled: dict[str, Moments] = {}
        with torch.no_grad():
            for batch in self.batches if batches is None else batches:
                for name, moments in self.moments(self._split(theta), batch).items():
                    pooled[name] = moments if name not in pooled else pooled[name] + moments
        return self.statistics(pooled)

    def moments(
        self,
        parameters: Sequence[Tensor],
        batch: object,
        buffers: dict[str, Tensor] | None = None,
    ) -> dict[str, Moments]:
        """What enters each BatchNorm layer in one batch, the layers normalising by that batch."""
        with batch_statistics(self._norms) as found:
            self.term(parameters, batch, buffers)
        return found

    def statistics(self, pooled: Mapping[str, Moments]) -> dict[str, Tensor]:
        """Running statistics, as buffers by name, from the pooled moments of each layer."""
        statistics = {}
        for name, moments in pooled.items():
            old = self._buffers.get(f"{name}.running_mean")
            if moments.count and old is not None:
                statistics[f"{name}.running_mean"] = moments.mean.to(old)
                statistics[f"{name}.running_var"] = moments.variance.to(old)
        return statistics

    @property
    def buffers(self) -> Mapping[str, Tensor]:
        """The model's buffers by name, as they were."""
        return self._buffers

    @property
    def constants(self) -> Mapping[str, Tensor]:
        """The parameters that are no coordinates, by name, as they were."""
        return self._constants

    @property
    def has_batch_norm(self) -> bool:
        """Whether the BatchNorm policy makes a difference."""
        return bool(self._norms)

    def under(self, bn: BatchNormPolicy) -> Objective:
        """The same objective, with another BatchNorm policy.

        Raises:
            RequestError: an unknown policy, or batches of one example, which have no variance.
        """
        if bn not in _POLICIES:
            raise unknown_choice("BatchNorm policy", str(bn), _POLICIES)
        if bn == self.bn:
            return self
        if bn in self._under:
            return self._under[bn]
        other = copy.copy(self)
        other.bn = bn
        other._under = {}
        other._scratch = {name: buffer.clone() for name, buffer in self._buffers.items()}
        with preflight.batches_of_one_explained(bn):
            other.value = other.loss() if self._norms else self.value
        self._under[bn] = other
        return other

    def _fresh_buffers(self) -> dict[str, Tensor]:
        # BatchNorm in training mode writes to its statistics without raising their version.
        if any(norm.training for norm in self._norms.values()):
            return {name: buffer.clone() for name, buffer in self._buffers.items()}
        for name, scratch in self._scratch.items():
            if scratch._version:  # a forward pass has written to it
                self._scratch[name] = self._buffers[name].clone()
        return self._scratch

    def provenance(self) -> dict[str, object]:
        """What identifies this objective in a result file."""
        everything = self.space.named(self.theta) | self._constants | self._buffers
        ordered = {name: everything[name] for name in sorted(everything)}
        return {
            "parameters_fingerprint": fingerprint(ordered).hex(),
            "data_fingerprint": self.batches.fingerprint,
            "model": type(self.model).__qualname__,
            "num_parameters": self.space.size,
            "parameters": hashlib.blake2b(
                "\n".join(self.space.names).encode(), digest_size=8
            ).hexdigest(),
            "num_examples": self.batches.num_examples,
            "loss": self.loss_function.name,
            "reduction": self.loss_function.reduction,
            "bn": self.bn,
            "dtype": str(self.space.dtype).removeprefix("torch."),
        }


@contextmanager
def _one_path(model: nn.Module) -> Iterator[None]:
    """The same computation for the loss and for its gradient."""
    # Without gradients, transformer layers take a fast path that fills padding with zeros; and
    # compiled submodules cannot be differentiated twice (pytorch/pytorch#91469).
    fast = torch.backends.mha.get_fastpath_enabled()
    compiled = any(
        module._compiled_call_impl is not None or "_orig_mod" in module._modules
        for module in model.modules()
    )
    with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


class _Bound(nn.Module):
    """Hands the model, with other tensors swapped in, to whatever evaluates it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, evaluate: Callable[[nn.Module], Term]) -> Term:
        return evaluate(self.model)
