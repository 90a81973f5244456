from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng():  # initial weights come from the global generator
        torch.manual_seed(0)
        yield
