"""The house: imports point down, and what should be light is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import landscape

ROOT = Path(landscape.__file__).parent.parent

# From the ground up. A module may import what stands on a lower line, or its neighbour.
FLOORS = [
    [
        "landscape.atomic",
        "landscape.errors",
        "landscape.fingerprint",
        "landscape.memory",
        "landscape.result",
    ],
    ["landscape.transaction"],
    ["landscape.parameters", "landscape.batches", "landscape.factory"],
    ["landscape.losses", "landscape.weight_files"],
    ["landscape.name_matching", "landscape.accuracy"],
    ["landscape.preflight", "landscape.checkpoint", "landscape.batch_norm"],
    ["landscape.objective"],
    ["landscape.trainers"],
    ["landscape.curvature"],
    ["landscape.slices"],
    ["landscape.paths", "landscape.alignment"],
    ["landscape.merging", "landscape.similarity"],
    ["landscape.trainers.recipes", "landscape.trainers.execution"],
    ["landscape.probes"],
    [
        "landscape.slice_plan",
        "landscape.path_plan",
        "landscape.learned_plan",
        "landscape.exchange",
    ],
    ["landscape.store", "landscape.figures", "landscape.request"],
    ["landscape.company"],
    ["landscape.slice_probes", "landscape.path_probes", "landscape.learned_probes"],
    ["landscape.probing"],
    ["landscape.cli"],
    ["landscape.__main__"],
]
FOLDERS = {
    "landscape": ROOT / "landscape",
    "landscape.trainers": ROOT / "trainers",
    "landscape.probes": ROOT / "probes",
}


def floor_of(module: str) -> int:
    heights = {name: height for height, names in enumerate(FLOORS) for name in names}
    while module not in heights:  # a part stands where its package does, unless it is listed
        assert "." in module, f"{module} has no floor: give it one in FLOORS"
        module = module.rpartition(".")[0]
    return heights[module]


def sources() -> list[tuple[str, Path]]:
    found = []
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join([package, *parts]).removesuffix(".__init__")
            if name != "landscape":  # the table of contents names everything
                found.append((name, path))
    return found


def imports_of(path: Path) -> set[str]:
    """Modules of ours that a file imports when it runs; those for type checkers are left out."""
    found = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(path.read_text()))
    modules = {name for name, _ in sources()}
    return {name for name in found if name in modules}


@pytest.mark.parametrize(("module", "path"), sources(), ids=lambda value: str(value)[-40:])
def test_imports_point_down(module, path):
    upward = {
        other
        for other in imports_of(path)
        if floor_of(other) > floor_of(module)
        or (floor_of(other) == floor_of(module) and other.split(".")[:2] != module.split(".")[:2])
    }
    assert not upward


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}; import sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("statement", ["import landscape", "import landscape.cli.app"])
def test_importing_it_loads_nothing_heavy(statement):
    heavy = {"torch", "xarray", "matplotlib", "numpy", "pandas", "h5py", "scipy", "sklearn"}
    assert not loaded_by(statement) & heavy


def test_every_public_name_is_where_the_contents_say():
    for name in landscape.__all__:
        assert getattr(landscape, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = landscape.nothing
