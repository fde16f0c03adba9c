"""A graph's own file: one safetensors file with all that it is, written whole or not at all, and never believed."""

import json
import random
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from lenskit.circuits.graph import Graph
from lenskit.models.files.load_error import LoadError
from tests.circuits.graphs import random_graph
from tests.circuits.hostile import MUTATIONS, VALUES, refused_of
from tests.circuits.same import assert_same
from tests.circuits.test_pruning import chain


@given(st.integers(0, 10**6))
def test_what_is_saved_is_read_back_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    path = tmp_path_factory.getbasetemp() / "graph.safetensors"
    graph = random_graph(seed, nodes=40, edges=90, tokens=5, groups={"</script>": (0, 7), "": (9,)})
    assert graph.save(path) == path
    assert_same(Graph.load(path), graph)


def test_an_empty_graph_and_a_pruned_one_come_back(tmp_path: Path) -> None:
    for graph in (random_graph(0).pruned(), chain().keeping(np.zeros(4, dtype=bool))):
        assert_same(Graph.load(graph.save(tmp_path / "a.safetensors")), graph)


def test_texts_of_any_kind_come_back(tmp_path: Path) -> None:
    pieces = ('"<b>\\', "\ud83d", "\x00\u2028", "日本\n", "'", "]]>", "{}", "&amp;")
    graph = random_graph(0, pieces=pieces, labels=("</script>", "\ud800"), provenance={"ä": [1, {"b": None}]})
    assert_same(Graph.load(graph.save(tmp_path / "a.safetensors")), graph)


def test_a_file_takes_the_place_of_another_in_one_step(tmp_path: Path) -> None:
    path = random_graph(0).save(tmp_path / "a.safetensors")
    before = path.read_bytes()
    with pytest.raises(TypeError):
        random_graph(1, provenance={"what": object()}).save(path)
    assert path.read_bytes() == before
    random_graph(1).save(path)
    assert_same(Graph.load(path), random_graph(1))
    assert [each.name for each in tmp_path.iterdir()] == ["a.safetensors"]


def test_the_suffix_is_said_and_numbers_are_numbers(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"say a\.json\.safetensors rather than 'a\.json'.*graph\.to_json"):
        chain().save(tmp_path / "a.json")
    with pytest.raises(ValueError, match="weight that is no number"):
        replace(chain(), weight=np.array([1, np.nan, 2])).save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())


# Files that are not what they should be


