"""Small softmax regressions, drawn."""

from __future__ import annotations

import numpy as np
import torch

from landscape.probes.linear.logistic import SoftmaxRegression


def regression(num_examples=30, width=4, classes=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(num_examples, width, generator=generator, dtype=dtype) + 1
    labels = torch.randint(classes, (num_examples,), generator=generator)
    shares = torch.rand(num_examples, generator=generator, dtype=torch.float64)
    return SoftmaxRegression(features, labels, shares / shares.sum(), classes)


def points(problem, count):
    generator = torch.Generator().manual_seed(1)
    shape = (count, problem.num_classes, problem.features.shape[1])
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)
    return weights, torch.randn(shape[:2], generator=generator, dtype=torch.float64)


def labelled(num_examples=60, width=5, classes=3, seed=0, separation=1.0):
    """Features of unequal spread around means of their own, and labels; not separable."""
    generator = np.random.default_rng(seed)
    labels = np.arange(num_examples) % classes
    spreads = np.linspace(0.3, 2.0, width)
    features = 2 + spreads * generator.normal(size=(num_examples, width))
    return features + separation * generator.normal(size=(classes, width))[labels], labels
