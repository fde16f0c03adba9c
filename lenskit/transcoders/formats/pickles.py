"""Pickles read as plain data: an allow-list decides what may be in them, and nothing that they name is ever called.

torch's own files hold pickles, and older ones hold objects of classes that no longer exist. What is allowed here is
what describes tensors, and settings: an object of a known project's class becomes its fields. Everything else is
refused.
"""

from __future__ import annotations

import gzip
import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import torch
from torch import Tensor

from lenskit.models.files.load_error import LoadError
from lenskit.transcoders.formats.weights import Shapes, check_sizes

# Whose classes may be named. An object of one of them is read as its fields; its code is neither needed nor looked for.
_PROJECTS = ("sae_training", "transcoder_circuits", "sae_lens", "dictionary_learning", "mats_sae_training")
_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# A dictionary's file has some hundreds of operations. More would only be there to nest without end or fill the memory.
_MOST_OPERATIONS = 20_000
_REFUSED_OPERATIONS = {"BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4", "INST", "OBJ"}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


class Fields:
    """The fields of an object whose class is not there."""

    fields: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
            raise LoadError("it holds an object whose fields are no plain fields.")
        self.fields = dict(state)


@dataclass(frozen=True)
class Storage:
    """The numbers of a tensor, as they lie in the file: read when they are asked for."""

    dtype: torch.dtype
    n: int
    read: Callable[[], bytes]


@dataclass(frozen=True)
class Stored:
    """A tensor of a file: part of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def take(self) -> Tensor:
        """The tensor. Raises `LoadError` where its storage is not as long as it would have to be."""
        storage, size = self.storage, math.prod(self.shape)
        whole = all(isinstance(each, int) and each >= 0 for each in (self.offset, *self.shape, *self.stride))
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True)) if size else 0
        if not whole or last >= max(storage.n, 1) or size > storage.n:
            raise LoadError(f"it announces a tensor {self.shape} on a storage of {storage.n:,} numbers.")
        numbers = storage.read()
        if len(numbers) != storage.n * storage.dtype.itemsize:
            raise LoadError(f"it announces {storage.n:,} numbers of {storage.dtype}, and holds {len(numbers):,} bytes.")
        if not size:
            return torch.empty(self.shape, dtype=storage.dtype)
        flat = torch.frombuffer(bytearray(numbers), dtype=storage.dtype)
        return flat.as_strided(self.shape, self.stride, self.offset).clone()


class Pickled:
    """A file of torch or a pickle, gzipped or not: `content` is its plain data, with `Stored` in the place of tensors.

    Its `shapes` are those of the tensors in a flat mapping; other files have none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = _content(path)
        found = self.content
        if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
            found = found["state_dict"]
        tensors = found if isinstance(found, dict) else {}
        self._tensors: Mapping[str, Stored] = {
            name: value for name, value in tensors.items() if isinstance(name, str) and isinstance(value, Stored)
        }
        self.shapes: Shapes = {name: tensor.shape for name, tensor in self._tensors.items()}

    def take(self, name: str, at: int | None = None) -> Tensor:
        """A tensor of the file."""
        tensor = self._tensors[name].take()
        return tensor if at is None else tensor[:, at]


def _content(path: Path) -> Any:
    with path.open("rb") as file:
        begin = file.read(2)
        file.seek(0)
        if begin == b"\x1f\x8b":
            return _first(io.BytesIO(_unzipped(file, path)))
        if begin == b"PK":
            return _of_archive(path)
        return _first(file)


def _unzipped(file: IO[bytes], path: Path) -> bytes:
    """What a gzipped file holds, if that is not many times its size."""
    most = 4 * path.stat().st_size + (1 << 20)
    with gzip.open(file) as unzipped:
        content = unzipped.read(most + 1)
    if len(content) > most:
        raise LoadError(f"{path} would unpack to more than {most:,} bytes: it is not unpacked.")
    return content


def _first(file: IO[bytes]) -> Any:
    """The data of a pickle, or of a file that torch wrote before it took to archives."""
    first = _Reader(file, _no_storage).read()
    return _of_stream(file) if first == _LEGACY_MAGIC and not isinstance(first, bool) else first


def _of_stream(file: IO[bytes]) -> Any:
    """torch's older file, after its first number: two heads, the data, the storages' names, the storages."""
    _Reader(file, _no_storage).read()
    head = _Reader(file, _no_storage).read()
    if not isinstance(head, dict) or head.get("little_endian") is not True:
        raise LoadError("it was written by a machine with another order of bytes.")
    announced: dict[str, tuple[torch.dtype, int]] = {}
    placed: dict[str, tuple[int, int]] = {}

    def stored(dtype: torch.dtype, key: str, n: int) -> Storage:
        if announced.setdefault(key, (dtype, n)) != (dtype, n):
            raise LoadError(f"it announces the storage {key!r} twice, and differently.")

        def read() -> bytes:
            file.seek(placed[key][0])
            return file.read(placed[key][1])

        return Storage(dtype, n, read)

    content = _Reader(file, stored).read()
    names = _Reader(file, _no_storage).read()
    begin = file.tell()
    length = file.seek(0, io.SEEK_END)
    for name in names:
        dtype, n = announced[name]
        file.seek(begin)
        if int.from_bytes(file.read(8), "little") != n or begin + 8 + n * dtype.itemsize > length:
            raise LoadError(f"it announces {n:,} numbers of {dtype} where there are not so many.")
        placed[name] = (begin + 8, n * dtype.itemsize)
        begin += 8 + n * dtype.itemsize
    if isinstance(file, io.BytesIO):
        return content
    return _taken(content)


