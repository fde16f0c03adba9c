"""Edit files: edits on disk, as JSON with the tensors beside it in a safetensors file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lenskit.artifacts import sha256, whole_file, write_json
from lenskit.models.ablations import AblateLayer, RemoveSubspace
from lenskit.models.directions_by_layer import DirectionsByLayer
from lenskit.models.edits import (
    SELECTORS,
    Add,
    Call,
    Edit,
    Mean,
    Project,
    Resample,
    Scale,
    Set,
    Splice,
    Zero,
    as_edits,
)
from lenskit.models.running.patch import Patch, Source
from lenskit.models.running.places import Moment
from lenskit.models.running.which import Which, indices
from lenskit.models.steering import Ablate, Steer, Swap

FORMAT, VERSION = "lenskit edits", 1
_KINDS: dict[str, type[Edit]] = {
    kind.__name__: kind
    for kind in (
        *(Set, Add, Scale, Zero, Mean, Resample, Project, Patch, RemoveSubspace, AblateLayer),
        *(Steer, Swap, Ablate),
    )
}
# What each field of an edit holds; every other one is a selector.
_PLAIN: dict[str, type | tuple[type, ...]] = {
    "site": str,
    "scale": (int, float),
    "strength": (int, float),
    "clamped": bool,
    "over": str,
    "how": str,
    "seed": int,
    "keep": bool,
}
_VALUES = ("value", "by", "directions")
_NUMBERS = ("scale", "strength")
_ALONG = {"layers": dict, "concepts": list, "tokens": list, "lens": str, "scale": str, "folded": bool, "centred": bool}
_MOMENT = ("rows", "before", "length", "step")


def save_edits(edits: Edit | Iterable[Edit], path: str | Path) -> Path:
    """Save edits to a JSON file, and their tensors beside it to a `.safetensors` file of the same name.

    What the JSON says of each tensor is its name; it also holds the SHA-256 of the tensors' file. Of a `Patch` from a
    run, the activations of the layers it patches are saved. An older file of that name is replaced.

    Raises `TypeError` for a `Call` or a `Splice`, which hold functions, and `ValueError` for a path that does not end
    in `.json`.

    >>> lk.save_edits([lk.Add("resid_post", v, scale=4, layers=6)], "steer.json")  # doctest: +SKIP
    >>> with model.edit(*lk.load_edits("steer.json")):                              # doctest: +SKIP
    ...     model.generate("I think")
    """
    path = _json_path(path)
    tensors = dict[str, Tensor]()
    written = [_written(edit, f"{n}.", tensors) for n, edit in enumerate(as_edits(edits))]
    beside = path.with_suffix(".safetensors")
    made: dict[str, Any] = {"format": FORMAT, "version": VERSION, "edits": written, "tensors": None}
    if tensors:
        # First the tensors: a JSON file without its tensors' hash is refused, whatever happens in between.
        with whole_file(beside) as scratch:
            save_file(tensors, scratch)
            made["tensors"] = sha256(scratch)
    with whole_file(path) as scratch:
        write_json(scratch, made)
    if not tensors:
        beside.unlink(missing_ok=True)
    return path


def load_edits(path: str | Path) -> tuple[Edit, ...]:
    """The edits that `save_edits` wrote. A `Patch` from a run comes back with its activations alone.

    Raises `FileNotFoundError` where a file is missing, and `ValueError` for one that says anything else than what
    `save_edits` writes, or whose tensors are not the ones that were saved.
    """
    path = _json_path(path)
    try:
        read = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except ValueError as error:
        raise ValueError(f"{path} holds no JSON: {error}") from None
    if not isinstance(read, dict) or read.get("format") != FORMAT:
        raise ValueError(f"{path} holds no edits: its format is not {FORMAT!r}.")
    if read.get("version") != VERSION:
        raise ValueError(f"{path} is of version {read.get('version')!r}, and this lenskit reads version {VERSION}.")
    if set(read) != {"format", "version", "edits", "tensors"} or not isinstance(read["edits"], list):
        raise ValueError(f"{path} must hold format, version, edits and tensors, and nothing else.")
    reading = _Reading(path, _tensors(path, read["tensors"]))
    edits = tuple(reading.edit(n, each) for n, each in enumerate(read["edits"]))
    if unused := sorted(set(reading.tensors) - reading.used):
        raise ValueError(f"{path}: no edit uses the tensor {unused[0]!r}.")
    return edits


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON.")


def _json_path(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".json":
        raise ValueError(f"edits are kept in a JSON file: say {path.name}.json rather than {path.name!r}.")
    return path


def _tensors(path: Path, digest: Any) -> dict[str, Tensor]:
    if digest is None:
        return {}
    beside = path.with_suffix(".safetensors")
    if not beside.is_file():
        raise FileNotFoundError(f"{path} needs its tensors, {beside.name}, beside it.")
    if sha256(beside) != digest:
        raise ValueError(f"{beside} does not hold the tensors that were saved with {path.name}: its SHA-256 differs.")
    try:
        return load_file(beside)
    except SafetensorError as error:
        raise ValueError(f"{beside} is no safetensors file: {error}") from None


# Writing


def _written(edit: Edit, prefix: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """An edit as plain data; its tensors are put among `tensors` under names that begin with the prefix."""
    if isinstance(edit, Call | Splice):
        raise TypeError(
            f"{edit!r} holds a function, which cannot be saved. Save the code that makes it, and the other edits."
        )
    if _KINDS.get(type(edit).__name__) is not type(edit):
        raise TypeError(f"{edit!r} is no edit of lenskit's own, and load_edits would not know it.")

    def named(name: str, tensor: Tensor) -> dict[str, str]:
        # A copy: tensors that share memory are not saved as they are.
        tensors[prefix + name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": prefix + name}

    made: dict[str, Any] = {"edit": type(edit).__name__}
    for each in fields(edit):
        value = getattr(edit, each.name)
        if value is None:
            continue
        if each.name == "source":
            made["source"] = _written_source(edit, named)  # pyright: ignore[reportArgumentType] -- a Patch
        elif each.name == "along":
            made["along"] = _written_along(value, named)
        elif each.name in _VALUES:
            made[each.name] = named(each.name, value) if isinstance(value, Tensor) else _number(value)
        elif each.name in _PLAIN:
            made[each.name] = _number(value) if each.name in _NUMBERS else value
        else:
            made[each.name] = _selector(value)
    return made


def _written_source(edit: Patch, named: Any) -> dict[str, Any]:
    source = edit.source
    if isinstance(source, Tensor):
        return named("source", source)
    source = _layers_of(edit)
    made: dict[str, Any] = {
        "layers": {
            "-" if layer is None else str(layer): named(f"source.{layer}", x) for layer, x in source.layers.items()
        }
    }
    if source.pos is not None:
        made["pos"] = _selector(source.pos)
    if source.moment is not None:
        made["moment"] = {name: getattr(source.moment, name) for name in _MOMENT}
        if source.moment.mask is not None:
            made["moment"]["mask"] = named("source.mask", source.moment.mask)
    return made


def _written_along(along: DirectionsByLayer, named: Any) -> dict[str, Any]:
    layers = {str(layer): named(f"along.{layer}", v) for layer, v in along.vectors.items()}
    return {"layers": layers} | {name: getattr(along, name) for name in _ALONG if name != "layers"}


def _layers_of(edit: Patch) -> Source:
    """The activations of the layers that a patch needs."""
    source = edit.source
    assert not isinstance(source, Tensor)
    if isinstance(source, Source):
        return source
    if isinstance(source, Mapping):
        return Source(source)
    store = source.kept.get(edit.site)
    if store is None:
        return Source({None: source[edit.site]})
    there = [layer for row, layer in enumerate(store.layers) if store.reached(row)]
    wanted = there if edit.layers is None else indices(edit.layers, store.depth, "layer")
    tensors: dict[int | None, Tensor] = {None: source[edit.site]} if not store.layers else {}
    tensors |= {layer: source[edit.site, layer] for layer in wanted}
    return Source(tensors, store.moment, store.how.pos)


def _selector(which: Which) -> Any:
    if isinstance(which, slice | range):
        return {type(which).__name__: [which.start, which.stop, which.step]}
    return which if isinstance(which, int) else list(which or ())


def _number(value: float) -> Any:
    return value if isinstance(value, int) or math.isfinite(value) else {"number": str(float(value))}


# Reading


class _Reading:
    """The file being read: what it says is checked before it is believed."""

    def __init__(self, path: Path, tensors: dict[str, Tensor]) -> None:
        self.path, self.tensors, self.used = path, tensors, set[str]()

    def edit(self, n: int, read: Any) -> Edit:
        """One edit. Raises `ValueError` for what `save_edits` never writes."""
        where = f"{self.path}, edit {n}"
        if not isinstance(read, dict) or not isinstance(read.get("edit"), str):
            raise ValueError(f"{where}: an edit says which it is, and this does not.")
        if read["edit"] not in _KINDS:
            raise ValueError(f"{where}: there is no edit {read['edit']!r} that can be loaded: {', '.join(_KINDS)} can.")
        kind = _KINDS[read["edit"]]
        own = {each.name: each for each in fields(kind)}
        if unknown := sorted(set(read) - {"edit"} - set(own)):
            raise ValueError(f"{where}: {kind.__name__} has no {unknown[0]!r}. It has {', '.join(own)}.")
        if missing := [name for name, each in own.items() if _is_needed(each) and name not in read]:
            raise ValueError(f"{where}: {kind.__name__} needs {missing[0]!r}.")
        values = {name: self._value(where, name, value) for name, value in read.items() if name != "edit"}
        try:
            return kind(**values)
        except (TypeError, ValueError, LookupError) as error:
            raise ValueError(f"{where}: {error}") from error

    def _value(self, where: str, name: str, read: Any) -> Any:
        where = f"{where}, {name}"
        if name == "source":
            return self._source(where, read)
        if name == "along":
            return self._along(where, read)
        if name in _VALUES:
            return self._tensor(where, read) if _is_reference(read) else _read_number(where, read)
        if name in _NUMBERS:
            return _read_number(where, read)
        if name in _PLAIN:
            if not isinstance(read, _PLAIN[name]) or (_PLAIN[name] is int and isinstance(read, bool)):
                raise ValueError(f"{where}: {read!r} is of the wrong type.")
            return read
        assert name in (*SELECTORS, "source_pos")
        return _read_selector(where, read)

    def _tensor(self, where: str, read: Any) -> Tensor:
        if not _is_reference(read) or read["tensor"] not in self.tensors:
            raise ValueError(f"{where}: {read!r} names no tensor that was saved.")
        self.used.add(read["tensor"])
        return self.tensors[read["tensor"]]

    def _source(self, where: str, read: Any) -> Tensor | Source:
        if _is_reference(read):
            return self._tensor(where, read)
        if (
            not isinstance(read, dict)
            or set(read) - {"layers", "moment", "pos"}
            or not isinstance(read.get("layers"), dict)
        ):
            raise ValueError(f"{where}: a source is a tensor, or has layers, and maybe a moment and pos.")
        layers = {self._layer(where, layer): self._tensor(where, each) for layer, each in read["layers"].items()}
        pos = _read_selector(where, read["pos"]) if "pos" in read else None
        return Source(layers, self._moment(where, read["moment"]) if "moment" in read else None, pos)

    def _along(self, where: str, read: Any) -> DirectionsByLayer:
        if not isinstance(read, dict) or read.keys() != _ALONG.keys():
            raise ValueError(f"{where}: directions have {', '.join(_ALONG)}.")
        for name, kind in _ALONG.items():
            if not isinstance(read[name], kind):
                raise ValueError(f"{where}, {name}: {read[name]!r} is of the wrong type.")
        ids, concepts = read["tokens"], read["concepts"]
        if not all(isinstance(each, list) and all(map(_is_whole, each)) for each in ids) or len(ids) != len(concepts):
            raise ValueError(f"{where}, tokens: for each concept the ids of its tokens, and not {ids!r}.")
        if not all(isinstance(each, str) for each in concepts) or not all(map(str.isdecimal, read["layers"])):
            raise ValueError(f"{where}: concepts are texts, and layers whole numbers.")
        vectors = {int(layer): self._tensor(where, each) for layer, each in read["layers"].items()}
        if not all(v.dim() == 2 and v.is_floating_point() for v in vectors.values()) or not vectors:
            raise ValueError(f"{where}: directions are (concept, d_model), in at least one layer.")
        how = {name: read[name] for name in ("lens", "scale", "folded", "centred")}
        try:
            return DirectionsByLayer(vectors, tuple(concepts), tuple(map(tuple, ids)), **how)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None

    def _layer(self, where: str, read: str) -> int | None:
        if read != "-" and not read.isdecimal():
            raise ValueError(f"{where}: {read!r} is no layer.")
        return None if read == "-" else int(read)

    def _moment(self, where: str, read: Any) -> Moment:
        if not isinstance(read, dict) or set(read) - {"mask"} != set(_MOMENT):
            raise ValueError(f"{where}: a moment has {', '.join(_MOMENT)}, and maybe a mask.")
        numbers = [read[name] for name in _MOMENT]
        if not all(_is_whole(number) and number >= 0 for number in numbers):
            raise ValueError(f"{where}: a moment is made of whole numbers.")
        mask = self._tensor(where, read["mask"]) if "mask" in read else None
        rows, before, length, step = numbers
        if mask is not None and tuple(mask.shape) != (rows, before + length):
            raise ValueError(f"{where}: the mask has shape {tuple(mask.shape)}, and not {(rows, before + length)}.")
        return Moment(mask, rows, before, length, step)


def _is_needed(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _is_whole(read: Any) -> bool:
    return isinstance(read, int) and not isinstance(read, bool)


def _is_reference(read: Any) -> bool:
    return isinstance(read, dict) and set(read) == {"tensor"} and isinstance(read["tensor"], str)


def _read_number(where: str, read: Any) -> float:
    if isinstance(read, dict) and set(read) == {"number"} and read["number"] in ("inf", "-inf", "nan"):
        return float(read["number"])
    if not isinstance(read, int | float) or isinstance(read, bool):
        raise ValueError(f"{where}: {read!r} is no number, nor the name of a tensor.")
    return read


def _read_selector(where: str, read: Any) -> Which:
    if _is_whole(read):
        return read
    if isinstance(read, list) and all(map(_is_whole, read)):
        return read
    if isinstance(read, dict) and len(read) == 1:
        ((kind, parts),) = read.items()
        if kind == "slice" and _are_parts(parts, none=True):
            return slice(*parts)
        if kind == "range" and _are_parts(parts, none=False) and parts[2] != 0:
            return range(*parts)
    raise ValueError(f"{where}: {read!r} is no index, list of indices, slice or range.")


def _are_parts(parts: Any, none: bool) -> bool:
    return isinstance(parts, list) and len(parts) == 3 and all(_is_whole(p) or (none and p is None) for p in parts)
