"""Published graphs that are broken, or made to do harm: a clear error at once, or a graph whose text is plain text."""

import json
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lenskit.circuits.graph_files import published_reading
from lenskit.circuits.graph_files.published import read_published
from lenskit.models.files.load_error import LoadError
from tests.circuits.graphs import random_graph
from tests.circuits.hostile import MUTATIONS, VALUES, refused_of
from tests.circuits.published_files import foreign, read, written


def change(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def fn(given: Any) -> None:
        for name in path[:-1]:
            given = given[name]
        given[path[-1]] = to

    return fn


def again(name: str, place: int) -> Callable[[dict[str, Any]], None]:
    return lambda given: given[name].append(dict(given[name][place]))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (change("nodes", to={}), "nodes should be a list"),
        (change("nodes", 0, to=[1]), "a node should hold values by name"),
        (change("nodes", 0, "node_id", to="0_5_1_1"), "'0_5_1_1' is no name of a node"),
        (change("nodes", 0, "node_id", to="0_٥_1"), "'0_٥_1' is no name of a node"),
        (change("nodes", 0, "layer", to="7"), "node '0_5_1' stands in layer 7 at position 1"),
        (change("nodes", 0, "layer", to="-1"), "layer of node '0_5_1' should be a whole number"),
        (change("nodes", 0, "ctx_idx", to=10**7), "stands in layer 0 at position 10000000"),
        (change("nodes", 2, "ctx_idx", to=10**7), "position that the prompt does not have"),
        (change("nodes", 0, "feature_type", to="<script>"), "of the kind '<script>', and known are embedding"),
        (change("nodes", 0, "activation", to="4"), "activation of node '0_5_1' should be a number or null"),
        (change("nodes", 0, "activation", to=1e300), "should be a number or null"),
        (change("nodes", 0, "clerp", to=None), "clerp of node '0_5_1' should be a text"),
        (change("nodes", 3, "layer", to="0"), "the embedding 'E_2_0' stands in layer 0"),
        (again("nodes", 0), "node '0_5_1' is there twice"),
        (again("links", 0), "from 'E_2_0' to '0_5_1' is there twice"),
        (change("nodes", 5, "layer", to="10000001"), "its logits stand in different layers, 27 and 10000001"),
        (change("links", 0, "source", to="1_1_1"), "names a node that is not there: '1_1_1'"),
        (change("links", 0, "weight", to=None), "has no weight"),
        (change("links", 0, "weight", to="nan"), "should be a number or null, and is 'nan'"),
        (change("links", 2, to={"source": "24_5_2", "target": "0_5_1", "weight": 1}), "not above its own"),
        (
            change("links", 2, to={"source": "E_2_0", "target": "3_-1_2", "weight": 1}),
            "an error, which nothing reaches",
        ),
        (change("qParams", "supernodes", to=[["a", "1_1_1"]]), "the supernode 'a' names a node that is not there"),
        (change("qParams", "supernodes", to=[[["a"]]]), "should be a text"),
        (change("qParams", to=None), "qParams should hold values by name"),
        (change("metadata", "prompt_tokens", to=["a", 1]), r"metadata.prompt_tokens\[1\] should be a text"),
        (change("metadata", "prompt_tokens", to="<bos>"), "metadata.prompt_tokens should be a list"),
        (change("metadata", "lenskit", to={"version": 2}), "metadata.lenskit is of version 2"),
        (change("metadata", "lenskit", to={"version": 1}), "n_layers should be a whole number"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, harm: Callable[[dict[str, Any]], None], says: str) -> None:
    given = foreign()
    harm(given)
    with pytest.raises(LoadError, match=says) as raised:
        read(tmp_path, given)
    assert str(tmp_path / "foreign.json") in str(raised.value)


def test_what_a_file_announces_is_not_made(tmp_path: Path) -> None:
    """Ten million layers, nodes or tokens that are only named."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    many = foreign()
    for each in many["nodes"][5:]:
        each["layer"], each["node_id"] = "10000001", each["node_id"].replace("27_", "10000001_")
    many["links"] = []
    with pytest.raises(LoadError, match="logits stand in layer 10000001, with features in 25 layers"):
        read(tmp_path, many)
    own = written(random_graph(0), tmp_path)
    own["metadata"]["lenskit"]["n_layers"] = 10**7
    with pytest.raises(LoadError, match="10000000 layers, and what 6 are made of"):
        read(tmp_path, own)
    absent: dict[str, Any] = foreign() | {
        "links": [{"source": f"0_{n}_0", "target": "27_900_2", "weight": 1} for n in range(10**5)]
    }
    absent["metadata"]["n_nodes"] = 10**7
    with pytest.raises(LoadError, match="names a node that is not there: '0_0_0'"):
        read(tmp_path, absent)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 150_000  # kilobytes


@pytest.mark.parametrize(
    "content",
    [
        "", "[]", "null", "{", "\0", "[" * 10**6, '{"metadata":' * 10**5, "1" * 10**5, '{"metadata": NaN}',
        '{"metadata": {}, "qParams": {}, "nodes": [], "links": -Infinity}',
    ],
)  # fmt: skip
def test_what_is_no_graph_at_all_is_refused_at_once(tmp_path: Path, content: str) -> None:
    with pytest.raises(LoadError, match=r"foreign\.json cannot be read as a graph"):
        read(tmp_path, content)
    (tmp_path / "a.json").write_bytes(b"\xff\xfe{\xd8")
    with pytest.raises(LoadError):
        read_published(tmp_path / "a.json")


def test_numbers_too_large_are_refused(tmp_path: Path) -> None:
    for number in ("1" + "0" * 400, "1e999", "-1e999", "9" * 5000):
        text = json.dumps(foreign()).replace('"weight": 3.0', f'"weight": {number}')
        with pytest.raises(LoadError):
            read(tmp_path, text)


def test_a_file_that_is_too_long_is_not_opened(tmp_path: Path) -> None:
    with (tmp_path / "foreign.json").open("wb") as file:
        file.truncate(published_reading.MOST_BYTES * 2)  # a hole: it takes no space
    with pytest.raises(LoadError, match="it has 537 MB, and at most 268 are read: prune it first"):
        read_published(tmp_path / "foreign.json")


def mutate(given: Any, rng: random.Random) -> str:
    """A valid file with something changed, somewhere."""
    if rng.random() < 0.1:
        text = json.dumps(given)
        return text[: rng.randrange(len(text))]
    for _ in range(rng.choice([1, 1, 1, 4])):
        inner = given
        while isinstance(inner, dict | list) and inner:
            key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
            if not isinstance(inner[key], dict | list) or not inner[key] or rng.random() < 0.25:
                harm = rng.randrange(4)
                if harm == 0:
                    del inner[key]
                elif harm == 1 and isinstance(inner, list):
                    inner.append(inner[key])
                else:
                    inner[key] = rng.choice(VALUES)
                break
            inner = inner[key]
    return json.dumps(given)


@pytest.mark.parametrize("whose", ["ours", "another's"])
def test_mutated_files_give_a_clear_error_or_a_graph_of_plain_text(tmp_path: Path, whose: str) -> None:
    rng, path = random.Random(whose), tmp_path / "some.json"
    ours = written(random_graph(0, nodes=20, edges=40, tokens=3, groups={"<script>": (1, 9)}), tmp_path)
    text = json.dumps(ours if whose == "ours" else foreign())
    refused = refused_of(lambda: path.write_text(mutate(json.loads(text), rng)), path)
    assert 200 < refused < MUTATIONS - 100
