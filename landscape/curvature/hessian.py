"""HessianOperator: products with the Hessian of an Objective, the gradient's graph kept.

Pearlmutter 1994: H v is the gradient of <gradient, v>. The graph of the gradient does not depend
on v, so it is built once and kept: a product then costs 6F instead of 9F, where a gradient costs
3F and F is the forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from landscape.batches import batch_length
from landscape.curvature.closed_forms import ClosedForms
from landscape.curvature.operators import LinearOperator
from landscape.errors import RequestError
from landscape.memory import available_bytes
from landscape.objective import Objective

__all__ = ["HessianOperator"]

_GRAPH_SHARE = 0.4  # of the free memory, where the user gives no budget


class HessianOperator(LinearOperator):
    """The Hessian of L at theta, symmetric (n, n), by exact double backward.

    Args:
        objective: the loss, over all of its data.
        theta: (n,) the point; by default the checkpoint's own.
        graph_bytes: memory for graphs that are kept between products; by default 40 % of what is
            free at the first product. What does not fit is rebuilt in each product, at about
            1.5 times the cost. 0 keeps none.

    Attributes:
        num_kept: batches whose graph is kept; None before the first product.

    Graphs are freed with the operator, or by `close()`; it is also a context manager.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor | None = None,
        *,
        graph_bytes: int | None = None,
    ) -> None:
        super().__init__(
            objective.space.size, objective.space.dtype, objective.device, objective.provenance()
        )
        theta = objective.theta if theta is None else theta
        objective.space.check(theta)
        self.objective = objective
        self.notes = objective.notes
        self.num_kept: int | None = None
        self._theta = theta.detach().clone()
        self._graph_bytes = graph_bytes
        self._leaves: list[Tensor] = []
        self._kept: list[Tensor] = []  # first-order gradients of the kept batches, with graphs
        self._kept_blocks: list[int] = []  # which block of theta each of them belongs to
        self._buffers: dict[str, Tensor] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the kept graphs; the next product builds them again."""
        self._kept, self._kept_blocks, self._leaves = [], [], []
        self.num_kept = None

    def _products(self, vectors: Tensor) -> Tensor:
        objective, space = self.objective, self.objective.space
        # Where every graph is kept, no forward pass is run, and nothing is drawn.
        draws = self.num_kept != objective.batches.num_batches
        evaluation = objective.evaluation(draws=draws)
        with evaluation, torch.enable_grad(), _differentiable_kernels(objective):
            # A row of H V for each row of V; float32 sums over batches are of few, alike terms.
            # Made here: under the caller's inference_mode it could not be added to.
            result = torch.zeros_like(vectors)
            if self.num_kept is None:
                self._build()
            blocks = [space.split(vector) for vector in vectors]
            for row, block in enumerate(blocks):
                result[row] += self._apply(self._kept, self._kept_blocks, block)
            for index, batch in enumerate(objective.batches):
                if index >= (self.num_kept or 0):
                    gradients, positions = self._gradients(batch)
                    for row, block in enumerate(blocks):
                        result[row] += self._apply(gradients, positions, block)
            return result / objective.total_weight

    def _apply(self, gradients: list[Tensor], positions: list[int], block: list[Tensor]) -> Tensor:
        if not gradients:
            return torch.zeros(self.size, dtype=self.dtype, device=self.device)
        products = torch.autograd.grad(
            gradients,
            self._leaves,
            [block[position] for position in positions],
            retain_graph=True,
            materialize_grads=True,
        )
        return self.objective.space.flatten(products)

    def _gradients(self, batch: object) -> tuple[list[Tensor], list[int]]:
        """First-order gradients of a batch with their graph, and their blocks of theta."""
        with ClosedForms():
            total = self.objective.term(self._leaves, batch, self._buffers).total
        if not total.requires_grad:
            raise RequestError(
                f"the loss {self.objective.loss_function.name!r} carries no gradient (detached, "
                "or under no_grad), so it has no Hessian. Return a differentiable tensor."
            )
        gradients = torch.autograd.grad(total, self._leaves, create_graph=True, allow_unused=True)
        # Parameters that enter linearly, or not at all, have a gradient without a graph.
        curved = [(i, g) for i, g in enumerate(gradients) if g is not None and g.requires_grad]
        return [gradient for _, gradient in curved], [position for position, _ in curved]

    def _build(self) -> None:
        objective = self.objective
        self._leaves = objective.leaves(self._theta)
        self._buffers = objective.buffers_at(self._theta)
        budget = self._graph_bytes
        if budget is None:
            budget = int(_GRAPH_SHARE * available_bytes(self.device))
        batches = iter(objective.batches)
        first = next(batches)
        with _Watch() as watch:
            per_example = self._graph_size(first) / max(1, batch_length(first))
        self.notes = (*objective.notes, *watch.notes())
        used, self.num_kept = 0.0, 0
        if per_example * batch_length(first) > budget:
            return
        for batch in objective.batches:
            used += per_example * batch_length(batch)
            if used > budget:
                break
            gradients, positions = self._gradients(batch)
            self._kept += gradients
            self._kept_blocks += positions
            self.num_kept += 1

    def _graph_size(self, batch: object) -> int:
        """Bytes that the graph of a batch's gradient holds, by building it once."""
        sizes: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            # The tensor itself would hold the node that saves it: a cycle that is never freed.
            return tensor.detach()

        own = {leaf.untyped_storage().data_ptr() for leaf in self._leaves}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self._gradients(batch)
        return sum(size for address, size in sizes.items() if address not in own)


class _Watch(TorchFunctionMode):
    """Notices, while a graph is built, what was switched to a differentiable kernel."""

    def __init__(self) -> None:
        super().__init__()
        self._attention = False

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func is F.scaled_dot_product_attention:
            self._attention = True
        elif func is F.multi_head_attention_forward:
            # What it calls is hidden from us: fused, unless it returns the weights too.
            self._attention |= not (kwargs or {}).get("need_weights", True)
        return func(*args, **(kwargs or {}))

    def notes(self) -> tuple[str, ...]:
        if not self._attention:
            return ()
        return (
            "fused attention has no second derivative: products ran on the math kernel "
            "(pytorch/pytorch#116350)",
        )


@contextmanager
def _differentiable_kernels(objective: Objective) -> Iterator[None]:
    """Kernels with second derivatives: math attention; no cuDNN where there is an RNN."""
    recurrent = any(isinstance(module, nn.RNNBase) for module in objective.model.modules())
    enabled = torch.backends.cudnn.enabled
    # Not by `cudnn.flags()`: it would also reset the user's choice of determinism and of TF32.
    torch.backends.cudnn.enabled = enabled and not recurrent  # pytorch/pytorch#25315
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cudnn.enabled = enabled
