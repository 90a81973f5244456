"""Softmax regression at P penalties at once: L-BFGS upon a sampled Newton matrix.

Each pass over the data serves all penalties that are still at work. Four stages:

1. the prior's intercept, W = 0;
2. L-BFGS on a sample of the examples, in coordinates where Böhning's bound is the identity;
3. at what that found, the Hessian from a few thousand examples, drawn in proportion to the
   curvature that they have there (1 - sum p^2: next to none where the class is certain), one for
   two penalties;
4. L-BFGS on all examples, preconditioned by it, for as long as a Hessian takes or more. 3 and 4
   are repeated with what is not done; 3 is left out at first where 2 was quick.

Each descent begins in float32 and ends in float64. Warm starts along the path would be passes of
one penalty, at 28 ms instead of 10: side by side, from the sample's minima, is faster.

60,000 x 128, 10 classes, 12 penalties from 1 to 1e-7, one thread, to 1e-6 of the objective: 3 s.
Examples drawn evenly for 3, of which few count where the fit is good: 13 s. The bound alone takes
more than 100 passes at the smallest penalties, 10 ms each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from landscape.probes.linear.coordinates import Coordinates, coordinates
from landscape.probes.linear.descent import descend
from landscape.probes.linear.logistic import SoftmaxRegression, Solution

__all__ = ["prior_intercept", "solve"]

# Examples of the first stage and of a Hessian, for each number of a probe. With 1290 numbers, 2,048
# to 3,072 examples take the least time: 1,024 need twice the passes, 4,096 twice as long a product.
_EXAMPLES_A_NUMBER, _FEWEST_EXAMPLES = 2, 1024
_LARGEST_HESSIAN = 3000  # numbers of a probe: beyond, 36 MB a penalty, the bound has to do
_DAMPING = 1e-6  # of the mean curvature: what float32 leaves of the smallest
_FIRST_TOLERANCE = 0.1  # the sample's minimum is not that of all examples
_FLOAT32_GAIN = 2  # flops a second of a Hessian over those of a pass: 60e9 and 31e9
_FEWEST_PASSES = 8  # with a Hessian; measured at 5, 8, 10, 25 where a Hessian takes eight
_MANY_PASSES = 200  # without
_SHARED = 5.0  # ratio of penalties whose probes are alike enough for one Hessian
_SEED = 0  # of the sampling, which changes how long it takes and not where it ends


def solve(
    problem: SoftmaxRegression, penalties: Tensor, *, tol: float, max_iterations: int
) -> Solution:
    """Minimise at each penalty, infinite ones included.

    Converged means, with the gradient g by the weights of centred features and by the intercept,
    ||g||_inf <= tol penalty ||W||_inf, or ||g||_inf / loss is at most tol min(tol, 1e-3) of what it
    is at the prior, where W = 0.

    Args:
        penalties: (P,) float64 from 0 on.
    """
    count, classes = len(penalties), problem.num_classes
    prior = prior_intercept(problem)
    weights = prior.new_zeros(count, classes, problem.features.shape[1])
    intercept = prior.repeat(count, 1)
    iterations = torch.zeros(count, dtype=torch.int64)
    converged = torch.ones(count, dtype=torch.bool)
    finite = penalties.isfinite().nonzero().flatten()
    if len(finite):
        frame = coordinates(problem, penalties[finite])
        theta, iterations[finite], converged[finite] = _minimum(
            problem, frame, prior, tol, max_iterations
        )
        weights[finite], intercept[finite] = frame.probes(theta)
    return Solution(weights, intercept, iterations, converged)


def _minimum(
    problem: SoftmaxRegression, frame: Coordinates, prior: Tensor, tol: float, budget: int
) -> tuple[Tensor, Tensor, Tensor]:
    count = len(frame.penalties)
    theta = prior.new_zeros(count, len(prior), frame.scales.shape[1])
    theta[:, :, 0] = prior * frame.scales[:, :1]
    unit = _relative_gradient(problem, frame, prior)
    sample = problem.sample(_sample_size(theta), _SEED)
    first = descend(
        [sample.rounded()], frame, theta, None,
        unit=unit, tol=_FIRST_TOLERANCE, max_passes=budget,
    )  # fmt: skip
    theta = first.theta
    iterations = torch.zeros(count, dtype=torch.int64)
    converged = torch.zeros(count, dtype=torch.bool)
    patience = _patience(problem, theta)
    # What the bound found quickly on the sample it finds on all before a Hessian is there.
    live = (2 * first.passes <= patience).nonzero().flatten()
    factors: list[Tensor] | None = None
    rounded = problem.rounded()
    while True:
        if len(live):
            # Half of the passes are far from the minimum, where float32 does; but it would only
            # lead away from what float64 has found.
            is_far = bool((iterations[live] == 0).any())
            part = frame.at(live)
            left = budget - int(iterations[live].min())
            found = descend(
                [rounded, problem] if is_far else [problem], part, theta[live], factors,
                unit=unit, tol=tol, max_passes=min(left, patience),
            )  # fmt: skip
            theta[live] = found.theta
            iterations[live] += found.passes
            converged[live] = found.converged
        live = (~converged & (iterations < budget)).nonzero().flatten()
        if not len(live):
            return theta, iterations, converged
        if theta[0].numel() <= _LARGEST_HESSIAN:
            factors = _factors(problem, frame.at(live), theta[live], share=factors is None)


def _patience(problem: SoftmaxRegression, theta: Tensor) -> int:
    """Passes that take as long as a Hessian."""
    numbers = theta[0].numel()
    if numbers > _LARGEST_HESSIAN:
        return _MANY_PASSES
    of_hessian = (min(_sample_size(theta), len(problem.labels)) + numbers / 3) * numbers**2
    of_pass = 4 * len(problem.labels) * numbers
    return max(round(of_hessian / of_pass / _FLOAT32_GAIN), _FEWEST_PASSES)


def prior_intercept(problem: SoftmaxRegression) -> Tensor:
    """(C,) logarithms of the classes' shares, of mean 0: the best intercept where W = 0."""
    shares = problem.shares.new_zeros(problem.num_classes)
    logs = shares.index_add_(0, problem.labels, problem.shares).log()
    return logs - logs.mean()


