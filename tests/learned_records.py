"""Records of what was learned: made up, for figures of known numbers, and as they are measured."""

from __future__ import annotations

import functools

import numpy as np
import torch
import xarray as xr
from torch import nn

from landscape.objective import Objective
from landscape.probes.dynamics.dynamics import checkpoint_dynamics
from landscape.probes.ensembles.family import family_report
from landscape.probes.features.band_use import band_use
from landscape.probes.features.layer_sparsity import layer_sparsity
from landscape.probes.features.multi_view_use import feature_use
from landscape.probes.linear.depth import prediction_depth
from landscape.probes.linear.layer_probes import probe_layers
from landscape.probes.subsets.memorization import memorization as memorization_of
from landscape.probes.subsets.subset_runs import SubsetRuns

NUM = 30  # examples that the measured ones are of


@functools.cache
def measured(probe, *, channels=3):
    """The result of a probe of a small network of images, at five points where it needs several."""
    objective, thetas = _network(channels)
    measure = {
        "linear": lambda: probe_layers(objective, penalties=(1e-2, 1), k=3),
        "depth": lambda: prediction_depth(objective, k=3),
        "features": lambda: feature_use(objective, block=16 * channels),
        "bands": lambda: band_use(objective, num_shown=2),
        "sparsity": lambda: layer_sparsity(objective),
        "ensemble": lambda: family_report(objective, thetas, soup=True),
        "dynamics": lambda: checkpoint_dynamics(objective, thetas),
        "memorization": lambda: _memorization(objective),
    }
    return measure[probe]()


def _network(channels):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(NUM) % 3
    inputs = torch.randn(NUM, channels, 4, 4, generator=generator) + labels[:, None, None, None]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))
    objective = Objective(network, (inputs, labels))
    steps = torch.randn(5, len(objective.theta), generator=generator)
    return objective, [objective.theta + scale * step / 5 for scale, step in enumerate(steps)]


def _memorization(objective):
    generator = np.random.default_rng(0)
    masks = generator.random((12, NUM)) < 0.7
    correct = masks | (generator.random((12, NUM)) < 0.5)
    ((inputs, labels),) = list(objective.batches)
    return memorization_of(SubsetRuns(masks, correct, labels=labels)).with_examples(inputs, 3)


def _dataset(variables, coordinates=None):
    return xr.Dataset(
        {
            name: (*value, {"units": "1", "long_name": name.replace("_", " ")})
            if isinstance(value, tuple)
            else ((), value, {"units": "1", "long_name": name.replace("_", " ")})
            for name, value in variables.items()
        },
        coordinates or {},
    )


def dynamics(num=60, times=6, *, never=5):
    """The first `never` examples are never right, the last is forgotten twice."""
    generator = np.random.default_rng(0)
    margins = np.linspace(-2, 4, num)
    learned_at = 10.0 * (np.arange(num) % times)
    ever = np.arange(num) >= never
    forgetting = np.where(ever, 0.0, np.nan)
    forgetting[-1] = 2 if never < num else np.nan
    return _dataset(
        {
            "confidence": ("example", np.linspace(0.05, 0.95, num)),
            "variability": ("example", generator.uniform(0, 0.4, num)),
            "correctness": ("example", np.where(ever, np.linspace(0, times, num), 0).astype(int)),
            "forgetting": ("example", forgetting),
            "aum": ("example", margins),
            "ever_learned": ("example", ever),
            "first_learned": ("example", np.where(ever, learned_at, np.nan)),
            "iteration_learned": ("example", np.where(ever, learned_at, np.nan)),
            "accuracy": ("time", np.linspace(0.1, 0.9, times)),
            "mean_loss": ("time", np.linspace(2, 0.1, times)),
            "num_never_learned": never,
            "num_unforgettable": num - never - 1,
            "mean_forgetting": 2 / (num - never) if never < num else np.nan,
        },
        {"time": 10.0 * np.arange(times)},
    )


def memorization(num=80, *, shown=0, channels=1, undefined=3):
    """Values fall from 1; the last `undefined` have none."""
    value = np.r_[np.linspace(1, 0, num - undefined), np.full(undefined, np.nan)]
    variables = {
        "value": ("example", value),
        "lower": ("example", value - 0.2),
        "upper": ("example", np.minimum(value + 0.2, 1)),
        "num_in": ("example", np.full(num, 35)),
        "num_out": ("example", np.full(num, 15)),
        "label": ("example", np.arange(num) % 10),
        "mean_memorization": 0.5,
        "num_memorized": int((value >= 0.25).sum()),
        "num_undefined": undefined,
        "num_models": 50,
        "split_half": 0.87,
        "null_high": 0.6,
    }
    if shown:
        generator = np.random.default_rng(0)
        images = generator.normal(size=(shown, channels, 8, 8)).astype(np.float32)
        variables["shown_input"] = (("shown", "channel", "y", "x"), images)
        variables["shown_example"] = ("shown", np.arange(shown))
    return _dataset(variables)


