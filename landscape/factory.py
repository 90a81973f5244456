"""Factory: a function named in text, with its arguments, as the command line and checkpoints do.

`checkpoint` decides which of the factories that a file names may be called at all.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

from landscape.errors import RequestError

__all__ = ["JSON", "Factory", "nearest"]

JSON: TypeAlias = "bool | int | float | str | Sequence[JSON] | Mapping[str, JSON] | None"

# Data and networks only: other parts of `trainers` write files where their arguments say, or reach
# the network, so a checkpoint must not call them.
# Not `landscape.trainers.data.py`: a file in the current folder may be called so.
_OWN = re.compile(r"landscape\.trainers\.(data|models)(\.[a-z]\w*)*(?<!\.py):[A-Za-z]\w*", re.ASCII)


@dataclass(frozen=True)
class Factory:
    """A function named by `pkg.mod:name` or `path/to/file.py:name`, and its arguments.

    Attributes:
        path: relative modules and files are looked up from the current folder.
        arguments: passed by keyword.
    """

    path: str
    arguments: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def is_own(self) -> bool:
        """Whether it is code that ships with landscape and that any checkpoint may name.

        It lies in `landscape.trainers.data` or `.models`, and `resolve` sees to it that it is
        defined there or below: what such a module imports from elsewhere is not its own.
        """
        return _OWN.fullmatch(self.path) is not None

    def resolve(self) -> Callable[..., object]:
        """The function itself. Its module is imported, with the current folder on `sys.path`.

        Raises:
            RequestError: no such module, file or name; the module raises; not callable.
        """
        source, _, name = self.path.rpartition(":")
        if not source or not name:
            raise RequestError(
                f"{self.path!r} names no factory. Write 'pkg.mod:name' or 'path/to/file.py:name'."
            )
        if source.endswith(".py"):
            module = _module_from_file(Path(source).expanduser(), self.path)
        else:
            module = _module_from_name(source, self.path, search_here=not self.is_own)
        found: object = module
        for part in name.split("."):
            owner = found
            found = getattr(owner, part, _ABSENT)
            if found is _ABSENT:
                public = [n for n in dir(owner) if not n.startswith("_")]
                raise RequestError(
                    f"{source} has no {name!r}.{nearest(part, public)} Write '{source}:NAME' with "
                    "the name of a function or class in it."
                )
        if not callable(found):
            raise RequestError(
                f"{self.path!r} is a {type(found).__name__}, which cannot be called. Name a "
                "function or class that builds what is needed."
            )
        home = str(getattr(found, "__module__", None))
        # A package may show what its own modules define, so that a name outlives a move of code.
        if self.is_own and home != source and not home.startswith(f"{source}."):
            raise RequestError(f"{name!r} is not defined in {source}, which only imports it.")
        return found

    def __call__(self) -> object:
        """What the function returns for the arguments.

        Raises:
            RequestError: as `resolve`; arguments that do not fit the function's signature.
        """
        function = self.resolve()
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):  # some built-in functions do not tell theirs
            return function(**self.arguments)
        try:
            signature.bind(**self.arguments)
        except TypeError as error:
            given = ", ".join(f"{key}={value!r}" for key, value in self.arguments.items())
            name = self.path.rpartition(":")[2]
            raise RequestError(
                f"{self.path} does not take the arguments ({given}): {error}. Its signature is "
                f"{name}{signature}."
            ) from None
        return function(**self.arguments)


_ABSENT = object()


def nearest(name: str, choices: Iterable[str]) -> str:
    """` Did you mean 'x'?` for the choice closest to `name`, or nothing."""
    near = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def _module_from_name(name: str, path: str, *, search_here: bool) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise RequestError(
            f"{name!r} in {path!r} is not a module's name. Write 'pkg.mod:name', or "
            "'path/to/file.py:name' for a file."
        )
    if search_here:
        _make_importable(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing != name and not name.startswith(f"{missing}."):
            raise _import_failure(path, error) from error
        parent, _, leaf = missing.rpartition(".")
        known = _modules_in(parent)
        raise RequestError(
            f"no module {missing!r}, which {path!r} names.{nearest(leaf, known)} Modules are "
            "looked up in the current folder and among the installed packages; a file can be "
            "named as 'path/to/file.py:name'."
        ) from None
    except RequestError:
        raise
    except Exception as error:
        raise _import_failure(path, error) from error


def _modules_in(package: str) -> list[str]:
    home = sys.modules.get(package)
    folders = [os.getcwd()] if home is None else getattr(home, "__path__", [])
    return [module.name for module in pkgutil.iter_modules(folders)]


def _module_from_file(file: Path, path: str) -> ModuleType:
    file = file.resolve()
    if not file.is_file():
        scripts = [other.name for other in file.parent.glob("*.py")]
        raise RequestError(
            f"no file {str(file)!r}, which {path!r} names.{nearest(file.name, scripts)} Write "
            "'path/to/file.py:name', from the current folder."
        )
    # A name of its own, so that no `model.py` shadows another; in sys.modules, where dataclasses
    # and pickle look a class's module up.
    stem = re.sub(r"\W", "_", file.stem)
    name = f"{stem}_{hashlib.sha256(os.fsencode(file)).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    _make_importable(str(file.parent))  # as `python file.py` does, for the modules beside it
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise _import_failure(path, error) from error
    return module


def _make_importable(folder: str) -> None:
    # For good: the factory may import more when it is called.
    if folder not in sys.path and not ("" in sys.path and folder == os.getcwd()):
        sys.path.insert(0, folder)


def _import_failure(path: str, error: Exception) -> RequestError:
    return RequestError(
        f"importing {path!r} failed with {type(error).__name__}: {error}. Mend that module, or run "
        "from the folder and environment in which it can be imported."
    )
