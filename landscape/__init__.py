"""Measure the loss landscape around a trained PyTorch network.

This page is the table of contents. Nothing heavy is imported before it is used: `import landscape`
loads neither torch nor xarray nor matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from landscape.alignment.aligning import Alignment as Alignment
    from landscape.alignment.aligning import align as align
    from landscape.alignment.joint import JointAlignment as JointAlignment
    from landscape.alignment.joint import align_many as align_many
    from landscape.alignment.permutations import PermutationSpec as PermutationSpec
    from landscape.alignment.symmetries import permutation_spec as permutation_spec
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
    from landscape.merging.averaging import Average as Average
    from landscape.merging.averaging import average as average
    from landscape.merging.repair import repair as repair
    from landscape.merging.repaired import Repaired as Repaired
    from landscape.merging.soup import greedy_soup as greedy_soup
    from landscape.merging.swa import swa as swa
    from landscape.merging.task_vectors import task_arithmetic as task_arithmetic
    from landscape.merging.task_vectors import task_vector as task_vector
    from landscape.objective import Objective as Objective
    from landscape.parameters import ParameterSpace as ParameterSpace
    from landscape.paths.autoneb import autoneb as autoneb
    from landscape.paths.barrier import Barrier as Barrier
    from landscape.paths.barrier import barrier as barrier
    from landscape.paths.barrier_matrix import BarrierMatrix as BarrierMatrix
    from landscape.paths.barrier_matrix import barrier_matrix as barrier_matrix
    from landscape.paths.connectivity import Connectivity as Connectivity
    from landscape.paths.connectivity import connect as connect
    from landscape.paths.curve import Curve as Curve
    from landscape.paths.curve_fit import CurveOptions as CurveOptions
    from landscape.paths.curve_fit import fit_curve as fit_curve
    from landscape.paths.neb import Neb as Neb
    from landscape.paths.neb import neb as neb
    from landscape.paths.simplex import Simplex as Simplex
    from landscape.paths.simplex import fit_simplex as fit_simplex
    from landscape.probing import Metrics as Metrics
    from landscape.probing import probe as probe
    from landscape.request import Plan as Plan
    from landscape.request import Source as Source
    from landscape.request import load_objective as load_objective
    from landscape.result import Result as Result
    from landscape.similarity.cka import cka as cka
    from landscape.similarity.comparing import compare as compare
    from landscape.similarity.comparing import compare_family as compare_family
    from landscape.similarity.comparison import Similarity as Similarity
    from landscape.slices.directions import Direction as Direction
    from landscape.slices.directions import direction_towards as direction_towards
    from landscape.slices.directions import eigenvector_directions as eigenvector_directions
    from landscape.slices.directions import gradient_direction as gradient_direction
    from landscape.slices.directions import moment_directions as moment_directions
    from landscape.slices.directions import random_directions as random_directions
    from landscape.slices.options import SweepOptions as SweepOptions
    from landscape.slices.radius import suggest_radius as suggest_radius
    from landscape.slices.recorder import TrajectoryRecorder as TrajectoryRecorder
    from landscape.slices.recorder import load_trajectory as load_trajectory
    from landscape.slices.sweep import Sweep as Sweep
    from landscape.slices.sweep import merge as merge
    from landscape.slices.sweeping import grid as grid
    from landscape.slices.sweeping import line as line
    from landscape.slices.sweeping import lines as lines
    from landscape.slices.sweeping import plane as plane
    from landscape.slices.sweeping import plane_through as plane_through
    from landscape.slices.topology import Topology as Topology
    from landscape.slices.topology import topology as topology
    from landscape.slices.trajectory import Trajectory as Trajectory
    from landscape.slices.trajectory import trajectory as trajectory
    from landscape.slices.verification import verify as verify
    from landscape.store import Results as Results
    from landscape.store import open_results as open_results
    from landscape.store import save as save

__version__ = "0.1.0"

_HOMES = {
    "connect": "landscape.paths.connectivity",
    "Connectivity": "landscape.paths.connectivity",
    "task_arithmetic": "landscape.merging.task_vectors",
    "JointAlignment": "landscape.alignment.joint",
    "Repaired": "landscape.merging.repaired",
    "Alignment": "landscape.alignment.aligning",
    "align": "landscape.alignment.aligning",
    "Average": "landscape.merging.averaging",
    "average": "landscape.merging.averaging",
    "Barrier": "landscape.paths.barrier",
    "barrier": "landscape.paths.barrier",
    "BarrierMatrix": "landscape.paths.barrier_matrix",
    "barrier_matrix": "landscape.paths.barrier_matrix",
    "Curve": "landscape.paths.curve",
    "CurveOptions": "landscape.paths.curve_fit",
    "fit_curve": "landscape.paths.curve_fit",
    "Neb": "landscape.paths.neb",
    "neb": "landscape.paths.neb",
    "autoneb": "landscape.paths.autoneb",
    "fit_simplex": "landscape.paths.simplex",
    "Simplex": "landscape.paths.simplex",
    "greedy_soup": "landscape.merging.soup",
    "swa": "landscape.merging.swa",
    "repair": "landscape.merging.repair",
    "PermutationSpec": "landscape.alignment.permutations",
    "permutation_spec": "landscape.alignment.symmetries",
    "cka": "landscape.similarity.cka",
    "compare": "landscape.similarity.comparing",
    "compare_family": "landscape.similarity.comparing",
    "Similarity": "landscape.similarity.comparison",
    "task_vector": "landscape.merging.task_vectors",
    "align_many": "landscape.alignment.joint",
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
    "Direction": "landscape.slices.directions",
    "Sweep": "landscape.slices.sweep",
    "SweepOptions": "landscape.slices.options",
    "Topology": "landscape.slices.topology",
    "Trajectory": "landscape.slices.trajectory",
    "TrajectoryRecorder": "landscape.slices.recorder",
    "direction_towards": "landscape.slices.directions",
    "eigenvector_directions": "landscape.slices.directions",
    "eigsh": "landscape.curvature.eigen",
    "gradient_direction": "landscape.slices.directions",
    "grid": "landscape.slices.sweeping",
    "line": "landscape.slices.sweeping",
    "lines": "landscape.slices.sweeping",
    "load_objective": "landscape.request",
    "load_trajectory": "landscape.slices.recorder",
    "merge": "landscape.slices.sweep",
    "moment_directions": "landscape.slices.directions",
    "open_results": "landscape.store",
    "plane": "landscape.slices.sweeping",
    "plane_through": "landscape.slices.sweeping",
    "probe": "landscape.probing",
    "random_directions": "landscape.slices.directions",
    "save": "landscape.store",
    "spectral_density": "landscape.curvature.density",
    "suggest_radius": "landscape.slices.radius",
    "trace": "landscape.curvature.trace",
    "topology": "landscape.slices.topology",
    "trajectory": "landscape.slices.trajectory",
    "verify": "landscape.slices.verification",
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
