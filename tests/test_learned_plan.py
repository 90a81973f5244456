"""What identifies a record of what was learned: the options that it depends on, as they are."""

from __future__ import annotations

import pytest

from landscape.learned_plan import LEARNED_PROBES, OF_SEVERAL, LearnedPlan

LAYERS = {"layers": ["*"], "layer_pool": "spatial"}
TEST = {"test_data": "other.py:load", "test_arguments": {"split": "test"}}
DEFAULT = {
    "linear": LAYERS | {"validation_share": 0.2, "controls": True},
    "depth": LAYERS | {"target": "model"},
    "features": {},
    "bands": {"band_norm": "1"},
    "sparsity": LAYERS | {"dormant_below": 0.025},
    "ensemble": {"num_bins": 15},
    "dynamics": {},
    "memorization": {"shown": 16},
}
ASKED = {
    "linear": {"penalties": [0.1, 1.0], "num_neighbors": 7} | TEST,
    "depth": {"num_neighbors": 7} | TEST,
    "features": {"blocks": 2},
    "bands": {"borders": [1, 3]},
    "sparsity": {},
    "ensemble": TEST,
    "dynamics": {},
    "memorization": {},
}


@pytest.mark.parametrize("probe", LEARNED_PROBES)
def test_a_record_is_identified_by_its_own_options_and_what_is_not_given_is_left_out(probe):
    assert LearnedPlan().settings(probe) == DEFAULT[probe]
    plan = LearnedPlan(
        penalties=(0.1, 1.0),
        num_neighbors=7,
        blocks=2,
        borders=(1, 3),
        test_data="other.py:load",
        test_arguments={"split": "test"},
    )
    assert plan.settings(probe) == DEFAULT[probe] | ASKED[probe]


def test_no_and_nought_are_settings_too():
    assert LearnedPlan(controls=False).settings("linear")["controls"] is False
    assert LearnedPlan(shown=0).settings("memorization") == {"shown": 0}


def test_probes_of_several_are_probes():
    assert set(OF_SEVERAL) == {"ensemble", "dynamics", "memorization"} < set(LEARNED_PROBES)
