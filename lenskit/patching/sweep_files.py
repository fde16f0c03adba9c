"""Sweep files: a sweep on disk, as JSON with the arrays beside it in a safetensors file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from lenskit.artifacts import sha256, whole_file, write_json
from lenskit.patching.swept import Axis, Sweep

FORMAT, VERSION = "lenskit sweep", 1
_PLAIN = ("site", "metric", "direction", "engine", "why")
_KEYS = {"format", "version", "axes", "provenance", "arrays", *_PLAIN}


def save_sweep(sweep: Sweep, path: str | Path) -> Path:
    """What `Sweep.save` does. The JSON file comes last and holds the SHA-256 of the arrays' file."""
    path = _json_path(path)
    arrays = {
        "values": np.array(sweep.values),
        "exact": np.array(sweep.exact),
        "clean": np.array(sweep.clean, dtype=np.float64),
    }
    if sweep.corrupt is not None:
        arrays["corrupt"] = np.array(sweep.corrupt, dtype=np.float64)
    made: dict[str, Any] = {"format": FORMAT, "version": VERSION, "provenance": dict(sweep.provenance)}
    made |= {name: getattr(sweep, name) for name in _PLAIN}
    made["axes"] = [[axis.name, list(axis.ticks), list(axis.labels)] for axis in sweep.axes]
    beside = path.with_suffix(".safetensors")
    with whole_file(beside) as scratch:
        save_file(arrays, scratch)
        made["arrays"] = sha256(scratch)
    with whole_file(path) as scratch:
        write_json(scratch, made)
    return path


def load_sweep(path: str | Path) -> Sweep:
    """What `Sweep.load` does."""
    path = _json_path(path)
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} holds no JSON: {error}") from None
    if not isinstance(read, dict) or read.get("format") != FORMAT:
        raise ValueError(f"{path} holds no sweep: its format is not {FORMAT!r}.")
    if read.get("version") != VERSION:
        raise ValueError(f"{path} is of version {read.get('version')!r}, and this lenskit reads version {VERSION}.")
    if set(read) != _KEYS:
        raise ValueError(f"{path} must hold {', '.join(sorted(_KEYS))}, and nothing else.")
    arrays = _arrays(path, read["arrays"])
    try:
        axes = tuple(
            Axis(str(name), tuple(map(int, ticks)), tuple(map(str, labels))) for name, ticks, labels in read["axes"]
        )
        return Sweep(
            axes=axes,
            values=arrays["values"],
            exact=arrays["exact"],
            clean=arrays["clean"],
            corrupt=arrays.get("corrupt"),
            provenance=dict(read["provenance"]),
            **{name: read[name] for name in _PLAIN},
        )
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(f"{path} does not hold together: {error}") from error


def _json_path(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".json":
        raise ValueError(f"a sweep is kept in a JSON file: say {path.name}.json rather than {path.name!r}.")
    return path


def _arrays(path: Path, digest: Any) -> dict[str, np.ndarray]:
    beside = path.with_suffix(".safetensors")
    if not beside.is_file():
        raise FileNotFoundError(f"{path} needs its arrays, {beside.name}, beside it.")
    if sha256(beside) != digest:
        raise ValueError(f"{beside} does not hold the arrays that were saved with {path.name}: its SHA-256 differs.")
    try:
        return load_file(beside)
    except SafetensorError as error:
        raise ValueError(f"{beside} is no safetensors file: {error}") from None
