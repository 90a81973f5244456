"""BendState: what a file holds is what was written, and belongs to one curve."""

from __future__ import annotations

import pytest
import torch
from oracles import random_vectors

from landscape.errors import RequestError
from landscape.paths.curve_state import BendState

REQUEST = {"steps": 5, "kind": "bezier"}
CPU = torch.device("cpu")


def state(dtype):
    first, second, third, fourth = random_vectors(6, 4).to(dtype).T[:, None]
    return BendState(first, second, third, fourth, 0.25, [1.0, 1 / 3])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_state_comes_back_bit_for_bit(tmp_path, dtype):
    written = state(dtype)
    written.write(tmp_path / "deep" / "curve.state", REQUEST)
    found = BendState.read(tmp_path / "deep" / "curve.state", REQUEST, CPU)
    assert (found.best_loss, found.losses) == (0.25, [1.0, 1 / 3])
    for name in ("bends", "first", "second", "best"):
        one, other = getattr(written, name), getattr(found, name)
        assert one.dtype == other.dtype
        assert torch.equal(one, other)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["curve.state"]


def test_a_state_starts_with_copies():
    bends = torch.zeros(1, 3)
    start = BendState.start(bends)
    start.bends.add_(1)
    start.best.add_(2)
    assert torch.equal(bends, torch.zeros(1, 3))
    assert torch.equal(start.bends, torch.ones(1, 3))


def test_a_file_of_another_curve_is_refused(tmp_path):
    state(torch.float64).write(tmp_path / "s", REQUEST)
    with pytest.raises(RequestError, match="belongs to another curve"):
        BendState.read(tmp_path / "s", REQUEST | {"steps": 6}, CPU)


@pytest.mark.parametrize("damage", ["cut", "other"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "s"
    state(torch.float64).write(path, REQUEST)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"no state")
    with pytest.raises(RequestError, match="cannot be read as the state of a curve"):
        BendState.read(path, REQUEST, CPU)


def test_where_nothing_can_be_written_it_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot keep the state"):
        state(torch.float64).write(tmp_path / "file" / "s", REQUEST)
