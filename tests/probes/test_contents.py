"""The table of contents of the probes: every name leads home, and nothing heavy is loaded."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest

from landscape import probes


@pytest.mark.parametrize("name", probes.__all__)
def test_every_name_is_where_the_contents_say(name):
    assert getattr(probes, name).__module__.startswith("landscape.probes.")


def test_no_name_is_that_of_a_room():
    # An imported room becomes an attribute of the package, and would hide the function.
    rooms = {found.name for found in pkgutil.iter_modules(probes.__path__)}
    assert rooms
    assert not rooms & set(probes.__all__)


def test_importing_it_loads_no_torch():
    code = "import landscape.probes, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "xarray", "sklearn", "scipy"} & set(done.stdout.split())


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = probes.nothing
