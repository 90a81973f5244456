"""CKA of two sets of features on the same examples, with an interval that says how sure it is.

`streaming` gathers what it is made of, from whole features or batch by batch.
"""

from __future__ import annotations

from landscape.similarity.streaming import CKAEstimate, Features, StreamingCKA

__all__ = ["cka", "cka_estimate"]


def cka(x: Features, y: Features, *, debiased: bool = True) -> float:
    """Linear CKA, HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = X X' and L = Y Y', in float64.

    It does not change under orthogonal maps, shifts and a common scale of the features; under
    other linear maps it does.

    Args:
        x: (n, p) or (n, ...) features of n >= 4 examples; what follows the first is flattened.
        y: (n, q) or (n, ...) features of the same examples.
        debiased: with the unbiased HSIC_1: about 0 for independent features, where it may be
            negative, whatever their number. The biased one is near 1 as soon as p and q exceed n.

    Returns:
        At most 1; NaN where the features of one side are the same for all examples, or hold NaN.

    Raises:
        RequestError: fewer than four examples, or two different numbers of them.

    Source: Kornblith et al. 2019, arXiv:1905.00414; Song et al. 2012; Nguyen et al. 2021,
        arXiv:2010.15327.
    """
    return _gathered(x, y, debiased).value("x", "y")


def cka_estimate(
    x: Features, y: Features, *, debiased: bool = True, confidence: float = 0.95
) -> CKAEstimate:
    """`cka`, whose other arguments these are, with the interval for a fresh draw of examples.

    The examples are left out one at a time (the jackknife). Drawing them with replacement, as a
    bootstrap does, brings twins, whose kernels are off the diagonal that HSIC_1 leaves out: every
    replicate would be biased upwards, towards 1 where there are more features than examples. The
    interval is not corrected for the bias of `debiased=False`.

    Raises:
        RequestError: as `cka`, or a confidence that is not between 0 and 1.
    """
    return _gathered(x, y, debiased).estimate("x", "y", confidence=confidence)


def _gathered(x: Features, y: Features, debiased: bool) -> StreamingCKA:
    gathered = StreamingCKA([("x", "y")], debiased=debiased)
    features: dict[str, Features] = {"x": x, "y": y}
    gathered.update(features)
    if gathered.needs_second_pass:
        gathered.revisit(features)
    return gathered
