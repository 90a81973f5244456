"""What a weight file holds, as plain Python objects, without running anything that it names.

`checkpoint` finds the weights in what comes back. What a file is, its content tells, not its name.
"""

from __future__ import annotations

import json
import os
import pickletools
import re
import threading
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from pickle import UnpicklingError
from typing import IO, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from landscape.errors import RequestError
from landscape.factory import nearest

__all__ = ["CheckpointError", "read_weight_file"]


class CheckpointError(RequestError):
    """A checkpoint cannot be read, or does not fit its model."""


_FOLDER_FILES = (  # what `save_pretrained` writes, best first
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_WEIGHT_SUFFIXES = {".bin", ".ckpt", ".pt", ".pth", ".safetensors"}
_OTHER_FORMATS = (
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89HDF", "an HDF5 file (a result file of landscape, or Keras weights)"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"%PDF", "a PDF"),
    (b"GGUF", "a GGUF file"),
)
_WANTED = "Give a file that torch.save or safetensors wrote."


def read_weight_file(path: Path, *, unsafe_load: bool = False) -> tuple[object, str]:
    """What the file (or the folder that `save_pretrained` wrote) holds, and its format.

    Args:
        unsafe_load: unpickle also what names code, which then runs with all the user's rights.

    Returns:
        The unpickled object with format "torch", or a dict of tensors with format "safetensors"
        or "Hugging Face". Tensors are on the CPU and may be mapped from the file.

    Raises:
        CheckpointError: missing, empty, cut short, damaged, of another kind, or naming code.
    """
    if path.is_dir():
        return _read(_weights_in(path), unsafe_load)[0], "Hugging Face"
    if not path.exists():
        beside = os.listdir(path.parent) if path.parent.is_dir() else []
        raise CheckpointError(
            f"no file {str(path)!r}.{nearest(path.name, beside)} Give the path of a checkpoint."
        )
    if not path.is_file():
        raise CheckpointError(f"{str(path)!r} is neither a file nor a folder. {_WANTED}")
    return _read(path, unsafe_load)


def _weights_in(folder: Path) -> Path:
    for name in _FOLDER_FILES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(f.name for f in folder.iterdir() if f.suffix in _WEIGHT_SUFFIXES)
    shown = ", ".join(others[:6]) + (f" and {len(others) - 6} more" if len(others) > 6 else "")
    raise CheckpointError(
        f"the folder {str(folder)!r} holds no {_FOLDER_FILES[0]}, {_FOLDER_FILES[2]} or index of "
        "either. "
        + (f"It holds {shown}: name one of them." if others else "Name a checkpoint file.")
    )


def _read(path: Path, unsafe_load: bool) -> tuple[object, str]:
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"cannot read {str(path)!r}: {error.strerror}.") from error
    if not head:
        raise CheckpointError(f"{path.name} is empty: it was never written, or not copied whole.")
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path.name} is a git-LFS pointer, not the weights. Fetch them: `git lfs pull`."
        )
    for magic, kind in _OTHER_FORMATS:
        if head.startswith(magic):
            raise CheckpointError(f"{path.name} is {kind}, not a checkpoint. {_WANTED}")
    if head[4:9] == b"\0\0\0\0{":  # after the header's length, 8 bytes from the lowest up
        return _read_safetensors(path), "safetensors"
    if head.lstrip().startswith(b"{"):
        return _read_shards(path, unsafe_load), "Hugging Face"
    if head.startswith(b"PK\x03\x04"):
        _check_archive(path)
    return _read_pickled(path, unsafe_load), "torch"


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except Exception as error:  # SafetensorError, and others for damaged bytes
        raise _damaged(path, error) from error


