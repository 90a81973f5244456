"""Measure the loss landscape around a trained PyTorch network.

This page is the table of contents. Nothing heavy is imported before it is used: `import landscape`
loads neither torch nor xarray nor matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from landscape.curvature.density import SpectralDensity as SpectralDensity
    from landscape.curvature.density import spectral_density as spectral_density
    from landscape.curvature.eigen import eigsh as eigsh
    from landscape.curvature.eigenpairs import Eigenpairs as Eigenpairs
    from landscape.curvature.hessian import HessianOperator as HessianOperator
    from landscape.curvature.operators import LinearOperator as LinearOperator
    from landscape.curvature.operators import MatrixOperator as MatrixOperator
    from landscape.curvature.trace import Estimate as Estimate
    from landscape.curvature.trace import trace as trace
    from landscape.errors import RequestError as RequestError
    from landscape.objective import Objective as Objective
    from landscape.parameters import ParameterSpace as ParameterSpace
    from landscape.probing import Metrics as Metrics
    from landscape.probing import probe as probe
    from landscape.request import Plan as Plan
    from landscape.request import Source as Source
    from landscape.request import load_objective as load_objective
    from landscape.result import Result as Result
    from landscape.store import Results as Results
    from landscape.store import open_results as open_results
    from landscape.store import save as save

__version__ = "0.1.0"

_HOMES = {
    "Eigenpairs": "landscape.curvature.eigenpairs",
    "Estimate": "landscape.curvature.trace",
    "HessianOperator": "landscape.curvature.hessian",
    "LinearOperator": "landscape.curvature.operators",
    "MatrixOperator": "landscape.curvature.operators",
    "Metrics": "landscape.probing",
    "Objective": "landscape.objective",
    "Plan": "landscape.request",
    "Source": "landscape.request",
    "ParameterSpace": "landscape.parameters",
    "RequestError": "landscape.errors",
    "Result": "landscape.result",
    "Results": "landscape.store",
    "SpectralDensity": "landscape.curvature.density",
    "eigsh": "landscape.curvature.eigen",
    "load_objective": "landscape.request",
    "open_results": "landscape.store",
    "probe": "landscape.probing",
    "save": "landscape.store",
    "spectral_density": "landscape.curvature.density",
    "trace": "landscape.curvature.trace",
}

__all__ = sorted([*_HOMES, "__version__"])


def __getattr__(name: str) -> object:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'landscape' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
