"""Band: pivots between two ends, the directions along them, and how they are spaced.

`relaxation` moves a band down to a path of least loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from landscape.errors import RequestError

__all__ = ["SUBPOINTS", "Band", "band_gradient", "highest_insertions", "redistributed", "tangents"]

SUBPOINTS = 9  # measured in each segment, between its two pivots


@dataclass(frozen=True, eq=False)
class Band:
    """A polyline.

    Attributes:
        pivots: (P, n); the first and the last stay where they are.
        targets: (P - 1,) float64 wanted lengths of the segments; only their ratios matter.
    """

    pivots: Tensor
    targets: Tensor

    @classmethod
    def straight(cls, start: Tensor, end: Tensor) -> Band:
        """One segment."""
        return cls(torch.stack([start, end]), torch.ones(1, dtype=torch.float64))

    @property
    def segment_lengths(self) -> Tensor:
        """(P - 1,) float64."""
        return _segment_lengths(self.pivots)

    @property
    def length(self) -> float:
        """Of the whole polyline."""
        return float(self.segment_lengths.sum())

    def inserted(self, places: Mapping[int, tuple[float, ...]]) -> Band:
        """With further pivots on it: for a segment, shares of it in ascending order.

        The polyline stays as it is, and each target is divided as its segment is.
        """
        pivots, targets = [self.pivots[:1]], []
        for segment, (start, end) in enumerate(pairwise(self.pivots)):
            cuts = (0.0, *places.get(segment, ()), 1.0)
            if any(not low < high for low, high in pairwise(cuts)):
                raise RequestError(
                    f"places {cuts[1:-1]} in segment {segment}: expected shares between 0 and 1, "
                    "ascending."
                )
            inner = torch.tensor(cuts[1:-1], dtype=start.dtype, device=start.device)
            pivots += [torch.lerp(start, end, inner[:, None]), end[None]]
            targets.append(torch.tensor(cuts, dtype=torch.float64).diff() * self.targets[segment])
        return Band(torch.cat(pivots), torch.cat(targets))

    def evenly_inserted(self, count: int) -> Band:
        """With `count` further pivots in each segment, evenly spaced."""
        shares = tuple(index / (count + 1) for index in range(1, count + 1))
        return self.inserted(dict.fromkeys(range(len(self.targets)), shares))

    def moved(self, pivots: Tensor) -> Band:
        """With the same targets."""
        return replace(self, pivots=pivots)

    def sub_weights(self) -> Tensor:
        """(M, P) float64: weights of the pivots in every pivot and every point between.

        There are `SUBPOINTS` in each segment, so M = (P - 1) (SUBPOINTS + 1) + 1.
        """
        parts = SUBPOINTS + 1
        segments = len(self.targets)
        found = torch.zeros(segments * parts + 1, segments + 1, dtype=torch.float64)
        shares = torch.linspace(0, 1, parts + 1, dtype=torch.float64)[:-1]
        for segment in range(segments):
            rows = slice(segment * parts, (segment + 1) * parts)
            found[rows, segment], found[rows, segment + 1] = 1 - shares, shares
        found[-1, -1] = 1
        return found

    def sub_shares(self) -> Tensor:
        """(M,) float64: how far along the band they are, from 0 to 1; pivots alike if it is 0."""
        lengths = self.segment_lengths
        if not lengths.sum() > 0:
            lengths = torch.ones_like(lengths)
        gone = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        shares = self.sub_weights() @ (gone / gone[-1])
        shares[-1] = 1.0
        return shares


def tangents(pivots: Tensor, values: Tensor) -> Tensor:
    """(P - 2, n) unit directions of a band at its inner pivots; zero where pivots coincide.

    On a slope it is that of the segment to the higher neighbour. At an extremum both segments
    count, each by the greater difference of the values where its neighbour is the higher one, so
    that the direction does not jump as the extremum passes from pivot to pivot. Where all three
    values are equal, it is the bisecting one.

    Args:
        pivots: (P, n).
        values: (P,).

    Source: Henkelman and Jonsson 2000, doi:10.1063/1.1323224, equations 8 to 11.
    """
    before, here, after = values[:-2], values[1:-1], values[2:]
    forward, backward = pivots[2:] - pivots[1:-1], pivots[1:-1] - pivots[:-2]
    differences = torch.stack([(after - here).abs(), (before - here).abs()])
    larger, smaller = differences.amax(0), differences.amin(0)
    rises = after > before
    ahead = torch.where(rises, larger, smaller)
    behind = torch.where(rises, smaller, larger)
    uphill, downhill = (before < here) & (here < after), (before > here) & (here > after)
    ahead, behind = (
        torch.where(first, 1.0, torch.where(second, 0.0, weight))
        for first, second, weight in [(uphill, downhill, ahead), (downhill, uphill, behind)]
    )
    is_flat = larger == 0
    ahead, behind = ahead.masked_fill(is_flat, 1.0), behind.masked_fill(is_flat, 1.0)
    whole = ahead + behind  # differences may be as small as the values
    scales = ((weight / whole).to(pivots)[:, None] for weight in (ahead, behind))
    found = next(scales) * forward + next(scales) * backward
    norms = torch.linalg.vector_norm(found, dim=1, keepdim=True)
    return torch.where(norms > 0, found / norms, 0.0)


def band_gradient(
    band: Band, values: Tensor, gradients: Tensor, *, spring: float, climbing: int | None = None
) -> Tensor:
    """(P - 2, n) what the inner pivots go down along: g - (g.t) t, the part across the band.

    A finite spring adds k [(d_before - t_before) - (d_after - t_after)] t, with targets t scaled to
    the band's length. The climbing pivot has g - 2 (g.t) t instead: it goes up along the band.

    Args:
        values, gradients: (P,) and (P, n) at the pivots.
        spring: k; infinite where pivots are put back in their places after each step.
        climbing: number of the pivot that climbs.

    Source: Henkelman, Uberuaga and Jonsson 2000, doi:10.1063/1.1329672.
    """
    along = tangents(band.pivots, values)
    inner = gradients[1:-1]
    parts = (inner * along).sum(1, keepdim=True)
    found = inner - parts * along
    if spring != float("inf"):
        lengths = band.segment_lengths
        stretch = lengths - band.targets / band.targets.sum() * lengths.sum()
        found = found + (spring * (stretch[:-1] - stretch[1:])).to(found)[:, None] * along
    if climbing is not None:
        row = climbing - 1
        found[row] = inner[row] - 2 * parts[row] * along[row]
    return found


def redistributed(band: Band, fixed: int | None = None) -> Band:
    """With its pivots at the targeted shares of its length, on the polyline that it is now.

    Args:
        fixed: number of a pivot that stays, besides the ends: both sides are spaced on their own.
    """
    if fixed is not None:
        sides = [
            redistributed(Band(band.pivots[part], band.targets[cut])).pivots
            for part, cut in [
                (slice(0, fixed + 1), slice(0, fixed)),
                (slice(fixed, None), slice(fixed, None)),
            ]
        ]
        return band.moved(torch.cat([sides[0], sides[1][1:]]))
    lengths = band.segment_lengths
    if len(lengths) < 2 or not lengths.sum() > 0:
        return band
    gone = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    wanted = band.targets.cumsum(0)[:-1] / band.targets.sum() * gone[-1]
    after = torch.searchsorted(gone, wanted).clamp(1, len(lengths))
    shares = ((wanted - gone[after - 1]) / (gone[after] - gone[after - 1])).to(band.pivots)
    places = after.to(band.pivots.device)
    inner = torch.lerp(band.pivots[places - 1], band.pivots[places], shares[:, None])
    return band.moved(torch.cat([band.pivots[:1], inner, band.pivots[-1:]]))


def highest_insertions(losses: Tensor, threshold: float, count: int) -> dict[int, tuple[float]]:
    """Where pivots are missing: the segments whose losses rise most above their ends' chord.

    Args:
        losses: (M,) at pivots and at the points between; see `Band.sub_weights`.
        threshold: the least rise, as a share of the range of the losses at the pivots.
        count: at most so many segments, one place in each: that of the greatest rise.

    Source: Draxler et al. 2018, arXiv:1803.00885, section 2.2.
    """
    parts = SUBPOINTS + 1
    pivots = losses[::parts]
    shares = torch.linspace(0, 1, parts + 1, dtype=losses.dtype)[1:-1]
    between = losses[:-1].view(-1, parts)[:, 1:]  # (P - 1, SUBPOINTS)
    chords = torch.lerp(pivots[:-1, None], pivots[1:, None], shares)
    rises, places = (between - chords).max(1)
    least = threshold * float(pivots.max() - pivots.min())
    chosen = [i for i in rises.argsort(descending=True).tolist()[:count] if rises[i] > least]
    return {segment: (float(shares[places[segment]]),) for segment in sorted(chosen)}


def _segment_lengths(pivots: Tensor) -> Tensor:
    steps = pivots[1:] - pivots[:-1]
    lengths: Tensor = torch.linalg.vector_norm(steps, dim=1, dtype=torch.float64).cpu()
    return lengths
