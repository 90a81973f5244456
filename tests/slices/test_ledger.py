"""Ledger: what is done stays done, to the bit, whenever the process is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest

from landscape.errors import RequestError
from landscape.slices import ledger as module
from landscape.slices.ledger import Ledger

REQUEST = {"num": [5], "ends": [[-1.0, 1.0]], "provenance": {"loss": "mse"}}
PAYLOAD = np.frombuffer(np.uint64(0x7FF8DEADBEEF0001).tobytes())[0]  # a NaN with a message
VALUES = {
    "loss": np.array([np.nan, PAYLOAD, np.inf, -0.0]),
    "class_loss": np.array([[5e-324, -np.inf], [1 / 3, np.nan], [-0.0, 0.0], [1e308, -1e-308]]),
    "deep": np.arange(24.0).reshape(4, 2, 3),
}
POINTS = np.array([4, 0, 3, 1])


def filled_in(path=None, request=REQUEST):
    ledger = Ledger(5, request, path)
    ledger.enter(POINTS, VALUES)
    ledger.execution = {"mode": "batched", "chunk": 4, "batch_size": None}
    return ledger


def contents(ledger):
    rows = {name: (rows.shape, rows.dtype, rows.tobytes()) for name, rows in ledger.rows.items()}
    return rows, ledger.done.tolist(), ledger.execution


# -- in memory ----------------------------------------------------------------------------------


def test_a_value_that_is_nan_is_done_and_a_row_without_a_value_is_not():
    ledger = filled_in()
    assert ledger.done.tolist() == [True, True, False, True, True]
    assert ledger.done.dtype == bool
    assert np.isnan(ledger.rows["loss"][[4, 0, 2]]).all()
    assert not ledger.done[2]


def test_values_stand_at_their_points_bit_for_bit():
    ledger = filled_in()
    for name, values in VALUES.items():
        assert ledger.rows[name].shape == (5, *values.shape[1:])
        assert ledger.rows[name].dtype == np.float64
        assert ledger.rows[name][POINTS].tobytes() == values.tobytes()
        assert np.isnan(ledger.rows[name][2]).all()


def test_points_of_a_later_chunk_leave_the_earlier_ones_alone():
    ledger = Ledger(5, REQUEST)
    ledger.enter(POINTS[:2], {name: values[:2] for name, values in VALUES.items()})
    assert ledger.done.tolist() == [True, False, False, False, True]
    ledger.enter(POINTS[2:], {name: values[2:] for name, values in VALUES.items()})
    rows, done, _ = contents(filled_in())
    assert contents(ledger)[:2] == (rows, done)


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "_SECONDS", -1.0)
    ledger = filled_in()
    ledger.write()
    ledger.remove()
    assert list(tmp_path.iterdir()) == []


# -- in a file ----------------------------------------------------------------------------------


def test_what_is_read_back_is_what_was_written_bit_for_bit(tmp_path):
    ledger = filled_in(tmp_path / "state.npz")
    ledger.write()
    again = Ledger(5, REQUEST, tmp_path / "state.npz")
    assert contents(again) == contents(ledger)
    assert list(again.rows) == list(VALUES)


def test_a_ledger_that_was_read_back_goes_on(tmp_path):
    path = tmp_path / "state.npz"
    filled_in(path).write()
    ledger = Ledger(5, REQUEST, path)
    ledger.enter(np.array([2]), {name: values[:1] for name, values in VALUES.items()})
    ledger.write()
    again = Ledger(5, REQUEST, path)
    assert again.done.all()
    assert contents(again) == contents(ledger)


def test_an_empty_ledger_can_be_kept(tmp_path):
    Ledger(3, {}, tmp_path / "state").write()
    again = Ledger(3, {}, tmp_path / "state")
    assert again.rows == {}
    assert again.execution is None
    assert not again.done.any()
    assert len(again.done) == 3


@pytest.mark.parametrize("name", ["file", "done", "request", "a/b", "../up", "Größe %", "x.npy"])
def test_fields_may_have_any_name(tmp_path, name):
    ledger = Ledger(2, {}, tmp_path / "state")
    ledger.enter(np.array([0]), {name: np.array([1.5]), "loss": np.array([2.5])})
    ledger.write()
    again = Ledger(2, {}, tmp_path / "state")
    assert contents(again) == contents(ledger)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_the_file_has_exactly_the_given_name_in_a_folder_that_is_made(tmp_path):
    filled_in(str(tmp_path / "runs" / "one" / "state")).write()
    assert [path.name for path in (tmp_path / "runs" / "one").iterdir()] == ["state"]


def test_it_is_written_on_the_way_but_not_at_every_chunk(tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    ledger = Ledger(5, REQUEST, path)
    one = {"loss": np.array([1.0])}
    ledger.enter(np.array([0]), one)
    now[0] += 4.9
    ledger.enter(np.array([1]), one)
    assert not path.exists()
    now[0] += 0.2
    ledger.enter(np.array([2]), one)
    assert Ledger(5, REQUEST, path).done.tolist() == [True, True, True, False, False]
    now[0] += 4.9
    ledger.enter(np.array([3]), one)
    assert Ledger(5, REQUEST, path).done.sum() == 3
    now[0] += 0.2
    ledger.enter(np.array([4]), one)
    assert Ledger(5, REQUEST, path).done.all()


def test_it_is_removed_when_the_slice_is_complete(tmp_path):
    path = tmp_path / "state.npz"
    ledger = filled_in(path)
    ledger.write()
    ledger.remove()
    assert not path.exists()
    ledger.remove()


# -- other requests -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other", [{**REQUEST, "num": [6]}, {**REQUEST, "ends": [[-1.0, 1.0 + 2**-52]]}, {}]
)
def test_the_file_of_another_slice_is_refused_and_kept(tmp_path, other):
    path = tmp_path / "state.npz"
    filled_in(path).write()
    before = path.read_bytes()
    with pytest.raises(RequestError, match=r"state\.npz belongs to another slice.*delete it"):
        Ledger(5, other, path)
    assert path.read_bytes() == before


def test_the_order_of_a_request_does_not_matter(tmp_path):
    filled_in(tmp_path / "state.npz").write()
    turned = dict(reversed(REQUEST.items()))
    assert Ledger(5, turned, tmp_path / "state.npz").done.sum() == 4


# -- damage -------------------------------------------------------------------------------------


def expect_refusal(path):
    with pytest.raises(RequestError, match=r"cannot be read as the state of a slice.*delete it"):
        Ledger(5, REQUEST, path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(60), b"\x93NUMPY"])
def test_a_file_that_is_none_of_ours_is_refused_with_what_to_do(tmp_path, content):
    (tmp_path / "state").write_bytes(content)
    expect_refusal(tmp_path / "state")
    assert (tmp_path / "state").read_bytes() == content


def test_other_numpy_files_are_refused_with_what_to_do(tmp_path):
    np.save(tmp_path / "one.npy", np.ones(3))
    expect_refusal(tmp_path / "one.npy")
    np.savez(tmp_path / "many.npz", a=np.ones(3))
    expect_refusal(tmp_path / "many.npz")


class Malicious:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_nothing_in_a_file_is_executed(tmp_path):
    np.savez(tmp_path / "state.npz", request=np.array([Malicious(tmp_path / "made")], dtype=object))
    expect_refusal(tmp_path / "state.npz")
    assert not (tmp_path / "made").exists()


def test_a_folder_in_its_place_is_refused_with_what_to_do(tmp_path):
    expect_refusal(tmp_path)


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    path = tmp_path / "state.npz"
    filled_in(path).write()
    whole = path.read_bytes()
    for length in range(0, len(whole), 17):
        path.write_bytes(whole[:length])
        expect_refusal(path)


def test_a_damaged_byte_is_seen_or_changes_nothing(tmp_path):
    path = tmp_path / "state.npz"
    ledger = filled_in(path)
    ledger.write()
    whole = path.read_bytes()
    seen = 0
    for index in range(0, len(whole), 13):
        damaged = bytearray(whole)
        damaged[index] ^= 0xFF
        path.write_bytes(damaged)
        try:
            again = Ledger(5, REQUEST, path)
        except RequestError:
            seen += 1
        else:
            assert contents(again) == contents(ledger)
    assert seen > len(whole) / 13 / 3


def test_the_names_of_fields_are_under_the_checksum(tmp_path):
    path = tmp_path / "state.npz"
    filled_in(path).write()
    with zipfile.ZipFile(path) as archive:
        assert not any("loss" in name for name in archive.namelist())
    path.write_bytes(path.read_bytes().replace(b"field_1.npy", b"field_7.npy"))
    expect_refusal(path)


def test_a_folder_that_cannot_be_made_is_refused_before_the_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match=r"cannot make the folder .*file"):
        Ledger(5, REQUEST, tmp_path / "file" / "state.npz")


def test_a_file_that_cannot_be_written_says_so_and_keeps_the_old(tmp_path, monkeypatch):
    path = tmp_path / "state.npz"
    ledger = filled_in(path)
    ledger.write()
    before = path.read_bytes()

    def full(file, **_):
        file.write(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.np, "savez", full)
    with pytest.raises(RequestError, match=r"cannot keep .*state\.npz: .*No space left.*Name a"):
        ledger.write()
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["state.npz"]


# -- kills --------------------------------------------------------------------------------------

WRITER = """
    import os, signal, sys
    import numpy as np
    from pathlib import Path
    from landscape.slices.ledger import Ledger

    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)

    path, where = sys.argv[1:]
    ledger = Ledger(3, {}, path)
    ledger.enter(np.array([0]), {"loss": np.array([1.0])})
    ledger.write()
    ledger.enter(np.array([1]), {"loss": np.array([np.nan])})
    if where == "half":
        save = np.savez
        def savez(file, **arrays):
            save(file, **arrays)
            file.truncate(file.tell() // 2)
            file.flush()
            die()
        np.savez = savez
    elif where == "whole":
        os.fsync = die
    else:
        replace = Path.replace
        Path.replace = lambda *arguments: (replace(*arguments), die())
    ledger.write()
"""


@pytest.mark.parametrize(("where", "done"), [("half", 1), ("whole", 1), ("renamed", 2)])
def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path, where, done):
    path = tmp_path / "state.npz"
    code = textwrap.dedent(WRITER)
    ended = subprocess.run([sys.executable, "-c", code, path, where], env=os.environ, check=False)
    assert ended.returncode == -signal.SIGKILL
    ledger = Ledger(3, {}, path)
    assert ledger.done.sum() == done
    assert ledger.rows["loss"][0] == 1.0