def _relative_gradient(problem: SoftmaxRegression, frame: Coordinates, prior: Tensor) -> Tensor:
    weights = prior.new_zeros(1, len(prior), problem.features.shape[1])
    term = problem.data_term(weights, prior[None])
    centred = term.weight_gradient - term.intercept_gradient[:, :, None] * frame.mean
    return centred.abs().max() / term.loss


def _factors(
    problem: SoftmaxRegression, frame: Coordinates, theta: Tensor, *, share: bool
) -> list[Tensor]:
    """Cholesky factors of the Hessians by theta, float32.

    If they `share`, neighbours on the path have the examples' part in common, taken between their
    probes: half the products, for a pass or two more.
    """
    weights, intercept = frame.probes(theta)
    pairs = _neighbours(frame.penalties, _SHARED if share else 0.0)
    middles = torch.stack([weights[pair].mean(0) for pair in pairs])
    offsets = torch.stack([intercept[pair].mean(0) for pair in pairs])
    curvature = problem.curvature_shares(middles, offsets)
    generator = torch.Generator().manual_seed(_SEED + 1)
    classes, penalty_part = len(intercept[0]), frame.penalty_part()
    factors: dict[int, Tensor] = {}
    for pair, middle, offset, shares in zip(pairs, middles, offsets, curvature, strict=True):
        rows, chances = _drawn(shares, _sample_size(theta), generator)
        features = problem.features[rows].double()
        chosen = torch.addmm(offset, features, middle.T).softmax(1)
        turned = torch.cat(
            [features.new_ones(len(rows), 1), (features - frame.mean) @ frame.axes], 1
        )
        scaled = turned / frame.scales[pair[0]] * (problem.shares[rows] / chances).sqrt()[:, None]
        hessian = _softmax_hessian(chosen.float(), scaled.float())
        for cell in pair.tolist():
            units = (frame.scales[pair[0]] / frame.scales[cell]).float().repeat(classes)
            own = hessian * units * units[:, None]
            own.diagonal().view(classes, -1).add_(penalty_part[cell].float())
            factors[cell] = _cholesky(own, classes)
    return [factors[cell] for cell in range(len(theta))]


def _neighbours(penalties: Tensor, ratio: float) -> list[Tensor]:
    """One or two penalties at a time, two where the larger is at most `ratio` times the smaller."""
    path = penalties.argsort().tolist()
    pairs = []
    while path:
        own, *others = path
        is_near = bool(others) and penalties[others[0]] <= ratio * penalties[own]
        pairs.append(torch.tensor(path[: 1 + is_near]))
        path = path[1 + is_near :]
    return pairs


def _sample_size(theta: Tensor) -> int:
    return max(_EXAMPLES_A_NUMBER * theta[0].numel(), _FEWEST_EXAMPLES)


def _drawn(shares: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows by systematic sampling, and the chance that each had to be drawn."""
    if (shares > 0).sum() <= size:
        rows = shares.nonzero().flatten()
        return rows, torch.ones(len(rows), dtype=torch.float64)
    chances = shares * (size / shares.sum())
    for _ in range(3):  # what is certain to be drawn leaves more for the others
        certain = chances >= 1
        others = shares[~certain].sum()
        if others == 0:
            break
        scale = (size - certain.sum()) / others
        chances = torch.where(certain, 1.0, shares * scale).clamp_(max=1)
    start = torch.rand(1, generator=generator, dtype=torch.float64)
    steps = (chances.cumsum(0) + start).floor().diff(prepend=start.new_zeros(1))
    rows = (steps > 0).nonzero().flatten()
    return rows, chances[rows]


def _softmax_hessian(probabilities: Tensor, features: Tensor) -> Tensor:
    """(C r, C r): sum_i (diag p - pp')_i (x) x_i x_i'; only its lower blocks are filled."""
    num_rows, classes = probabilities.shape
    width = features.shape[1]
    products = (probabilities[:, :, None] * features[:, None]).reshape(num_rows, classes * width)
    hessian = features.new_zeros(classes * width, classes * width)
    blocks = hessian.view(classes, width, classes, width)
    for own in range(classes - 1):
        below = slice((own + 1) * width, None)
        block = slice(own * width, (own + 1) * width)
        hessian[below, block] = -(products[:, below].T @ products[:, block])
        # p (1 - p) is the sum of its products with the others' p: no difference, so that float32
        # does where a class is nearly certain. Each block is symmetric.
        for other in range(own + 1, classes):
            shared = blocks[other, :, own]
            blocks[own, :, own] -= shared
            blocks[other, :, other] -= shared
    return hessian


def _cholesky(hessian: Tensor, classes: int) -> Tensor:
    mean = hessian.diagonal().mean().clamp_min(torch.finfo(hessian.dtype).tiny)
    blocks = hessian.view(classes, len(hessian) // classes, classes, -1)
    # The same vector in all classes changes no probability: give that direction a curvature.
    blocks.diagonal(dim1=1, dim2=3).add_(mean / classes)
    damping = _DAMPING
    while True:
        hessian.diagonal().add_(damping * mean)
        factor: Tensor
        factor, info = torch.linalg.cholesky_ex(hessian)
        if not info.any() or damping > 1:
            return factor
        damping *= 10
