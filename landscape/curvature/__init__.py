"""Curvature: operators, eigenpairs, trace and spectral density.

`operators` is the protocol, `hessian` the operator of a loss, `lanczos` the basis under `eigen`
and `density`; `trace` needs products only.
"""