def saved(
    folder: Path, arrays: dict[str, Any] | None = None, header: dict[str, Any] | None = None, **fields: Any
) -> Path:
    """A file as `save` writes it, with some of it given otherwise; None leaves out."""
    path = random_graph(0, groups={"a": (1, 2)}).save(folder / "graph.safetensors")
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    about = json.loads(content[8 : 8 + size])["__metadata__"]
    given = json.loads(about["fields"]) | fields
    about["fields"] = json.dumps({name: value for name, value in given.items() if value is not None})
    about |= header or {}
    tensors = load_file(path) | (arrays or {})
    save_file(
        {name: value for name, value in tensors.items() if value is not None},
        path,
        metadata={name: value for name, value in about.items() if value is not None},
    )
    return path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"header": {"format": "lenskit transcoder 1"}}, "its format is 'lenskit transcoder 1', not 'lenskit graph'"),
        ({"header": {"format": None}}, "its format is None"),
        ({"header": {"version": "2"}}, "of version '2', and this lenskit reads version 1"),
        ({"header": {"fields": None}}, "fields"),
        ({"header": {"fields": "[" * 200_000}}, r"RecursionError|JSONDecodeError"),
        ({"header": {"fields": "{"}}, "JSONDecodeError"),
        ({"header": {"fields": "[]"}}, "the header should hold values by name"),
        ({"arrays": {"size": None}}, "it must hold the arrays kind, layer"),
        ({"arrays": {"more": np.zeros(3)}}, "and nothing else"),
        ({"arrays": {"weight": np.zeros(200, np.float32)}}, "weight is float32"),
        ({"arrays": {"weight": np.full(200, np.inf)}}, "weight holds what is no number"),
        ({"arrays": {"weights": np.full(60, np.nan)}}, "weights holds what is no number"),
        ({"arrays": {"pos": np.zeros((60, 1), np.int32)}}, r"pos is int32 \(60, 1\)"),
        ({"arrays": {"source": np.full(200, 60, np.int32)}}, "source names nodes that are not there"),
        ({"arrays": {"value": np.zeros(59)}}, r"value is \(59,\), and should be \(60,\)"),
        ({"tokens": ["a"]}, r"tokens\[0\] should be a whole number from -1, and is 'a'"),
        ({"tokens": [True]}, r"tokens\[0\] should be a whole number"),
        ({"tokens": [1] * 7}, "7 tokens with 8 pieces"),
        ({"pieces": [1] * 8}, r"pieces\[0\] should be a text"),
        ({"labels": "ab"}, "labels should be a list"),
        ({"layers": ["sae"] * 6}, "layers names 'sae'"),
        ({"n_layers": 10**7}, "10000000 layers, and what 6 are made of"),
        ({"n_layers": 2.0}, "n_layers should be a whole number"),
        ({"groups": [["a", 60]]}, "group 'a' names nodes that are not there"),
        ({"groups": [[]]}, "ValueError"),
        ({"groups": {"a": [1]}}, "groups should be a list"),
        ({"provenance": []}, "provenance should hold values by name"),
        ({"provenance": None}, "its header must hold tokens"),
        ({"more": 1}, "and nothing else"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    path = saved(tmp_path, **changes)
    with pytest.raises(LoadError, match=says) as raised:
        Graph.load(path)
    assert str(path) in str(raised.value)


def test_numbers_that_json_has_not_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, provenance={"a": float("nan")})
    with pytest.raises(LoadError, match="it holds NaN, which is no JSON"):
        Graph.load(path)


def test_other_files_and_none_are_refused(tmp_path: Path) -> None:
    for name, content in {"a.safetensors": b"", "b.safetensors": b"\xff" * 100, "c.pt": b"\x80\x04."}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(LoadError, match="cannot be read as a graph"):
            Graph.load(tmp_path / name)
    for name in ("none.safetensors", "none.json", "", "a\0b"):
        with pytest.raises(LoadError, match=r"no such file|null byte|cannot be read"):
            Graph.load(tmp_path / name)


def mutate(content: bytes, rng: random.Random) -> bytes:
    """A file in one of the ways in which files go wrong, or are made to."""
    way, data = rng.randrange(5), bytearray(content)
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    if way == 0:
        return content[: rng.randrange(len(content))]
    if way == 1:
        for _ in range(rng.choice([1, 3, 20])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        return bytes(data)
    if way == 2:
        for _ in range(rng.choice([1, 8])):  # the arrays
            data[rng.randrange(8 + size, len(data))] = rng.randrange(256)
        return bytes(data)
    if way == 3:
        tensor = header[rng.choice([name for name in header if name != "__metadata__"])]
        shape = rng.choice([[10**6, 10**6], [2**62, 4], [0], [-1], [], [1] * 400, [60, 1], "F32"])
        tensor[rng.choice(["shape", "data_offsets", "dtype"])] = shape
    else:
        fields = json.loads(header["__metadata__"]["fields"])
        inner: Any = fields
        while inner:
            key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
            if not isinstance(inner[key], dict | list) or rng.random() < 0.4:
                inner[key] = rng.choice(VALUES)
                break
            inner = inner[key]
        header["__metadata__"]["fields"] = json.dumps(fields)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + size :]


def test_mutated_files_give_a_clear_error_or_a_graph_that_can_be_asked(tmp_path: Path) -> None:
    rng, path = random.Random(12), tmp_path / "some.safetensors"
    graph = random_graph(0, nodes=30, edges=60, tokens=4, groups={"a": (1, 2), "b": (8,)})
    content = graph.save(tmp_path / "whole.safetensors").read_bytes()
    refused = refused_of(lambda: path.write_bytes(mutate(content, rng)), path)
    assert 300 < refused < MUTATIONS
