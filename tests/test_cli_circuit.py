"""`lenskit circuit` does what `attribute` does, and writes what `Graph` writes."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import lenskit as lk
from lenskit.circuits.attributing.asking import attribute
from lenskit.circuits.graph import LOGIT, Graph
from lenskit.cli.app import app
from lenskit.cli.circuit import _table
from lenskit.transcoders.activations import TopK
from lenskit.transcoders.transcoder import Transcoder
from tests.circuits.graphs import random_graph
from tests.models.tiny import tiny, tiny_tokenizer

PROMPT = "The keys are on the table and the"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and dictionaries of two of its layers."""
    folder = tmp_path_factory.mktemp("cli")
    tiny("llama", vocab=300, layers=3).save_pretrained(folder / "model")
    tiny_tokenizer(300).save_pretrained(folder / "model")
    for layer in (0, 2):
        noise = torch.Generator().manual_seed(layer)
        weights = [torch.randn(64, 32, generator=noise) / 32**0.5 for _ in range(2)]
        made = Transcoder(
            weights[0], None, weights[1], None, TopK(6), reads=("mlp_in", layer), writes=("mlp_out", layer)
        )
        made.save(folder / "dictionaries" / f"layer_{layer}.safetensors", lk.load(folder / "model"))
    return folder


def run(place: Path, *more: str, prompt: str = PROMPT) -> Any:
    return CliRunner().invoke(app, ["circuit", str(place / "model"), prompt, *more], env={"COLUMNS": "140"})


def shown(graph: Graph) -> list[str]:
    """The nodes in the order of the table."""
    order = np.argsort(-graph.influence, kind="stable")
    return [str(graph.nodes[n]) for n in order if graph.kind[n] != LOGIT and graph.influence[n] > 0][:20]


def same(one: Graph, other: Graph) -> None:
    assert [str(node) for node in one.nodes] == [str(node) for node in other.nodes]
    assert (one.labels, one.layers, one.pieces) == (other.labels, other.layers, other.pieces)
    np.testing.assert_array_equal(one.weight, other.weight)


def test_without_dictionaries_it_explains_by_neurons(place: Path, tmp_path: Path) -> None:
    done = run(place, "--features", "40", "--out", str(tmp_path / "a.safetensors"))
    assert done.exit_code == 0, done.output
    graph = attribute(lk.load(place / "model"), PROMPT, features=40)
    assert graph.layers == ("neurons",) * 3
    same(Graph.load(tmp_path / "a.safetensors"), graph)
    rows = [line.split("│")[1].strip() for line in done.stdout.splitlines() if line.startswith("│")]
    assert rows == shown(graph)
    for line, name in zip([line for line in done.stdout.splitlines() if line.startswith("│")], rows, strict=True):
        assert f"{graph.influence[graph.number(name)]:.3f}" in line
    assert repr(graph.pruned()) in done.stdout
    assert str(tmp_path / "a.safetensors") in done.stdout


def test_with_dictionaries_targets_and_files(place: Path, tmp_path: Path) -> None:
    model = lk.load(place / "model")
    folder = place / "dictionaries"
    one, two = (piece for piece in model.text.pieces([40, 41]) if isinstance(piece, str))
    files = ["--json", str(tmp_path / "a.json"), "--html", str(tmp_path / "a.html")]
    done = run(place, "-t", str(folder), "--target", one, "--versus", two, "--features", "30", *files)
    assert done.exit_code == 0, done.output
    graph = attribute(model, PROMPT, Transcoder.load_all(folder), one, versus=two, features=30)
    assert graph.layers == ("transcoder", "neurons", "transcoder")
    same(Graph.load(tmp_path / "a.json"), graph.pruned())
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "circuit" in page.lower()
    assert shown(graph)[0] in page


def test_what_the_model_reads_is_no_markup() -> None:
    """Brackets that rich would read as colours, or as the end of one that never began."""
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(_table(random_graph(0, pieces=("[/red]",) * 8, labels=("[bold]x", "[/]"))))
    text = console.export_text()
    assert "'[/red]'" in text
    assert "'[bold]x'" in text
    assert "'[/]'" in text


def test_several_targets(place: Path, tmp_path: Path) -> None:
    model = lk.load(place / "model")
    names = [piece for piece in model.text.pieces([40, 41, 42]) if isinstance(piece, str)]
    more = [each for name in names for each in ("--target", name)]
    done = run(place, *more, "--features", "8", "--out", str(tmp_path / "a.safetensors"))
    assert done.exit_code == 0, done.output
    assert Graph.load(tmp_path / "a.safetensors").labels == tuple(names)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--out", "a.json"], "a.json should end in .safetensors"),
        (["--json", "a.txt"], "a.txt should end in .json"),
        (["--versus", "a"], "--versus is compared with one target"),
        (["--versus", "a", "--target", "b", "--target", "c"], "--versus is compared with one target"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_computed(place: Path, options: list[str], says: str) -> None:
    done = run(place / "nowhere", *options)
    assert done.exit_code == 2
    assert says in done.output


def test_it_says_what_it_does() -> None:
    done = CliRunner().invoke(app, ["circuit", "--help"], env={"COLUMNS": "140"})
    for option in ("--transcoders", "--target", "--versus", "--features", "--json", "--out", "--html"):
        assert option in done.output
