"""Source: the files of a published dictionary, and what is in them, none of it believed before it is checked."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml

from lenskit.models.files.load_error import LoadError
from lenskit.models.model import Model
from lenskit.models.sites import Site
from lenskit.transcoders.formats.pickles import Pickled
from lenskit.transcoders.formats.weights import Arrays, Safetensors, Weights

_LARGEST = {".json": 4 << 20, ".yaml": 64 << 10, ".yml": 64 << 10}  # bytes of settings
_DEEPEST = 16  # settings within settings, in YAML

T = TypeVar("T")


@dataclass(frozen=True)
class Asked:
    """What the person who loads says of it: the model, the sites where they know better, the dtype in memory."""

    model: Model | None = None
    reads: Site | None = None
    writes: tuple[Site, ...] | None = None
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Source:
    """A folder of files, or one of them, `chosen`, with those beside it."""

    folder: Path
    chosen: str | None = None

    @classmethod
    def at(cls, path: Path) -> Source:
        """The source that a path means. Raises `LoadError` where nothing is there, or no file and no folder."""
        if path.is_dir():
            return cls(path)
        if not path.is_file():
            raise LoadError(f"There is no dictionary at {path}: {'it is no file' if path.exists() else 'nothing'}.")
        return cls(path.parent, path.name)

    def __str__(self) -> str:
        return str(self.folder / self.chosen) if self.chosen else str(self.folder)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The files beside each other, numbers in their names in order."""
        return tuple(sorted((each.name for each in self.folder.iterdir() if each.is_file()), key=in_order))

    @cached_property
    def weights(self) -> dict[str, Weights]:
        """By name of the file: what tensors it holds; of the chosen file only, if one was chosen."""
        found = {}
        for name in [self.chosen] if self.chosen else self.names:
            kind = kind_of(self.path(name)) if not name.startswith(".") else None
            if kind is not None:
                found[name] = kind(self.path(name))
        return found

    def path(self, name: str) -> Path:
        """A file of the folder. Raises `LoadError` for one that is a link to somewhere else."""
        path = self.folder / name
        if name == self.chosen:
            return path
        if Path(name).name != name:
            raise LoadError(f"{self.folder} refers to {name!r}, which does not lie in it: it is not read.")
        target = path.resolve()
        if target.parent not in (self.folder.resolve(), *_blobs(self.folder)):
            raise LoadError(f"{path} is a link to {target}, outside its folder: it is not followed. Name that file.")
        return path

    def holding(self, kind: type[Weights], *tensors: str) -> list[str]:
        """The files of a kind that hold all of these tensors."""
        files = self.weights.items()
        return [n for n, each in files if isinstance(each, kind) and all(tensor in each.shapes for tensor in tensors)]

    def settings(self, *names: str) -> dict[str, Any] | None:
        """What the first of these JSON or YAML files says, or None where there is none of them."""
        for name in names:
            if name in self.names:
                return _settings(self.path(name))
        return None


def kind_of(path: Path) -> type[Safetensors] | type[Arrays] | type[Pickled] | None:
    """What kind of weights a file holds, by its first bytes; None where it is none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        begin = file.read(16)
    if begin.startswith(b"PK\x03\x04"):
        return Arrays if path.suffix == ".npz" or _holds_arrays(path) else Pickled
    if begin.startswith(b"\x1f\x8b") or (begin.startswith(b"\x80") and begin[1:2] <= b"\x05"):
        return Pickled
    if begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") <= size - 8:
        return Safetensors
    known = (".safetensors", ".npz", ".pt", ".pkl", ".gz")
    if path.suffix in known and not path.name.startswith("."):
        raise LoadError(f"{path} is not what its name says: it is cut off, or something else. It was not read.")
    return None


def _holds_arrays(path: Path) -> bool:
    import zipfile

    with zipfile.ZipFile(path) as archive:
        return all(name.endswith(".npy") for name in archive.namelist())


def _blobs(folder: Path) -> list[Path]:
    """Where the Hugging Face cache keeps what the links in a snapshot stand for."""
    snapshots = next((each for each in folder.absolute().parents if each.name == "snapshots"), None)
    return [] if snapshots is None else [(snapshots.parent / "blobs").resolve()]


def _settings(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LARGEST[path.suffix]:
        raise LoadError(f"{path} is larger than any settings are: it was not read.")
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".json":
            _check_yaml(text, path)
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise LoadError(f"{path} does not hold settings by name.")
    return found


def _check_yaml(text: str, path: Path) -> None:
    """Raise `LoadError` for what makes a small file grow beyond all bounds, or its reading take hours."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > _DEEPEST:
            raise LoadError(f"{path} refers to parts of itself, or is nested without end: it was not read.")


def said(settings: dict[str, Any], name: str, kind: type[T], where: object) -> T:
    """What settings say under a name. Raises `LoadError` where they say nothing, or something of another kind."""
    value = settings.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise LoadError(f"{where}: its settings should say {name!r}, as {kind.__name__}, and say {value!r}.")
    return value


def in_order(name: str) -> list[tuple[bool, int, str]]:
    """A key by which `layer_10` comes after `layer_9`."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"([0-9]{1,9})", name)]


def plain(values: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Of these settings what can be kept as plain data: texts, numbers, truth values."""
    return {name: values[name] for name in names if isinstance(values.get(name), str | int | float | bool)}
