"""Probes: what a network has learned, example by example and feature by feature.

This page is the table of contents; nothing heavy is imported before it is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from landscape.probes.copies.classes import class_learnability as class_learnability
    from landscape.probes.copies.contrastive import simclr_correctness as simclr_correctness
    from landscape.probes.copies.copies import Copies as Copies
    from landscape.probes.copies.goodness_of_fit import over_dispersion as over_dispersion
    from landscape.probes.copies.goodness_of_fit import (
        tail_merged_chi_square as tail_merged_chi_square,
    )
    from landscape.probes.copies.heterogeneity import debiased_variance as debiased_variance
    from landscape.probes.copies.heterogeneity import heterogeneity as heterogeneity
    from landscape.probes.copies.learnability_runs import (
        one_epoch_learnability as one_epoch_learnability,
    )
    from landscape.probes.copies.matching import first_time_above as first_time_above
    from landscape.probes.copies.matching import match_times as match_times
    from landscape.probes.copies.report import CopiesReport as CopiesReport
    from landscape.probes.copies.report import copies_report as copies_report
    from landscape.probes.copies.variance import variance_components as variance_components
    from landscape.probes.dynamics.agreement import score_agreement as score_agreement
    from landscape.probes.dynamics.dynamics import Dynamics as Dynamics
    from landscape.probes.dynamics.dynamics import checkpoint_dynamics as checkpoint_dynamics
    from landscape.probes.dynamics.dynamics import training_dynamics as training_dynamics
    from landscape.probes.dynamics.learning_events import first_learned as first_learned
    from landscape.probes.dynamics.learning_events import forgetting_events as forgetting_events
    from landscape.probes.dynamics.learning_events import iteration_learned as iteration_learned
    from landscape.probes.dynamics.learning_events import (
        presentations_needed as presentations_needed,
    )
    from landscape.probes.dynamics.mislabels import aum_threshold as aum_threshold
    from landscape.probes.dynamics.mislabels import noisy_label_auc as noisy_label_auc
    from landscape.probes.dynamics.mislabels import threshold_samples as threshold_samples
    from landscape.probes.dynamics.recorder import Recorder as Recorder
    from landscape.probes.dynamics.scores import aum as aum
    from landscape.probes.dynamics.scores import cumulative_loss as cumulative_loss
    from landscape.probes.dynamics.scores import data_map as data_map
    from landscape.probes.dynamics.scores import el2n as el2n
    from landscape.probes.dynamics.scores import learnability_curve as learnability_curve
    from landscape.probes.dynamics.second_split import (
        second_split_forgetting as second_split_forgetting,
    )
    from landscape.probes.dynamics.second_split import (
        second_split_protocol as second_split_protocol,
    )
    from landscape.probes.ensembles.binning_free import ks_calibration_error as ks_calibration_error
    from landscape.probes.ensembles.calibration import calibration_error as calibration_error
    from landscape.probes.ensembles.calibration import calibration_null as calibration_null
    from landscape.probes.ensembles.calibration import (
        debiased_calibration_error as debiased_calibration_error,
    )
    from landscape.probes.ensembles.calibration_report import (
        calibration_report as calibration_report,
    )
    from landscape.probes.ensembles.differences import paired_difference as paired_difference
    from landscape.probes.ensembles.diversity import diversity as diversity
    from landscape.probes.ensembles.family import family_report as family_report
    from landscape.probes.ensembles.gains import (
        deep_ensemble_equivalent as deep_ensemble_equivalent,
    )
    from landscape.probes.ensembles.gains import gain_curve as gain_curve
    from landscape.probes.ensembles.ood import ood_scores as ood_scores
    from landscape.probes.ensembles.ood import separation as separation
    from landscape.probes.ensembles.report import EnsembleReport as EnsembleReport
    from landscape.probes.ensembles.report import ensemble_report as ensemble_report
    from landscape.probes.ensembles.selective import aurc as aurc
    from landscape.probes.ensembles.temperature import calibrated_nll as calibrated_nll
    from landscape.probes.ensembles.temperature import fit_temperature as fit_temperature
    from landscape.probes.features.band_use import BandUse as BandUse
    from landscape.probes.features.band_use import band_use as band_use
    from landscape.probes.features.bands import FourierBands as FourierBands
    from landscape.probes.features.bands import fourier_bands as fourier_bands
    from landscape.probes.features.layer_sparsity import LayerSparsity as LayerSparsity
    from landscape.probes.features.layer_sparsity import layer_sparsity as layer_sparsity
    from landscape.probes.features.multi_view_use import FeatureUse as FeatureUse
    from landscape.probes.features.multi_view_use import feature_use as feature_use
    from landscape.probes.features.multi_view_use import tick_use as tick_use
    from landscape.probes.features.rank_measures import alpha_req as alpha_req
    from landscape.probes.features.rank_measures import effective_rank as effective_rank
    from landscape.probes.features.rank_measures import participation_ratio as participation_ratio
    from landscape.probes.features.rank_measures import rankme as rankme
    from landscape.probes.features.sparsity_measures import gini as gini
    from landscape.probes.features.sparsity_measures import hoyer as hoyer
    from landscape.probes.features.sparsity_measures import l0 as l0
    from landscape.probes.features.units import dead_units as dead_units
    from landscape.probes.features.units import dormant_units as dormant_units
    from landscape.probes.linear.controls import permuted_labels as permuted_labels
    from landscape.probes.linear.controls import untrained as untrained
    from landscape.probes.linear.depth import PredictionDepth as PredictionDepth
    from landscape.probes.linear.depth import prediction_depth as prediction_depth
    from landscape.probes.linear.few_shot import few_shot_probe as few_shot_probe
    from landscape.probes.linear.fitting import LinearProbe as LinearProbe
    from landscape.probes.linear.fitting import linear_probe as linear_probe
    from landscape.probes.linear.group_balanced import group_balanced_probe as group_balanced_probe
    from landscape.probes.linear.layer_probes import LayerProbes as LayerProbes
    from landscape.probes.linear.layer_probes import probe_layers as probe_layers
    from landscape.probes.linear.neighbours import knn_probe as knn_probe
    from landscape.probes.linear.ridge import ridge_probe as ridge_probe
    from landscape.probes.linear.sparse import sparse_probe as sparse_probe
    from landscape.probes.ranking import roc as roc
    from landscape.probes.sensitivity.critical_samples import (
        critical_sample_ratio as critical_sample_ratio,
    )
    from landscape.probes.sensitivity.geometry_bridge import Bridge as Bridge
    from landscape.probes.sensitivity.geometry_bridge import bridge as bridge
    from landscape.probes.sensitivity.gradient_variance import (
        gradient_variance as gradient_variance,
    )
    from landscape.probes.sensitivity.grand import grand as grand
    from landscape.probes.sensitivity.input_curvature import input_curvature as input_curvature
    from landscape.probes.sensitivity.learning_rate_bridge import (
        learning_rate_bridge as learning_rate_bridge,
    )
    from landscape.probes.sensitivity.loss_sensitivity import (
        SensitivityRecorder as SensitivityRecorder,
    )
    from landscape.probes.sensitivity.loss_sensitivity import class_sensitivity as class_sensitivity
    from landscape.probes.sensitivity.loss_sensitivity import loss_sensitivity as loss_sensitivity
    from landscape.probes.sensitivity.memorization_sweep import (
        memorization_sweep as memorization_sweep,
    )
    from landscape.probes.sensitivity.weight_curvature import curvature_along as curvature_along
    from landscape.probes.sensitivity.weight_curvature import weight_curvature as weight_curvature
    from landscape.probes.subsets.attribution import ridge_attribution as ridge_attribution
    from landscape.probes.subsets.c_score import c_score as c_score
    from landscape.probes.subsets.datamodels import datamodel as datamodel
    from landscape.probes.subsets.datamodels import (
        leave_one_out_correlation as leave_one_out_correlation,
    )
    from landscape.probes.subsets.datamodels import (
        linear_datamodeling_score as linear_datamodeling_score,
    )
    from landscape.probes.subsets.influence import Influence as Influence
    from landscape.probes.subsets.influence import influence as influence
    from landscape.probes.subsets.learners import subset_runs_of as subset_runs_of
    from landscape.probes.subsets.lira import lira as lira
    from landscape.probes.subsets.log_odds import log_odds as log_odds
    from landscape.probes.subsets.memorization import Memorization as Memorization
    from landscape.probes.subsets.memorization import memorization as memorization
    from landscape.probes.subsets.newcombe import newcombe as newcombe
    from landscape.probes.subsets.pairs import influential_pairs as influential_pairs
    from landscape.probes.subsets.reliability import convergence as convergence
    from landscape.probes.subsets.reliability import split_half as split_half
    from landscape.probes.subsets.shapley import knn_shapley as knn_shapley
    from landscape.probes.subsets.subset_runs import SubsetRuns as SubsetRuns
    from landscape.probes.subsets.training import Training as Training
    from landscape.probes.subsets.training import run_subsets as run_subsets

_HOMES = {
    "BandUse": "landscape.probes.features.band_use",
    "Bridge": "landscape.probes.sensitivity.geometry_bridge",
    "Copies": "landscape.probes.copies.copies",
    "CopiesReport": "landscape.probes.copies.report",
    "Dynamics": "landscape.probes.dynamics.dynamics",
    "EnsembleReport": "landscape.probes.ensembles.report",
    "FeatureUse": "landscape.probes.features.multi_view_use",
    "FourierBands": "landscape.probes.features.bands",
    "Influence": "landscape.probes.subsets.influence",
    "LayerProbes": "landscape.probes.linear.layer_probes",
    "LayerSparsity": "landscape.probes.features.layer_sparsity",
    "LinearProbe": "landscape.probes.linear.fitting",
    "Memorization": "landscape.probes.subsets.memorization",
    "PredictionDepth": "landscape.probes.linear.depth",
    "Recorder": "landscape.probes.dynamics.recorder",
    "SensitivityRecorder": "landscape.probes.sensitivity.loss_sensitivity",
    "SubsetRuns": "landscape.probes.subsets.subset_runs",
    "Training": "landscape.probes.subsets.training",
    "alpha_req": "landscape.probes.features.rank_measures",
    "aum": "landscape.probes.dynamics.scores",
    "aum_threshold": "landscape.probes.dynamics.mislabels",
    "aurc": "landscape.probes.ensembles.selective",
    "band_use": "landscape.probes.features.band_use",
    "bridge": "landscape.probes.sensitivity.geometry_bridge",
    "c_score": "landscape.probes.subsets.c_score",
    "calibrated_nll": "landscape.probes.ensembles.temperature",
    "calibration_error": "landscape.probes.ensembles.calibration",
    "calibration_null": "landscape.probes.ensembles.calibration",
    "calibration_report": "landscape.probes.ensembles.calibration_report",
    "checkpoint_dynamics": "landscape.probes.dynamics.dynamics",
    "class_learnability": "landscape.probes.copies.classes",
    "class_sensitivity": "landscape.probes.sensitivity.loss_sensitivity",
    "convergence": "landscape.probes.subsets.reliability",
    "copies_report": "landscape.probes.copies.report",
    "critical_sample_ratio": "landscape.probes.sensitivity.critical_samples",
    "cumulative_loss": "landscape.probes.dynamics.scores",
    "curvature_along": "landscape.probes.sensitivity.weight_curvature",
    "data_map": "landscape.probes.dynamics.scores",
    "datamodel": "landscape.probes.subsets.datamodels",
    "dead_units": "landscape.probes.features.units",
    "debiased_calibration_error": "landscape.probes.ensembles.calibration",
    "debiased_variance": "landscape.probes.copies.heterogeneity",
    "deep_ensemble_equivalent": "landscape.probes.ensembles.gains",
    "diversity": "landscape.probes.ensembles.diversity",
    "dormant_units": "landscape.probes.features.units",
    "effective_rank": "landscape.probes.features.rank_measures",
    "el2n": "landscape.probes.dynamics.scores",
    "ensemble_report": "landscape.probes.ensembles.report",
    "family_report": "landscape.probes.ensembles.family",
    "feature_use": "landscape.probes.features.multi_view_use",
    "few_shot_probe": "landscape.probes.linear.few_shot",
    "first_learned": "landscape.probes.dynamics.learning_events",
    "first_time_above": "landscape.probes.copies.matching",
    "fit_temperature": "landscape.probes.ensembles.temperature",
    "forgetting_events": "landscape.probes.dynamics.learning_events",
    "fourier_bands": "landscape.probes.features.bands",
    "gain_curve": "landscape.probes.ensembles.gains",
    "gini": "landscape.probes.features.sparsity_measures",
    "gradient_variance": "landscape.probes.sensitivity.gradient_variance",
    "grand": "landscape.probes.sensitivity.grand",
    "group_balanced_probe": "landscape.probes.linear.group_balanced",
    "heterogeneity": "landscape.probes.copies.heterogeneity",
    "hoyer": "landscape.probes.features.sparsity_measures",
    "influence": "landscape.probes.subsets.influence",
    "influential_pairs": "landscape.probes.subsets.pairs",
    "input_curvature": "landscape.probes.sensitivity.input_curvature",
    "iteration_learned": "landscape.probes.dynamics.learning_events",
    "knn_probe": "landscape.probes.linear.neighbours",
    "knn_shapley": "landscape.probes.subsets.shapley",
    "ks_calibration_error": "landscape.probes.ensembles.binning_free",
    "l0": "landscape.probes.features.sparsity_measures",
    "layer_sparsity": "landscape.probes.features.layer_sparsity",
    "learnability_curve": "landscape.probes.dynamics.scores",
    "learning_rate_bridge": "landscape.probes.sensitivity.learning_rate_bridge",
    "leave_one_out_correlation": "landscape.probes.subsets.datamodels",
    "linear_datamodeling_score": "landscape.probes.subsets.datamodels",
    "linear_probe": "landscape.probes.linear.fitting",
    "lira": "landscape.probes.subsets.lira",
    "log_odds": "landscape.probes.subsets.log_odds",
    "loss_sensitivity": "landscape.probes.sensitivity.loss_sensitivity",
    "match_times": "landscape.probes.copies.matching",
    "memorization": "landscape.probes.subsets.memorization",
    "memorization_sweep": "landscape.probes.sensitivity.memorization_sweep",
    "newcombe": "landscape.probes.subsets.newcombe",
    "noisy_label_auc": "landscape.probes.dynamics.mislabels",
    "one_epoch_learnability": "landscape.probes.copies.learnability_runs",
    "ood_scores": "landscape.probes.ensembles.ood",
    "over_dispersion": "landscape.probes.copies.goodness_of_fit",
    "paired_difference": "landscape.probes.ensembles.differences",
    "participation_ratio": "landscape.probes.features.rank_measures",
    "permuted_labels": "landscape.probes.linear.controls",
    "prediction_depth": "landscape.probes.linear.depth",
    "presentations_needed": "landscape.probes.dynamics.learning_events",
    "probe_layers": "landscape.probes.linear.layer_probes",
    "rankme": "landscape.probes.features.rank_measures",
    "ridge_attribution": "landscape.probes.subsets.attribution",
    "ridge_probe": "landscape.probes.linear.ridge",
    "roc": "landscape.probes.ranking",
    "run_subsets": "landscape.probes.subsets.training",
    "score_agreement": "landscape.probes.dynamics.agreement",
    "second_split_forgetting": "landscape.probes.dynamics.second_split",
    "second_split_protocol": "landscape.probes.dynamics.second_split",
    "separation": "landscape.probes.ensembles.ood",
    "simclr_correctness": "landscape.probes.copies.contrastive",
    "sparse_probe": "landscape.probes.linear.sparse",
    "split_half": "landscape.probes.subsets.reliability",
    "subset_runs_of": "landscape.probes.subsets.learners",
    "tail_merged_chi_square": "landscape.probes.copies.goodness_of_fit",
    "threshold_samples": "landscape.probes.dynamics.mislabels",
    "tick_use": "landscape.probes.features.multi_view_use",
    "training_dynamics": "landscape.probes.dynamics.dynamics",
    "untrained": "landscape.probes.linear.controls",
    "variance_components": "landscape.probes.copies.variance",
    "weight_curvature": "landscape.probes.sensitivity.weight_curvature",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> object:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'landscape.probes' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
