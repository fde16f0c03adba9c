"""Where an index is kept: `index.json` says what it is of, and `index.safetensors` has the numbers, mapped to memory.

An array is not read before somebody asks for a part of it, so that an index opens in the same time whatever its size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from lenskit.artifacts import whole_file, write_json
from lenskit.models.files.load_error import LoadError

FORMAT = "lenskit feature index 1"
ABOUT, NUMBERS, UNFINISHED = "index.json", "index.safetensors", "unfinished.safetensors"
_LONGEST = 1 << 20  # bytes of a header: an index has a few dozen arrays
_KINDS = {"U8": "u1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "F32": "<f4", "U64": "<u8", "I64": "<i8"}
_KINDS |= {"F64": "<f8"}


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Whatever goes wrong in reading becomes a `LoadError` that names the file."""
    try:
        yield
    except LoadError:
        raise
    except (OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        raise LoadError(f"{path} cannot be read as an index: {error} ({type(error).__name__})") from error


class Mapped(Mapping[str, np.ndarray]):
    """The arrays of a safetensors file, read-only, as parts of one memory map.

    Raises `LoadError` where the header does not fit the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with reading(path):
            self._arrays, self.about = self._mapped(path)

    @staticmethod
    def _mapped(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(_LONGEST, size - 8):
                raise ValueError(f"it has {size:,} bytes, and says that its header has {length:,}.")
            header = json.loads(file.read(length))
        about = header.pop("__metadata__", {})
        begin, arrays = 8 + length, dict[str, np.ndarray]()
        data = np.memmap(path, np.uint8, "r")
        for name, each in header.items():
            kind, shape, (first, last) = np.dtype(_KINDS[each["dtype"]]), each["shape"], each["data_offsets"]
            if not all(isinstance(n, int) and n >= 0 for n in (*shape, first, last)):
                raise ValueError(f"{name} has the shape {shape} from {first} to {last}.")
            if last > size - begin or last - first != math.prod(shape) * kind.itemsize:
                raise ValueError(f"{name} has the shape {shape} from {first} to {last}, of {size - begin:,} bytes.")
            arrays[name] = np.ndarray(tuple(shape), kind, data, begin + first)
        return arrays, about

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def write(folder: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write an index. What it is of is written last: a folder without it holds none."""
    with whole_file(folder / NUMBERS) as unfinished:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, unfinished)
    with whole_file(folder / ABOUT) as unfinished:
        write_json(unfinished, {"format": FORMAT, **about})


def read(folder: Path) -> tuple[Mapped, dict[str, Any]]:
    """What `write` wrote. Raises `LoadError` for anything else."""
    about = read_about(folder)
    arrays = Mapped(folder / NUMBERS)
    for name, shape in shapes(about).items():
        found = arrays[name].shape if name in arrays else None
        if found is None or len(found) != len(shape):
            raise LoadError(f"{folder / NUMBERS} should have {name} with {len(shape)} axes, and has {found}.")
        if any(wanted is not None and wanted != there for wanted, there in zip(shape, found, strict=True)):
            raise LoadError(f"{folder / NUMBERS} has {name} as {found}, which {ABOUT} says is {shape}.")
    return arrays, about


def read_about(folder: Path) -> dict[str, Any]:
    """What the folder's index is of. Raises `LoadError` where there is none."""
    path = folder / ABOUT
    if not path.exists():
        unfinished = " (one was begun here: FeatureIndex.build goes on with it)"
        raise LoadError(
            f"{folder} holds no index{unfinished if (folder / UNFINISHED).exists() else ''}: it has no {ABOUT}."
        )
    with reading(path):
        about = json.loads(path.read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ValueError(f"its format is {about['format']!r}, and not {FORMAT!r}")
        if not all(isinstance(about[name], kind) for name, kind in _FIELDS.items()):
            raise TypeError("a field has another type than it should have")
        if not all(0 < about[name] < 1 << 32 for name, kind in _FIELDS.items() if kind is int and name != "skip"):
            raise ValueError("a size is out of range")
        return about


_FIELDS: dict[str, type] = {
    **dict.fromkeys(("n_features", "tokens", "length", "skip", "top", "bands", "per_band", "bins", "window"), int),
    **dict.fromkeys(("provenance", "lacks", "basis", "identity"), dict),
    "belongs": str,
}


def shapes(about: Mapping[str, Any]) -> dict[str, tuple[int | None, ...]]:
    """The arrays of an index, and their shapes as far as they are known beforehand."""
    n, window = about["n_features"], about["window"]
    top, bands = (about["top"],), (about["bands"], about["per_band"])
    per_feature: dict[str, tuple[int | None, ...]] = {
        **dict.fromkeys(("density", "max", "mean", "ranges", "counts"), ()),
        "histograms": (about["bins"],),
    }
    for kind, shape in (("top", top), ("band", bands)):
        per_feature |= {f"{kind}_{name}": shape for name in ("positions", "values", "scales")}
        per_feature[f"{kind}_windows"] = (*shape, window)
    pairs = [("similar", "cosines"), ("company", "jaccard"), ("words", "word_means")]
    lacks = about["lacks"]
    pairs += [] if "promotes" in lacks else [("promoted", "promoted_logits"), ("suppressed", "suppressed_logits")]
    pairs += [] if "de_embedding" in lacks else [("embedded", "embedded_values")]
    per_feature |= {name: (None,) for pair in pairs for name in pair}
    if "best_heads" not in lacks:
        per_feature |= {"heads": (None, 2), "head_norms": (None,)}
    return {name: (n, *shape) for name, shape in per_feature.items()} | {
        "ids": (None, about["length"]),
        **dict.fromkeys(("seen", "seen_counts", "seen_offsets"), (None,)),
        **dict.fromkeys(("seen_features", "seen_means", "seen_active"), (None,)),
        **dict.fromkeys(("pieces", "piece_offsets"), (None,)),
    }
