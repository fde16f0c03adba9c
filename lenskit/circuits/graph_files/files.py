"""Graph files: a graph on disk, as one safetensors file with its arrays and, in the header, all else as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from lenskit.artifacts import whole_file
from lenskit.circuits.graph import EDGE_ARRAYS, NODE_ARRAYS, Graph
from lenskit.circuits.graph_files.reading import layers, listed, named, parsed, reading, text, texts, whole, wholes
from lenskit.models.files.load_error import LoadError

FORMAT, VERSION = "lenskit graph", "1"
_ARRAYS = NODE_ARRAYS | EDGE_ARRAYS
_FIELDS = ("tokens", "pieces", "labels", "layers", "n_layers", "groups", "provenance")


def save_graph(graph: Graph, path: str | Path) -> Path:
    """What `Graph.save` does: the file is whole, or is not there."""
    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(
            f"a graph is kept in a safetensors file: say {path.name}.safetensors rather than {path.name!r}. What other "
            "viewers read is written by graph.to_json."
        )
    if not np.all(np.isfinite(graph.weight)) or not np.all(np.isfinite(graph.weights)):
        raise ValueError("an edge or a logit has a weight that is no number: nothing was written.")
    fields = {name: getattr(graph, name) for name in _FIELDS}
    fields |= {"groups": [[name, *of] for name, of in graph.groups.items()], "provenance": dict(graph.provenance)}
    header = {"format": FORMAT, "version": VERSION, "fields": json.dumps(fields, allow_nan=False)}
    with whole_file(path) as unfinished:
        save_file({name: np.array(getattr(graph, name)) for name in _ARRAYS}, unfinished, metadata=header)
    return path


def load_graph(path: str | Path) -> Graph:
    """What `Graph.load` does."""
    path = Path(path).expanduser()
    if path.suffix == ".json":
        from lenskit.circuits.graph_files.published import read_published

        return read_published(path)
    with reading(path):
        if not path.is_file():
            raise LoadError("there is no such file.")
        header, arrays = _opened(path)
        if header.get("format") != FORMAT:
            raise LoadError(f"its format is {header.get('format')!r}, not {FORMAT!r}.")
        if header.get("version") != VERSION:
            raise LoadError(f"it is of version {header.get('version')!r}, and this lenskit reads version {VERSION}.")
        return Graph(**arrays, **_fields(named(parsed(header["fields"]), "the header")))


def _opened(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """The header and the arrays. Raises `LoadError` for arrays that are not what a graph has."""
    with safe_open(path, framework="numpy") as file:
        header, names = file.metadata() or {}, set(file.keys())
        if header.get("format") == FORMAT and names != set(_ARRAYS):
            raise LoadError(f"it must hold the arrays {', '.join(_ARRAYS)}, and nothing else.")
        arrays = {name: file.get_tensor(name) for name in _ARRAYS} if names == set(_ARRAYS) else {}
    for name, array in arrays.items():
        if array.dtype != _ARRAYS[name] or array.ndim != 1:
            raise LoadError(f"{name} is {array.dtype} {array.shape}, and should be a list of {_ARRAYS[name]}.")
        if name in ("weight", "weights") and not np.all(np.isfinite(array)):
            raise LoadError(f"{name} holds what is no number.")
    return header, arrays


def _fields(given: dict[str, Any]) -> dict[str, Any]:
    if set(given) != set(_FIELDS):
        raise LoadError(f"its header must hold {', '.join(_FIELDS)}, and nothing else.")
    groups = dict[str, tuple[int, ...]]()
    for each in listed(given["groups"], "groups"):
        name, *of = listed(each, "a group")
        groups[text(name, "a group's name")] = wholes(of, "a group's nodes")
    return {
        "tokens": wholes(given["tokens"], "tokens", least=-1),
        "pieces": texts(given["pieces"], "pieces"),
        "labels": texts(given["labels"], "labels"),
        "layers": layers(given["layers"], "layers"),
        "n_layers": whole(given["n_layers"], "n_layers"),
        "groups": groups,
        "provenance": named(given["provenance"], "provenance"),
    }
