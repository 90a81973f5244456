"""Factories named in text."""

from __future__ import annotations

import sys

import pytest

from landscape.errors import RequestError
from landscape.factory import Factory


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a module, as a user's; it is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    modules = set(sys.modules)
    (tmp_path / "networks_x.py").write_text(
        "from sizes_x import WIDTH\n"
        "from dataclasses import dataclass\n"
        "@dataclass\n"
        "class Net:\n"
        "    width: int = WIDTH\n"
        "    @classmethod\n"
        "    def wide(cls): return cls(100)\n"
        "def tiny_net(width, *, depth=2): return Net(width * depth)\n"
        "NUMBER = 3\n"
    )
    (tmp_path / "sizes_x.py").write_text("WIDTH = 7\n")
    (tmp_path / "broken_x.py").write_text("import not_installed_x\n")
    (tmp_path / "wrong_x.py").write_text("def f(:\n")
    yield tmp_path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


@pytest.mark.parametrize("source", ["networks_x", "networks_x.py", "./networks_x.py"])
def test_a_factory_is_found_from_the_current_folder(project, source):
    assert Factory(f"{source}:Net")().width == 7
    assert Factory(f"{source}:Net.wide")().width == 100
    assert Factory(f"{source}:tiny_net", {"width": 3, "depth": 4})().width == 12


def test_a_file_elsewhere_finds_the_modules_beside_it(project, monkeypatch):
    (project / "elsewhere").mkdir()
    monkeypatch.chdir(project / "elsewhere")
    factory = Factory(f"{project}/networks_x.py:Net")
    assert factory().width == 7
    assert factory.resolve() is factory.resolve()


def test_files_of_one_name_are_told_apart(project):
    for name in ("a", "b"):
        (project / name).mkdir()
        (project / name / "model.py").write_text(f"def make(): return {name!r}\n")
    assert [Factory(f"{name}/model.py:make")() for name in ("a", "b")] == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("networks_x", "names no factory"),
        ("networks_x:", "names no factory"),
        ("network_x:Net", "no module 'network_x'.*Did you mean 'networks_x'"),
        ("landscape.facotry:Factory", "no module 'landscape.facotry'.*Did you mean 'factory'"),
        ("network_x.py:Net", "Did you mean 'networks_x.py'"),
        ("networks_x:tinynet", "Did you mean 'tiny_net'"),
        ("networks_x:Net.wibe", "Did you mean 'wide'"),
        ("networks_x:NUMBER", "is a int, which cannot be called"),
        ("broken_x:f", "ModuleNotFoundError: No module named 'not_installed_x'"),
        ("broken_x.py:f", "ModuleNotFoundError: No module named 'not_installed_x'"),
        ("wrong_x:f", "SyntaxError"),
        ("wrong_x.py:f", "SyntaxError"),
        ("../a:f", "is not a module's name"),
        (".networks_x:f", "is not a module's name"),
    ],
)
def test_what_is_wrong_with_a_path_is_told(project, path, said):
    with pytest.raises(RequestError, match=said):
        Factory(path).resolve()


@pytest.mark.parametrize("arguments", [{}, {"width": 3, "height": 4}])
def test_wrong_arguments_bring_the_signature(project, arguments):
    with pytest.raises(RequestError, match=r"tiny_net\(width, \*, depth=2\)"):
        Factory("networks_x:tiny_net", arguments)()


def test_an_error_inside_the_factory_is_not_taken_for_wrong_arguments(project):
    with pytest.raises(TypeError):
        Factory("networks_x:tiny_net", {"width": None})()


@pytest.mark.parametrize(
    ("path", "own"),
    [
        ("landscape.trainers.models:mlp", True),
        ("landscape.trainers.data:digits", True),
        ("landscape.trainers.recipes.single:run", False),
        ("landscape.trainers.recipes:x", False),
        ("landscape.trainers.models:torch.load", False),
        ("landscape.trainers.models:_private", False),
        ("landscape.trainers:models", False),
        ("landscape.trainers.models:mlp\n", False),
        ("landscape.store:save", False),
        ("landscape.trainersx.models:mlp", False),
        ("landscape.trainers.models.py:mlp", False),
        ("landscape/trainers/models.py:mlp", False),
        ("os:system", False),
    ],
)
def test_only_shipped_factories_are_own(path, own):
    assert Factory(path).is_own is own


def test_what_an_own_module_imports_is_not_its_own():
    with pytest.raises(RequestError, match="only imports it"):
        Factory("landscape.trainers.models.perceptron:unknown_choice").resolve()
