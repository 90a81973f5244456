"""VoG, the variance of gradients: how much what an example's prediction hangs on changes over time.

`grand` has gradients with respect to the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from landscape.errors import RequestError, unknown_choice
from landscape.objective import Objective
from landscape.probes.arrays import Floats, Ints
from landscape.probes.sensitivity.class_scores import class_scores
from landscape.probes.sensitivity.single_examples import (
    BuffersOf,
    Point,
    Thetas,
    differentiation,
    gradient_by,
    inputs_of,
    points,
    with_inputs,
)

__all__ = ["Colour", "GradientVariance", "gradient_variance"]

Colour = Literal["channels", "mean"]
Output = Literal["probability", "logit"]
_COLOURS = ("channels", "mean")
_OUTPUTS = ("probability", "logit")


@dataclass(frozen=True, eq=False)
class GradientVariance:
    """The spread over checkpoints of the gradient of p_y to each pixel, averaged over pixels.

    It has the name of a variance and is a standard deviation. Checkpoints of one run are no
    independent draws, so no standard error is given.

    Attributes:
        value: (N,) over all checkpoints, per unit of the inputs; NaN for an example that is left
            out.
        early: (N,) over the first `window` checkpoints; NaN where these are fewer than two.
        late: (N,) over the last `window`.
        class_normalized: (N,) `value` less its mean over the example's class, in standard
            deviations (ddof 0) of that class; NaN where the class has no spread.
        label: (N,) classes; -1 where an example is left out.
        num_checkpoints: T.
        window: checkpoints in `early` and in `late`, which each divide by that number.
        ddof, colour, output: the convention, as asked for.
    """

    value: Floats
    early: Floats
    late: Floats
    class_normalized: Floats
    label: Ints
    num_checkpoints: int
    window: int
    ddof: int
    colour: Colour
    output: Output


def gradient_variance(
    objective: Objective,
    thetas: Thetas,
    *,
    ddof: int = 0,
    colour: Colour = "channels",
    output: Output = "probability",
    window: int | None = None,
    buffers: BuffersOf = None,
) -> GradientVariance:
    """VoG of every example, in eval mode.

    Two conventions are about: (ddof=0, colour="channels"), the default, and (ddof=1,
    colour="mean").

    Args:
        thetas: (T, P) checkpoints in order, two or more.
        ddof: the spread divides by the number of checkpoints less this.
        colour: "channels" has a spread for each channel of a pixel; "mean" averages the gradient
            over the channels first, the first dimension of inputs (c, ...) of two dimensions or
            more.
        output: what is differentiated: the probability of the label, or its logit.
        window: checkpoints that are early, and that are late; by default half of them.
        buffers: of each checkpoint, such as running statistics of its BatchNorm layers.

    Raises:
        RequestError: an option out of range, or a network without classes.

    Source: Agarwal, D'souza and Hooker 2022, arXiv:2008.11600.
    """
    if colour not in _COLOURS:
        raise unknown_choice("colour", colour, _COLOURS)
    if output not in _OUTPUTS:
        raise unknown_choice("output", output, _OUTPUTS)
    values, labels = [], []
    with differentiation(objective):
        places = list(points(objective, thetas, buffers))
        window = _checked_window(len(places), window, ddof)
        for batch in objective.batches:
            gradients = []
            for place in places:
                gradient, label = _gradient(objective, place, batch, output)
                gradients.append(_coloured(gradient.double(), colour))
            values.append(_spreads(torch.stack(gradients), window, ddof))
            labels.append(label)
    whole, early, late = torch.cat(values, 1).cpu().numpy()
    classes = torch.cat(labels).cpu().numpy()
    return GradientVariance(
        value=whole,
        early=early,
        late=late,
        class_normalized=_class_normalized(whole, classes),
        label=classes,
        num_checkpoints=len(places),
        window=window,
        ddof=ddof,
        colour=colour,
        output=output,
    )


def _checked_window(num_checkpoints: int, window: int | None, ddof: int) -> int:
    if ddof not in (0, 1):
        raise RequestError(f"ddof={ddof}, expected 0 or 1.")
    if num_checkpoints < 2:
        raise RequestError(
            f"there are {num_checkpoints} checkpoints: a spread over them needs 2 or more."
        )
    if window is None:
        return num_checkpoints // 2
    if not 2 <= window <= num_checkpoints:
        raise RequestError(f"window={window}, expected 2 ... {num_checkpoints} checkpoints.")
    return window


def _gradient(
    objective: Objective, point: Point, batch: object, output: Output
) -> tuple[Tensor, Tensor]:
    """(b, ...) the gradient of the label's score, NaN where there is no label, and (b,) labels."""
    inputs = inputs_of(batch).detach().clone().requires_grad_()
    term = objective.term(point.blocks, with_inputs(batch, inputs), point.buffers)
    scores = class_scores(objective.loss_function, term)
    if output == "probability":
        of_label = scores.log_probability.exp()
    else:
        of_label = scores.logits.gather(1, scores.labels[:, None])
    gradient = gradient_by(of_label.sum(), inputs)
    kept = scores.counted.view(-1, *[1] * (gradient.ndim - 1))
    label = scores.labels.masked_fill(~scores.counted, -1)
    return torch.where(kept, gradient, torch.nan), label


def _coloured(gradient: Tensor, colour: Colour) -> Tensor:
    """(b, pixels)."""
    if colour == "mean" and gradient.ndim > 2:
        gradient = gradient.mean(1)
    return gradient.flatten(1)


def _spreads(gradients: Tensor, window: int, ddof: int) -> Tensor:
    """(3, b) of gradients (T, b, pixels): over all, over the first ones and over the last ones."""

    def spread(part: Tensor) -> Tensor:
        if len(part) < 2:
            return torch.full_like(part[0, :, 0], torch.nan)
        return part.std(0, correction=ddof).mean(1)

    return torch.stack([spread(gradients), spread(gradients[:window]), spread(gradients[-window:])])


def _class_normalized(values: Floats, label: Ints) -> Floats:
    found = np.full_like(values, np.nan)
    for one in np.unique(label[label >= 0]):
        own = label == one
        spread = values[own].std()
        if spread > 0:
            found[own] = (values[own] - values[own].mean()) / spread
    return found
