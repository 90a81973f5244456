"""A family of checkpoints as an ensemble: their logits on an objective's data, and their soup.

`merging.soup` chooses which members to average; here it is all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from landscape.errors import RequestError
from landscape.fingerprint import fingerprint
from landscape.merging.averaging import RunningMean
from landscape.merging.points import PointEvaluator, checked
from landscape.objective import Objective
from landscape.probes.answers import answers
from landscape.probes.ensembles.calibration import NUM_BINS
from landscape.probes.ensembles.evaluation import evaluate
from landscape.probes.ensembles.report import EnsembleReport, SoupScores, ensemble_report

__all__ = ["FamilyLogits", "family_logits", "family_report"]


@dataclass(frozen=True, eq=False)
class FamilyLogits:
    """What several checkpoints say of an objective's data.

    Attributes:
        logits: (K, N, C) in the objective's precision.
        labels: (N,) classes.
        mean: (n,) of the members' weights.
        fingerprint: of these.
    """

    logits: Tensor
    labels: Tensor
    mean: Tensor
    fingerprint: str


def family_logits(
    objective: Objective,
    thetas: Iterable[Tensor],
    buffers: Iterable[Mapping[str, Tensor]] | None = None,
) -> FamilyLogits:
    """Evaluate members one by one; each is held only while it is its turn.

    Args:
        objective: the data, and the BatchNorm policy.
        thetas: K points (n,).
        buffers: of each member by name, such as its BatchNorm statistics; by default the
            objective's own. Under "recalibrate" and "batch" statistics are those of the data.

    Raises:
        RequestError: no members, points that do not fit or are not finite, another number of
            buffers, or a loss without classes.
    """
    mean, parts, marks = RunningMean(objective), [], {}
    labels = torch.empty(0)
    held = None if buffers is None else iter(buffers)
    for index, theta in enumerate(thetas):
        point = checked(objective, theta, index)
        own = None if held is None else next(held, None)
        if held is not None and own is None:
            raise RequestError(f"there are buffers for {index} members, and more points. {_GIVE}")
        found = answers(objective, point, buffers=own)
        parts.append(found.logits.to(objective.space.dtype).cpu())  # they come from this precision
        labels = found.labels.cpu()
        mean.add(point)
        marks[str(index)] = torch.frombuffer(
            bytearray(fingerprint({"theta": point, **(own or {})})), dtype=torch.uint8
        )
    if not parts:
        raise RequestError("there are no members to evaluate. Give one or more points.")
    if held is not None and next(held, None) is not None:
        raise RequestError(f"there are more buffers than the {len(parts)} points. {_GIVE}")
    return FamilyLogits(torch.stack(parts), labels, mean.theta, fingerprint(marks).hex())


def family_report(
    objective: Objective,
    thetas: Iterable[Tensor],
    buffers: Iterable[Mapping[str, Tensor]] | None = None,
    *,
    soup: bool = False,
    training: Objective | None = None,
    num_bins: int = NUM_BINS,
    seed: int = 0,
    confidence: float = 0.95,
) -> EnsembleReport:
    """The report of several checkpoints of one network on an objective's data.

    For a reference or examples from outside, call `family_logits` and `ensemble_report`.

    Args:
        objective, thetas, buffers: as of `family_logits`.
        soup: evaluate the network with the mean of the members' weights, too.
        training: the data whose BatchNorm statistics the soup has; by default the objective's.
        num_bins, seed, confidence: as of `ensemble_report`.

    Raises:
        RequestError: as `family_logits` and `ensemble_report`.

    Source: Wortsman et al. 2022, arXiv:2203.05482, for the soup.
    """
    family = family_logits(objective, thetas, buffers)
    report = ensemble_report(
        family.logits, family.labels, num_bins=num_bins, seed=seed, confidence=confidence
    )
    notes = [*objective.notes, *report.notes]
    if objective.has_batch_norm and objective.bn == "eval" and buffers is None:
        notes.append(
            "every member has the objective's own BatchNorm statistics, which belong to none of "
            "the others: give buffers, or bn='recalibrate'"
        )
    if soup and objective.has_batch_norm and training is None:
        notes.append("the soup's BatchNorm statistics are those of the data that it is scored on")
    return replace(
        report,
        settings={**report.settings, "soup": soup},
        provenance={
            **objective.provenance(),
            **report.provenance,
            "members_fingerprint": family.fingerprint,
        },
        notes=tuple(notes),
        soup=_soup(objective, training or objective, family.mean) if soup else None,
    )


def _soup(objective: Objective, training: Objective, theta: Tensor) -> SoupScores:
    """Of the mean weights, with the BatchNorm statistics of the training data."""
    points = PointEvaluator(training, bn="recalibrate", also={"scored": objective})
    buffers = points.buffers(theta) if training.has_batch_norm else None
    found = answers(objective.under("eval"), theta, buffers=buffers)
    held = evaluate(found.logits.unsqueeze(0), found.labels)
    return SoupScores(float(held.correct.mean()), float(held.nll.mean()))


_GIVE = "Give those of each member, or none."