def _taken(content: Any) -> Any:
    """The same with its storages in memory, for the file is about to be closed."""
    if isinstance(content, Stored):
        numbers = content.storage.read()
        return Stored(Storage(content.storage.dtype, content.storage.n, lambda: numbers), *_place(content))
    if isinstance(content, dict):
        return {key: _taken(value) for key, value in content.items()}
    return content


def _place(tensor: Stored) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return tensor.offset, tensor.shape, tensor.stride


def _of_archive(path: Path) -> Any:
    """torch's file of today: an archive, never compressed, with the pickle as `data.pkl` and each storage as a file."""
    with zipfile.ZipFile(path) as archive:
        check_sizes(archive, path, most=1.0)
        names = [each for each in archive.namelist() if each.endswith("/data.pkl") or each == "data.pkl"]
        if len(names) != 1:
            raise LoadError(f"{path} is an archive that torch did not write: it has no data.pkl.")
        root = names[0].removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise LoadError(f"{path} was written by a machine with another order of bytes.")
        data = archive.read(names[0])

    def stored(dtype: torch.dtype, key: str, n: int) -> Storage:
        def read() -> bytes:
            with zipfile.ZipFile(path) as archive:
                member = archive.getinfo(f"{root}data/{key}")
                if member.file_size != n * dtype.itemsize:
                    raise LoadError(f"{path} announces {n:,} numbers of {dtype}, and holds {member.file_size:,} bytes.")
                return archive.read(member)

        return Storage(dtype, n, read)

    return _Reader(io.BytesIO(data), stored).read()


def _no_storage(dtype: torch.dtype, key: str, n: int) -> Storage:
    raise LoadError(f"it names a storage {key!r} of {n:,} numbers of {dtype} that is nowhere in it.")


class _Reader(pickle.Unpickler):
    """Reads one pickle of a file, in which only what is on the list may be named."""

    def __init__(self, file: IO[bytes], storage: Callable[[torch.dtype, str, int], Storage]) -> None:
        begin = file.tell()
        _check_operations(file)
        end = file.tell()
        file.seek(begin)
        self._bytes = io.BytesIO(file.read(end - begin))
        self._storage = storage
        super().__init__(self._bytes)

    def read(self) -> Any:
        """The data."""
        try:
            return self.load()
        except (LoadError, MemoryError):
            raise
        except Exception as error:  # whatever a pickle that is not what it seems makes of itself
            raise LoadError(f"it is a pickle that cannot be read: {error} ({type(error).__name__})") from error

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name in the file: our own functions, or a class that only keeps fields."""
        rebuilt = {
            "_rebuild_tensor_v2": self._tensor,
            "_rebuild_tensor": self._tensor,
            "_rebuild_parameter": self._same,
        }
        if module == "torch._utils" and name in rebuilt:
            return rebuilt[name]
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return self._from_bytes
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if (module, name) == ("torch", "device"):
            return self._device
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module.split(".")[0] in _PROJECTS and name.isidentifier():
            return type(name, (Fields,), {})
        if (module, name) == ("copyreg", "_reconstructor"):
            return self._reconstructed
        if (module, name) in (("builtins", "object"), ("__builtin__", "object")):
            return object
        raise LoadError(
            f"it is a pickle that names {module}.{name}, which is neither tensors nor settings: it was not run, and "
            "nothing of it is loaded."
        )

    def persistent_load(self, pid: Any) -> Storage:
        """A storage, by what torch writes of it."""
        kind, dtype, key, _, n, *_ = pid
        if kind != "storage" or not isinstance(dtype, torch.dtype) or not isinstance(key, str):
            raise LoadError("it refers to something that is no storage of torch.")
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise LoadError(f"it announces a storage of {n!r} numbers.")
        return self._storage(dtype, key, n)

    def _from_bytes(self, content: object) -> Any:
        if not isinstance(content, bytes):
            raise LoadError("it holds a storage that is not made of bytes.")
        return _first(io.BytesIO(content))

    @staticmethod
    def _tensor(storage: object, offset: Any, shape: Any, stride: Any, *_: object) -> Stored:
        if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(stride, tuple):
            raise LoadError("it holds a tensor without a storage.")
        return Stored(storage, offset, shape, stride)  # they are checked when it is taken

    @staticmethod
    def _same(tensor: object, *_: object) -> object:
        return tensor

    @staticmethod
    def _device(kind: object = None, index: object = None) -> str:
        return str(kind) if index is None else f"{kind}:{index}"

    @staticmethod
    def _reconstructed(kind: object, base: object, state: object) -> Fields:
        if not (isinstance(kind, type) and issubclass(kind, Fields)) or base is not object or state is not None:
            raise LoadError("it holds an object that is more than its fields.")
        return kind()


def _check_operations(file: IO[bytes]) -> None:
    """Go through a pickle without doing what it says. Raises `LoadError` for what would fill the memory."""
    for number, (operation, argument, _) in enumerate(pickletools.genops(file)):
        if number > _MOST_OPERATIONS or operation.name in _REFUSED_OPERATIONS:
            raise LoadError("it is a pickle of a kind that no dictionary is written as.")
        # The place that something is remembered at makes room for all places before it.
        if "PUT" in operation.name and isinstance(argument, int) and argument > _MOST_OPERATIONS:
            raise LoadError("it is a pickle that would fill the memory.")
