"""The search for eigenpairs by thick-restart Lanczos: `eigenpairs` holds what is found.

The basis itself is in `lanczos`. What is reported was recomputed: a value is a Rayleigh quotient, a
residual norm comes from a fresh product, and an interval holds an eigenvalue whatever the solver
believed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape.curvature.eigenpairs import Eigenpairs
from landscape.curvature.lanczos import Array, Krylov, check_memory, fits, spectrum_edge
from landscape.curvature.operators import LinearOperator, Noise
from landscape.errors import RequestError, unknown_choice

__all__ = ["Eigenpairs", "Which", "eigsh"]

Which = Literal["LA", "SA", "LM", "BE"]
Progress = Callable[[int, int, str], None]

_CHOICES = ("LA", "SA", "LM", "BE")
_SAFETY = 0.7  # a residual estimate must undercut the threshold: the recomputed one is noisier
_DELTA = 0.01  # probability that a statement about missed eigenvalues is wrong
_EDGE_SHARE = 0.1  # of the spectrum's spread: how sharp an outer bound "complete" asks for
_CHECK_EFFORT = 1.0  # steps of the search for missed copies, over those of the first search


def eigsh(
    operator: LinearOperator,
    k: int = 1,
    *,
    which: Which = "LA",
    tol: float = 1e-3,
    seed: int,
    max_products: int | None = None,
    start: Tensor | None = None,
    progress: Progress | None = None,
) -> Eigenpairs:
    """The k extreme eigenpairs of a symmetric operator, each with its doubt.

    Args:
        operator: A, known by its products.
        k: pairs wanted, 1 <= k <= n.
        which: "LA" the largest, "SA" the smallest (most negative), "LM" the largest in magnitude,
            "BE" from both ends, the extra one of an odd k from the upper.
        tol: a pair has converged when its residual norm is at most tol times its own magnitude,
            or as small as the rounding noise of the products allows. The error of a separated
            eigenvalue is far smaller: of the order of residual^2 / gap.
        seed: of the random starts.
        max_products: budget; when it is used up, the best pairs so far come back. By default
            max(300, 30 k).
        start: (n,) or (n, j) vectors near the wanted ones, such as an earlier result's. Cheaper,
            and less certain: what a start hides is seldom excluded, so `complete` is seldom true.
        progress: called with (products, budget, message).

    Returns:
        `Eigenpairs`, most wanted first; for "BE" from the largest down to the smallest.

    Raises:
        RequestError: k out of range, an unknown `which`, a budget too small to certify k pairs, a
            basis that does not fit into memory, products that are not finite or not symmetric.

    Source: thick-restart Lanczos, Wu and Simon 2000; a search of the complement of what was found
    for missed copies of multiple eigenvalues, which one Krylov space cannot show.
    """
    began = time.perf_counter()
    if which not in _CHOICES:
        raise unknown_choice("which", which, _CHOICES)
    if not 1 <= k <= operator.size:
        raise RequestError(
            f"k={k} eigenpairs of an operator with {operator.size} parameters: k must be between 1 "
            f"and {operator.size}."
        )
    if not tol >= 0:
        raise RequestError(f"tol={tol}, expected a number >= 0 such as 1e-3.")
    budget = max(300, 30 * k) if max_products is None else max_products
    search = _Search(operator, k, which, tol, seed, progress, start)
    if budget < search.least_budget:
        raise RequestError(
            f"max_products={budget} is too small for k={k}: {search.least_budget} are needed to "
            "span, measure the noise and certify. Raise it, or ask for fewer pairs."
        )
    search.find(budget)
    settings: dict[str, object] = {
        "k": k,
        "which": which,
        "tol": tol,
        "seed": seed,
        "max_products": budget,
    }
    if start is not None:
        settings["start"] = "given"
    return search.certified(settings, began)


class _Search:
    """One call of `eigsh`: the pairs found so far, and what is known of those that were not."""

    def __init__(
        self,
        operator: LinearOperator,
        k: int,
        which: Which,
        tol: float,
        seed: int,
        progress: Progress | None,
        start: Tensor | None,
    ) -> None:
        self.operator, self.k, self.which, self.tol = operator, k, which, tol
        self.start, self.progress = _sum_of(start, operator.size), progress
        child = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
        self.generator = torch.Generator().manual_seed(child >> 1)
        self.capacity = _capacity(operator, k)
        self.least_budget = 3 + min(operator.size, k + 2) + k
        self.num_products = 0
        self.noise = Noise(0.0, 0.0, 0)
        self.scale = 0.0  # the largest |Ritz value| seen
        self.values: Array = np.empty(0)
        self.locked: Tensor | None = None
        self.edges = (np.nan, np.nan)  # of the part of the spectrum that is not locked
        self.evidence_of_missed = False
        self.is_whole = False  # whether the basis came to span the whole space
        self.is_deflated = False  # whether the edges are those of the complement

    # -- searching ----------------------------------------------------------------------------

    def find(self, budget: int) -> None:
        """Lock the wanted pairs, then look for missed copies until there are none."""
        self.noise = self.operator.noise()
        self.num_products += self.noise.num_products
        self.scale = self.noise.norm
        self.budget = budget
        steps_left = budget - self.num_products - self.k
        first = Krylov(self.operator, self.capacity, generator=self.generator)
        first.begin(self.start)
        before = self.num_products
        found = self._run(first, self._first_is_done, steps_left)
        effort = self.num_products - before
        values, coordinates, _ = first.ritz()
        chosen = _wanted(values, self.k, self.which)
        self.values, self.locked = values[chosen], first.vectors(coordinates[:, chosen])
        self.is_whole = first.count == self.operator.size
        if self.start is None or self.is_whole:
            self.edges = self._edges_of(first)
        del first  # its basis: the search below needs the memory
        while found and not self._is_complete().all():
            steps_left = budget - self.num_products - self.k
            effort_left = max(10, int(_CHECK_EFFORT * effort))
            if steps_left < 1 or not self._search_complement(min(steps_left, effort_left)):
                break

    def _run(self, krylov: Krylov, is_done: Callable[[Krylov], bool], steps: int) -> bool:
        """Step and restart until `is_done`; False if the budget of `steps` ran out first."""
        for _ in range(steps):
            if krylov.count == krylov.capacity:
                values, coordinates, _ = krylov.ritz()
                kept = _wanted(values, _num_kept(self.k, krylov.capacity), self.which)
                krylov.restart(values[kept], coordinates[:, kept])
            krylov.step()
            self.num_products += 1
            if self.progress is not None:
                self.progress(self.num_products, self.budget, f"eigenvalues {self.which}")
            if krylov.is_exhausted or is_done(krylov):
                return True
        return False

    def _first_is_done(self, krylov: Krylov) -> bool:
        if krylov.count < self.k:
            return False
        values, _, residuals = krylov.ritz()
        self.scale = max(self.scale, float(np.abs(values).max()))
        chosen = _wanted(values, self.k, self.which)
        if (residuals[chosen] > _SAFETY * self._thresholds(values[chosen])).any():
            return False
        # A small residual alone may be that of an inner eigenvalue, seen before the outer ones.
        return self.start is not None or self._are_sharp(values, self._edges_of(krylov))

    def _are_sharp(self, values: Array, edges: tuple[float, float]) -> bool:
        slack = _EDGE_SHARE * (values.max() - values.min()) + self._thresholds(values).max()
        above = self.which == "SA" or edges[1] <= values.max() + slack
        below = self.which == "LA" or edges[0] >= values.min() - slack
        return bool(above and below)

    def _search_complement(self, steps: int) -> bool:
        """Look for wanted eigenvalues outside the locked pairs; True if any was locked."""
        assert self.locked is not None
        self.is_deflated = True
        krylov = Krylov(
            self.operator,
            min(self.capacity, self.operator.size - self.k),
            generator=self.generator,
            deflated=self.locked,
        )
        krylov.begin()
        locked_thresholds = self._thresholds(self.values)

        def missed(values: Array) -> NDArray[np.bool_]:
            # Values that push a locked one out of the list by more than its own tolerance.
            merged = np.concatenate([self.values, values])
            chosen = _wanted(merged, self.k, self.which)
            out = np.setdiff1d(np.arange(self.k), chosen)
            mask = np.zeros(len(values), dtype=bool)
            if len(out):
                entering = chosen[chosen >= self.k] - self.k
                far = np.abs(values[entering][:, None] - self.values[out])
                far = far > locked_thresholds[out]
                mask[entering[far.all(axis=1)]] = True
            return mask

        def is_done(krylov: Krylov) -> bool:
            values, _, residuals = krylov.ritz()
            entering = missed(values)
            if entering.any():
                return bool(
                    (residuals[entering] <= _SAFETY * self._thresholds(values[entering])).all()
                )
            self.edges = self._edges_of(krylov)
            if self._is_complete().all():
                return True
            # At a dense end that takes too long. A copy would by now have come up, as fast as its
            # twin did: the outermost of what is left are exact, and no farther out.
            ends = {"LA": [-1], "SA": [0]}.get(self.which, [0, -1])
            settled = residuals[ends] <= _SAFETY * self._thresholds(values[ends])
            return krylov.count > self.k and bool(settled.all())

        done = self._run(krylov, is_done, steps)
        values, coordinates, _ = krylov.ritz()
        entering = missed(values)
        if entering.any() and not done:
            # A larger one is there for certain: give it the rest of the budget.
            rest = self.budget - self.num_products - self.k
            done = self._run(krylov, is_done, rest)
            values, coordinates, _ = krylov.ritz()
            entering = missed(values)
        self.evidence_of_missed = bool(entering.any()) and not done
        self.edges = self._edges_of(krylov)
        if not entering.any() or not done:
            return False
        merged = np.concatenate([self.values, values[entering]])
        vectors = torch.cat([self.locked, krylov.vectors(coordinates[:, entering])])
        chosen = _wanted(merged, self.k, self.which)
        self.values, self.locked = merged[chosen], vectors[torch.from_numpy(chosen.copy())]
        self.edges = (np.nan, np.nan)
        return True

    def _edges_of(self, krylov: Krylov) -> tuple[float, float]:
        size = self.operator.size
        low = -spectrum_edge([-a for a in krylov.alphas], krylov.betas, size, _DELTA)
        return low, spectrum_edge(krylov.alphas, krylov.betas, size, _DELTA)

    def _is_complete(self) -> NDArray[np.bool_]:
        """(k,) whether nothing outside the locked pairs can belong before each of them."""
        low, high = self.edges
        if self.is_whole:
            return np.ones(len(self.values), dtype=bool)
        if self.evidence_of_missed or np.isnan(low):
            return np.zeros(len(self.values), dtype=bool)
        values, thresholds = self.values, self._thresholds(self.values)
        slack = None
        if self.start is None:
            slack = _EDGE_SHARE * (max(high, values.max()) - min(low, values.min()))
        if self.which == "LM":
            return _none_before(np.abs(values), thresholds, max(abs(low), abs(high)), slack)
        num_top = {"LA": len(values), "SA": 0, "BE": (len(values) + 1) // 2}[self.which]
        top, bottom = slice(None, num_top), slice(num_top, None)
        return np.concatenate(
            [
                _none_before(values[top], thresholds[top], high, slack),
                _none_before(-values[bottom], thresholds[bottom], -low, slack),
            ]
        )

    # -- reporting ----------------------------------------------------------------------------

    def certified(self, settings: dict[str, object], began: float) -> Eigenpairs:
        """Rayleigh-Ritz on what is locked, with fresh products, and the residuals of that."""
        assert self.locked is not None
        basis = torch.linalg.qr(self.locked.T.double())[0].T.to(self.locked.dtype)
        images = torch.stack([self.operator.matvec(row).to(row.dtype) for row in basis])
        self.num_products += len(basis)
        quotients = (basis.double() @ images.double().T).cpu().numpy()
        _, rotation = np.linalg.eigh((quotients + quotients.T) / 2)
        turn = torch.from_numpy(rotation.T.copy()).to(basis.device)
        vectors, images = (turn @ basis.double()), (turn @ images.double())
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
        values = (vectors * images).sum(1)
        residual_norms = (images - values[:, None] * vectors).norm(dim=1).cpu().numpy()
        values = values.cpu().numpy()
        order = _wanted(values, len(values), self.which)
        values, residual_norms = values[order], residual_norms[order]
        self.scale = max(self.scale, float(np.abs(values).max()))
        self.values = values
        radius = residual_norms + self._rounding()
        # An edge of the complement is one of A only up to what couples the two, the residuals.
        coupling = float(np.linalg.norm(residual_norms)) if self.is_deflated else 0.0
        low = min(self.edges[0], values.min()) - coupling - self._rounding()
        high = max(self.edges[1], values.max()) + coupling + self._rounding()
        return Eigenpairs(
            settings=settings,
            provenance=self.operator.provenance,
            num_products=self.num_products,
            wall_time=time.perf_counter() - began,
            notes=self.operator.notes,
            values=values,
            vectors=vectors[torch.from_numpy(order.copy())].T.to(self.locked.dtype),
            residual_norms=residual_norms,
            intervals=np.stack([values - radius, values + radius], axis=1),
            converged=(residual_norms <= self._thresholds(values)) & (not self.evidence_of_missed),
            complete=self._is_complete(),
            bounds=(float(low), float(high)),
            noise_floor=self.noise.floor,
        )

    def _rounding(self) -> float:
        """Error of a recomputed residual: products, and the arithmetic on their result."""
        return self.noise.floor + 8 * torch.finfo(self.operator.dtype).eps * self.scale

    def _thresholds(self, values: Array) -> Array:
        return np.maximum(self.tol * np.abs(values), 4 * self._rounding())


def _sum_of(start: Tensor | None, size: int) -> Tensor | None:
    """The sum of the directions of a warm start: it spans, with its images, what they span."""
    if start is None:
        return None
    fits_in = start.ndim in (1, 2) and len(start) == size and start.numel()
    if not fits_in or not start.isfinite().all():
        raise RequestError(
            f"start has shape {tuple(start.shape)}, expected finite values of shape ({size},) or "
            f"({size}, j)."
        )
    columns = start.reshape(size, -1)
    total: Tensor = (columns / columns.norm(dim=0).clamp_min(1e-30)).sum(1)
    return total


def _wanted(values: Array, k: int, which: Which) -> NDArray[np.intp]:
    """Indices of the k wanted values, the most wanted first ("BE": from the top down)."""
    k = min(k, len(values))
    descending = np.argsort(-values, kind="stable")
    if which == "LA":
        return descending[:k]
    if which == "SA":
        return descending[::-1][:k]
    if which == "LM":
        return np.argsort(-np.abs(values), kind="stable")[:k]
    high, low = (k + 1) // 2, k // 2
    return np.concatenate([descending[:high], descending[len(descending) - low :]])


def _none_before(
    ranks: Array, thresholds: Array, edge: float, slack: float | None
) -> NDArray[np.bool_]:
    """(k,) whether something unseen, of rank `edge` at most, can come before each of `ranks`.

    Beside a value of its own rank an unseen copy does no harm: the list stays the same. After a
    random start that was run until its edge was sharp to `slack`, only copies of what it showed
    are unseen; `slack` None says that the start was given, and may have hidden anything.
    """
    closed = np.asarray(edge <= ranks + thresholds)
    if slack is None:
        return closed
    ahead = ranks[None, :] > (ranks + thresholds)[:, None]
    reach = np.where(ahead, ranks[None, :], np.inf).min(axis=1, initial=np.inf)
    reach = np.where(np.isfinite(reach), reach, ranks.max(initial=0) + slack)
    return np.asarray(closed | (edge + thresholds < reach))


def _num_kept(k: int, capacity: int) -> int:
    """Ritz vectors that survive a restart: the wanted ones, and half of the rest."""
    return min(capacity - 1, k + max(1, (capacity - k) // 2))


def _capacity(operator: LinearOperator, k: int) -> int:
    """Basis vectors: room for k and as many again, as far as memory reaches."""
    wanted, least = max(2 * k + 40, 60), k + 8
    # Besides the basis: k locked vectors, and as many again while they are certified in float64.
    for capacity in range(wanted, least, -4):
        if capacity >= operator.size or fits(operator, capacity + 5 * k):
            return min(capacity, operator.size)
    check_memory(operator, least + 5 * k)
    return min(least, operator.size)