def _read_shards(path: Path, unsafe_load: bool) -> dict[str, Tensor]:
    try:
        index = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path.name} is text, not a checkpoint. {_WANTED}") from error
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{path.name} is JSON without a 'weight_map', so no index of weights. {_WANTED}"
        )
    tensors: dict[str, Tensor] = {}
    for shard in sorted({str(shard) for shard in weight_map.values()}):
        # By the text alone: in a download cache each shard is a link that leads elsewhere.
        if shard in {"", ".", ".."} or PureWindowsPath(shard).name != shard:
            raise CheckpointError(
                f"{path.name} names the shard {shard!r}, which is no file beside it. Shards must "
                "lie in the index's folder; nothing was read."
            )
        if not (path.parent / shard).is_file():
            raise CheckpointError(
                f"the shard {shard!r} that {path.name} names is missing. Put it in {path.parent}."
            )
        held, _ = _read(path.parent / shard, unsafe_load)
        names = [name for name, home in weight_map.items() if str(home) == shard]
        absent = [n for n in names if not isinstance(held, Mapping) or n not in held]
        if absent or not isinstance(held, Mapping):
            raise CheckpointError(
                f"the shard {shard!r} lacks {absent[0]!r}, which {path.name} places in it. The two "
                "are of different checkpoints: fetch both again."
            )
        tensors |= {name: held[name] for name in names}
    return tensors


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            members = {PurePosixPath(name).name for name in archive.namelist()}
    except Exception as error:  # of many kinds, for damaged bytes
        raise _damaged(path, error) from error
    if "constants.pkl" in members:
        raise CheckpointError(
            f"{path.name} is a TorchScript archive, which is a program. Keep its weights only: "
            "torch.save(torch.jit.load(path).state_dict(), 'weights.pt')."
        )
    if "data.pkl" not in members:
        raise CheckpointError(f"{path.name} is a zip archive, but no checkpoint. {_WANTED}")


def _read_pickled(path: Path, unsafe_load: bool) -> object:
    try:
        with _LOCK, torch.serialization.safe_globals(_STAND_INS):
            return _torch_load(path, weights_only=True)
    except Exception as error:  # a hostile or damaged pickle can raise anything
        scan = _scan(path)
        refused = _refused(str(error), scan.globals) if scan.is_pickle else []
        whole = (
            bool(refused) or scan.is_newer or (scan.is_whole and isinstance(error, UnpicklingError))
        )
        if not whole and not unsafe_load:
            raise _not_a_checkpoint(path, scan, error) from error
        if not unsafe_load:
            raise _refusal(path, refused, scan, error) from None
    try:
        return _torch_load(path, weights_only=False)
    except Exception as error:
        if not whole:
            raise _not_a_checkpoint(path, scan, error) from error
        raise CheckpointError(
            f"{path.name} names code that fails here with {type(error).__name__}: "
            f"{_reason(error)}. Run where that code can be imported, or re-save the weights: "
            "torch.save(model.state_dict(), 'weights.pt')."
        ) from error


def _torch_load(path: Path, *, weights_only: bool) -> object:
    # torch.load goes by the name alone for a path that ends so; an open file has no name.
    if not zipfile.is_zipfile(path) or path.suffix == ".safetensors":
        with path.open("rb") as file:
            return torch.load(file, map_location="cpu", weights_only=weights_only)
    return torch.load(path, map_location="cpu", weights_only=weights_only, mmap=True)


@dataclass
class _Scan:
    """What the opcodes of a file's pickles say, without running them."""

    globals: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    is_pickle: bool = False
    is_whole: bool = False  # told of archives only: the older format is several pickles in a row
    is_newer: bool = False  # of a protocol that torch's safe reader does not know


def _scan(path: Path) -> _Scan:
    scan = _Scan()
    is_archive = zipfile.is_zipfile(path)
    with suppress(Exception), ExitStack() as stack:  # damaged: what came before is all there is
        file: IO[bytes]
        if is_archive:
            archive = stack.enter_context(zipfile.ZipFile(path))
            member = next(n for n in archive.namelist() if PurePosixPath(n).name == "data.pkl")
            file = stack.enter_context(archive.open(member))
        else:
            file = stack.enter_context(path.open("rb"))
        while True:
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "PROTO":
                    scan.is_pickle = True
                    scan.is_newer |= int(str(argument)) > 2
                elif opcode.name == "GLOBAL":
                    scan.globals.append(str(argument).replace(" ", "."))
                elif opcode.name == "STACK_GLOBAL":
                    scan.globals.append(".".join(scan.texts[-2:]))
                elif isinstance(argument, str):
                    scan.texts.append(argument)
            scan.is_pickle = True  # protocols 0 and 1 say so nowhere, and much text begins like one
            scan.is_whole = is_archive
    return scan


