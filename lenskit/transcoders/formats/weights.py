"""Weights: the tensors of one file by name, whose sizes are checked against the file's before any is allocated."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Protocol

import numpy as np
import torch
from numpy.lib import format as npy
from safetensors import safe_open
from torch import Tensor

from lenskit.models.files.load_error import LoadError

Shapes = Mapping[str, tuple[int, ...]]


class Weights(Protocol):
    """The tensors of one file: what there is, and each when it is asked for."""

    @property
    def shapes(self) -> Shapes:
        """By name."""
        ...

    def take(self, name: str, at: int | None = None) -> Tensor:
        """One of them; `at`: only this index of its second axis, read without the rest where the file allows."""
        ...


class Safetensors:
    """A safetensors file. The library checks each announced shape against the file's length when it opens it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with safe_open(path, framework="pt") as file:
            self.about: dict[str, str] = file.metadata() or {}
            self.shapes: Shapes = {
                name: tuple(file.get_slice(name).get_shape())
                for name in file.keys()  # noqa: SIM118 -- no mapping
            }

    def take(self, name: str, at: int | None = None) -> Tensor:
        """A tensor of the file."""
        with safe_open(self._path, framework="pt") as file:
            return file.get_tensor(name) if at is None else file.get_slice(name)[:, at]


class Arrays:
    """numpy's `.npz`: a zip of arrays. Only arrays of numbers are read, and pickled objects never."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with zipfile.ZipFile(path) as archive:
            check_sizes(archive, path)
            members = [each for each in archive.infolist() if each.filename.endswith(".npy")]
            self.shapes: Shapes = {
                each.filename.removesuffix(".npy"): self._header(archive, each)[0] for each in members
            }

    def take(self, name: str, at: int | None = None) -> Tensor:
        """An array of the file."""
        with zipfile.ZipFile(self._path) as archive:
            member = archive.getinfo(f"{name}.npy")
            shape, by_columns, dtype, begin = self._header(archive, member)
            with archive.open(member) as file:
                numbers = np.frombuffer(file.read()[begin:], dtype)
        array = numbers.reshape(shape[::-1]).T if by_columns else numbers.reshape(shape)
        if at is not None:
            array = array[:, at]
        # numpy arrays may be big-endian and read-only, and torch's are neither.
        return torch.from_numpy(array.astype(dtype.newbyteorder("="), order="C", copy=True))

    def _header(
        self, archive: zipfile.ZipFile, member: zipfile.ZipInfo
    ) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
        """Shape, whether it is laid out by columns, dtype, and where the numbers begin."""
        where = f"{member.filename} in {self._path}"
        with archive.open(member) as file:
            shape, by_columns, dtype = _npy_header(file)
            begin = file.tell()
        if dtype.hasobject or dtype.kind not in "fiub":
            raise LoadError(
                f"{where} is an array of {dtype}, which would need a pickle to be run: only numbers are read."
            )
        if math.prod(shape) * dtype.itemsize != member.file_size - begin:
            held = member.file_size - begin
            raise LoadError(f"{where} announces {shape} of {dtype}, and holds {held:,} bytes.")
        return shape, by_columns, dtype, begin


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[np.generic]]:
    version = npy.read_magic(file)
    if version == (1, 0):
        return npy.read_array_header_1_0(file, max_header_size=4096)
    if version == (2, 0):
        return npy.read_array_header_2_0(file, max_header_size=4096)
    raise LoadError(f"an array of numpy's format {version} cannot be read: only 1.0 and 2.0 are.")


_SLACK = 1 << 20


def check_sizes(archive: zipfile.ZipFile, path: Path, most: float = 4.0) -> None:
    """Raise `LoadError` for an archive whose members would unpack to many times its size, or that is enciphered.

    Weights do not compress: what grows more is made to fill the memory.
    """
    announced = sum(each.file_size for each in archive.infolist())
    size = path.stat().st_size
    if announced > most * size + _SLACK:
        raise LoadError(f"{path} has {size:,} bytes and would unpack to {announced:,}: it is not unpacked.")
    if any(each.flag_bits & 1 for each in archive.infolist()):
        raise LoadError(f"{path} is enciphered.")
