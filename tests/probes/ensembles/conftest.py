"""Problems of the ensembles' tests: logits of members, and labels that follow a member's truth."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def draw():
    """Draw (K, N, C) logits around a truth (N, C), and labels from the truth's probabilities."""

    def drawn(members, examples, classes, *, spread=1.0, seed=0):
        generator = np.random.default_rng(seed)
        truth = 2 * generator.normal(size=(examples, classes))
        logits = truth + spread * generator.normal(size=(members, examples, classes))
        labels = (truth + generator.gumbel(size=truth.shape)).argmax(1)  # from softmax(truth)
        return logits, labels

    return drawn