def linear(layers=("0", "2", "4", "head"), penalties=(1e-4, 1e-2, 1.0)):
    count = len(layers)
    rising = np.linspace(0.5, 0.95, count)
    validation = rising[:, None] - np.abs(np.arange(len(penalties)) - 1) * 0.05
    return _dataset(
        {
            "train_accuracy": (("layer", "penalty"), validation + 0.02),
            "validation_accuracy": (("layer", "penalty"), validation),
            "gradient_norm": (("layer", "penalty"), np.full_like(validation, 1e-9)),
            "chosen_penalty": ("layer", np.full(count, penalties[len(penalties) // 2])),
            "test_accuracy": ("layer", rising - 0.01),
            "test_low": ("layer", rising - 0.03),
            "test_high": ("layer", rising + 0.01),
            "knn_accuracy": ("layer", rising - 0.1),
            "untrained_accuracy": ("layer", np.full(count, 0.4)),
            "control_accuracy": ("layer", np.full(count, 0.1)),
            "network_accuracy": 0.97,
            "accuracy": rising[-1] - 0.01,
            "accuracy_low": rising[-1] - 0.03,
            "accuracy_high": rising[-1] + 0.01,
            "chosen_layer": count - 1,
            "chance": 0.1,
        },
        {"layer": list(layers), "penalty": list(penalties)},
    )


def depth(layers=("input", "0", "2", "softmax"), num=50, *, never=2):
    values = (np.arange(num) % len(layers)).astype(float)
    values[:never] = np.nan
    return _dataset(
        {
            "depth": ("example", values),
            **{
                f"knn_{name}{end}": ("layer", np.linspace(least, most, len(layers)) + shift)
                for name, least, most in (("accuracy", 0.5, 0.8), ("agreement", 0.6, 0.9))
                for end, shift in (("", 0.0), ("_low", -0.1), ("_high", 0.05))
            },
            "mean_depth": float(values[never:].mean()) if never < num else np.nan,
            "mean_depth_error": 0.1,
            "num_undefined": never,
        },
        {"layer": list(layers)},
    )


def features(num=16, *, single=True, used=1, chance=0.5):
    accuracy = np.where(np.arange(num) < used, 0.9, 0.5) if single else np.full(num, np.nan)
    flips = np.where(np.arange(num) < used, 0.8, 0.02)
    return _dataset(
        {
            "accuracy": ("feature", accuracy),
            "low": ("feature", accuracy - 0.03),
            "high": ("feature", accuracy + 0.03),
            "flip_rate": ("feature", flips),
            "flip_low": ("feature", flips - 0.02),
            "flip_high": ("feature", flips + 0.02),
            "effective_number": float(used) if used else np.nan,
            "effective_number_low": 0.9,
            "effective_number_high": 1.2,
            "gap": 0.4,
            "full_accuracy": 0.93,
            "chance": chance,
        },
        {"feature": np.arange(num)},
    )


def bands(names=("background", "low", "mid", "high"), *, shown=2, channels=1):
    count = len(names)
    accuracy = np.linspace(0.1, 0.5, count)
    variables = {
        "accuracy": ("band", accuracy),
        "low": ("band", accuracy - 0.02),
        "high": ("band", accuracy + 0.02),
        "removed_accuracy": ("band", 0.9 - accuracy),
        "removed_low": ("band", 0.88 - accuracy),
        "removed_high": ("band", 0.92 - accuracy),
        "power_share": ("band", np.full(count, 1 / count)),
        "full_accuracy": 0.92,
        "chance": 0.1,
    }
    images = np.random.default_rng(0).normal(size=(shown, count + 1, channels, 8, 8))
    dims = ("shown", "band_image", "channel", "y", "x")
    variables["shown_image"] = (dims, images.astype(np.float32))
    return _dataset(variables, {"band": list(names), "band_image": ["image", *names]})


def sparsity(layers=("0", "2", "4")):
    count = len(layers)
    rising = np.linspace(0.1, 0.8, count)
    names = ("gini_population", "gini_lifetime", "hoyer_population", "hoyer_lifetime")
    ranks = ("num_units", "effective_rank", "rankme", "participation_ratio")
    return _dataset(
        {
            **{name: ("layer", rising + 0.02 * place) for place, name in enumerate(names)},
            "dead_share": ("layer", rising / 4),
            "dormant_share": ("layer", rising / 3),
            **{name: ("layer", 64.0 / (1 + place) * rising) for place, name in enumerate(ranks)},
        },
        {"layer": list(layers)},
    )


def ensemble(members=4, bins=15):
    sizes = np.arange(1, members + 1)
    confidence = (np.arange(bins) + 0.5) / bins
    return _dataset(
        {
            "accuracy": ("member", np.linspace(0.85, 0.88, members)),
            "nll": ("member", np.linspace(0.5, 0.45, members)),
            "gain_accuracy": ("size", 0.9 - 0.04 / sizes),
            "gain_nll": ("size", 0.3 + 0.2 / sizes),
            "ensemble_accuracy": 0.9,
            "ensemble_accuracy_low": 0.88,
            "ensemble_accuracy_high": 0.92,
            "ensemble_nll": 0.35,
            "ensemble_nll_low": 0.32,
            "ensemble_nll_high": 0.38,
            "calibrated_nll": 0.34,
            "disagreement": 0.1,
            "normalized_disagreement": 0.7,
            "mutual_information": 0.05,
            "ensemble_ece_debiased": 0.01,
            "bin_confidence": ("bin", confidence),
            "bin_accuracy": ("bin", np.clip(confidence + 0.05, 0, 1)),
            "bin_accuracy_low": ("bin", np.clip(confidence - 0.1, 0, 1)),
            "bin_accuracy_high": ("bin", np.clip(confidence + 0.15, 0, 1)),
            "bin_count": ("bin", np.arange(bins)),
        },
        {"size": sizes},
    )