def _refused(message: str, named: Sequence[str]) -> list[str]:
    """The globals that torch.load refused, the one it stumbled over first."""
    stumbled = re.search(r"GLOBAL (\S+) (?:was not|whose module)", message)
    # A name that is only torch.load's was cut by the end of a damaged file.
    last_parts = {name.rpartition(".")[2] for name in named}
    refused = [stumbled[1]] if stumbled and stumbled[1].rpartition(".")[2] in last_parts else []
    for name in named:
        name = re.sub(r"^__builtin__\.", "builtins.", name)
        is_module = name.startswith("torch.nn.modules.")
        if (is_module or not name.startswith(_HARMLESS)) and name not in refused:
            refused.append(name)
    return refused


def _refusal(path: Path, refused: list[str], scan: _Scan, error: Exception) -> CheckpointError:
    shown = ", ".join(refused[:4]) + (" and more" if len(refused) > 4 else "")
    if refused and "_modules" in scan.texts:
        what = f"holds a whole pickled module, not only weights: it names {shown}"
    elif refused:
        what = f"names code that a checkpoint need not hold: {shown}. Nothing was run"
    elif scan.is_newer:
        what = "was pickled with a newer protocol than torch.load reads safely (it reads 2)"
    else:
        what = f"holds more than torch.load reads safely ({_reason(error)})"
    return CheckpointError(
        f"{path.name} {what}. Re-save the weights, torch.save(model.state_dict(), 'weights.pt'), "
        "or pass --unsafe-load if you trust its origin: then the code that it names runs."
    )


def _not_a_checkpoint(path: Path, scan: _Scan, error: Exception) -> CheckpointError:
    if not scan.is_pickle:
        return CheckpointError(f"{path.name} is not a checkpoint. {_WANTED}")
    return _damaged(path, error)


def _damaged(path: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path.name} is cut short or damaged ({_reason(error)}). Copy or write it again."
    )


def _reason(error: Exception) -> str:
    text = str(error).rpartition("WeightsUnpickler error: ")[2].strip()
    return (text.splitlines() or [type(error).__name__])[0].rstrip(".")[:160]


# --- What stands in for the harmless globals that foreign checkpoints name beside their tensors ---


class _Ignored:
    """What nobody asks for: options, paths, random states, histories.

    Not NumPy's own functions: they trust the file's sizes and flags with the memory.
    """

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


class _Dtype:
    def __init__(self, code: object = "", *_: object) -> None:
        self.code = ""
        if isinstance(code, str) and re.fullmatch(r"b1|i[1248]|u[1248]|f[248]", code):
            self.code = code

    def __setstate__(self, state: Sequence[object]) -> None:
        self.code = ">" * (state[1] == ">" and self.code != "") + self.code


def _scalar(dtype: object, content: object) -> object:
    """A number, such as a metric that was never turned into a float; None for other content."""
    if not isinstance(dtype, _Dtype) or not dtype.code or not isinstance(content, bytes):
        return None
    return np.frombuffer(content, dtype.code, count=1).item()


def _dict(*_: object) -> dict[object, object]:
    return {}  # torch's reader fills no defaultdict, only a dict


_STAND_INS: list[Any] = [
    (_dict, "collections.defaultdict"),
    (_Dtype, "numpy.dtype"),
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *((_Ignored, f"numpy.{core}.multiarray._reconstruct") for core in ("core", "_core")),
    (_Ignored, "numpy.ndarray"),
    (_Ignored, "argparse.Namespace"),
    *(
        (_Ignored, f"{module}.{kind}Path")
        for module in ("pathlib", "pathlib._local")
        for kind in ("Posix", "PurePosix", "Windows", "PureWindows")
    ),
    # the default of a defaultdict, the type in a record of options
    *((_Ignored, f"builtins.{kind}") for kind in ("bool", "dict", "float", "int", "list", "str")),
]
_HARMLESS = (
    "torch.",
    "collections.OrderedDict",
    "collections.Counter",
    "_codecs.encode",
    "builtins.set",
    *(name for _, name in _STAND_INS),
)
_LOCK = threading.Lock()  # torch keeps the globals that are safe for the whole process
