"""Opening: the entries of a file by its kind, lazily, and never anything but data."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lenskit.models.files.load_error import LoadError

ZIP, NPY_IN_ZIP = b"PK\x03\x04", ".npy"


@dataclass(frozen=True, eq=False)
class Opened:
    """What is in a file, before anybody knows what it means.

    Attributes:
        path: the file.
        entries: by key. Tensors are mapped or read when they are used, as far as the kind of file allows.
        header: of a safetensors file, its words.
        beside: what a JSON or YAML file beside it says.
    """

    path: Path
    entries: Mapping[Any, Any]
    header: Mapping[str, str]
    beside: Mapping[str, Any]

    @property
    def keys(self) -> str:
        """Its keys, for a message."""
        shown = [str(key) for key in self.entries]
        return ", ".join(shown[:8]) + (f" and {len(shown) - 8} more" if len(shown) > 8 else "") or "nothing"


def opened(path: Path, whole: bool = True) -> Opened:
    """Open a file by what it begins with, whatever it is called. Raises `LoadError` where it is none of these.

    Not `whole`: of tensors that cannot be mapped only the shapes are there.
    """
    try:
        with open(path, "rb") as file:
            begins = file.read(9)
        if begins[:4] == ZIP:
            with zipfile.ZipFile(path) as archive:
                numpy = all(name.endswith(NPY_IN_ZIP) for name in archive.namelist())
            entries, header = (_numpy(path, whole) if numpy else _torch(path)), {}
        elif begins[8:] == b"{":  # after the length of its header, which may begin with any byte
            entries, header = _safetensors(path)
        elif begins[:1] == b"\x80":  # a pickle by itself, as torch once wrote them
            entries, header = _torch(path), {}
        else:
            raise LoadError(f"{path} is no file of torch, numpy or safetensors: it begins with {begins!r}.")
    except (OSError, zipfile.BadZipFile, SafetensorError, RuntimeError, EOFError, ValueError) as error:
        if isinstance(error, LoadError):
            raise
        raise LoadError(f"{path} cannot be read as a Jacobian lens: {error}") from error
    return Opened(path, entries, header, _beside(path))


def _torch(path: Path) -> Mapping[Any, Any]:
    """A torch file. Its tensors are mapped, so that only those are read that are used."""
    try:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, ValueError):  # the older form cannot be mapped
            found = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise LoadError(f"{path} is a pickle that holds more than tensors, which is not loaded.") from error
    if not isinstance(found, Mapping):
        raise LoadError(f"{path} holds a {type(found).__name__}, and a Jacobian lens is kept as a mapping.")
    return found


def _numpy(path: Path, whole: bool) -> Mapping[Any, Any]:
    if whole:
        with np.load(path, allow_pickle=False) as archive:
            return {name: torch.from_numpy(np.array(archive[name])) for name in archive.files}
    found = dict[str, Any]()
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                version = np.lib.format.read_magic(file)
                header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = header(file)
                kind = torch.from_numpy(np.empty(0, dtype)).dtype
                numbers = torch.empty(shape, dtype=kind, device="meta") if shape else None
            found[name.removesuffix(NPY_IN_ZIP)] = np.load(archive.open(name)).item() if numbers is None else numbers
    return found


def _safetensors(path: Path) -> tuple[Mapping[Any, Any], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        header = dict(file.metadata() or {})
        return {name: file.get_tensor(name) for name in file.keys()}, header  # noqa: SIM118 -- no mapping


def _beside(path: Path) -> dict[str, Any]:
    """What lies beside a published lens: a JSON file of its name (or `lens.sidecar.json`), and `config.yaml`."""
    found = dict[str, Any]()
    names = (f"{path.stem}.sidecar.json", f"{path.stem}.json", "config.yaml")
    for each in (path.with_name(name) for name in names):
        if not each.is_file():
            continue
        try:
            text = each.read_text(encoding="utf-8")
            said = json.loads(text) if each.suffix == ".json" else yaml.safe_load(text)
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise LoadError(f"{each}, beside the lens, cannot be read: {error}") from error
        if isinstance(said, Mapping):
            found |= {str(key): value for key, value in said.items()}
    return found


def number(value: Any) -> int | None:
    """A whole number, also where it is kept as a tensor of one."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return int(value) if isinstance(value, int | float) and int(value) == value else None


def plain(value: Any) -> Any:
    """Plain data that JSON can hold; a tensor becomes its shape in words."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {value.dtype}"
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(each) for each in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
