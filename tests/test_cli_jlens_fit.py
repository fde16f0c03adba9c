"""`lenskit jlens fit` does what `JacobianLens.fit` does, from files to a file."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import lenskit as lk
from lenskit.cli.app import app
from lenskit.cli.jlens_fit import layers_of
from lenskit.data import documents_in
from lenskit.lenses.jacobian import JacobianLens
from tests.models.tiny import tiny, tiny_tokenizer

TEXT = "When Mary and John went to the store, John gave a drink to Mary. The keys are on the table.\n"
OPTIONS = ["--passages", "3", "--chunk", "12", "--skip-first", "2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and its texts."""
    folder = tmp_path_factory.mktemp("cli")
    tiny("llama", vocab=300, d_model=16).save_pretrained(folder / "model")
    tiny_tokenizer(300).save_pretrained(folder / "model")
    (folder / "a.txt").write_text(TEXT * 20)
    (folder / "b.jsonl").write_text("\n".join(json.dumps({"body": TEXT * 3}) for _ in range(10)))
    return folder


def run(place: Path, out: Path, *more: str) -> Any:
    """The command, on both files."""
    texts = [str(place / "a.txt"), str(place / "b.jsonl")]
    command = ["jlens", "fit", str(place / "model"), *texts, "--column", "body", "--out", str(out), *OPTIONS, *more]
    return CliRunner().invoke(app, command)


def fitted(place: Path, **how: Any) -> JacobianLens:
    """The same through the library."""
    documents = list(documents_in([place / "a.txt", place / "b.jsonl"], "body"))
    return JacobianLens.fit(lk.load(place / "model"), documents, passages=3, chunk=12, skip_first=2, **how)


def test_it_fits_what_the_library_fits(place: Path, tmp_path: Path) -> None:
    done = run(place, tmp_path / "lens.safetensors", "--keep", "float32")
    assert done.exit_code == 0, done.output
    written, lens = JacobianLens.load(lk.load(place / "model"), tmp_path / "lens.safetensors"), fitted(place)
    assert all(torch.equal(written.matrix(layer), lens.matrix(layer)) for layer in lens.layers)
    assert written.about == {"fit": lens.about["fit"] | {"corpus": "a.txt, b.jsonl"}}
    assert f"{tmp_path / 'lens.safetensors'}: " in done.output
    assert "passage 3 of 3: changed by" in done.output


def test_its_options_reach_the_fit(place: Path, tmp_path: Path) -> None:
    chosen = [
        "--layers",
        "1",
        "--source",
        "attn_out",
        "--source",
        "resid_post",
        "--corpus",
        "two files",
        "--at-once",
        "4",
    ]
    done = run(place, tmp_path / "lens.safetensors", *chosen, "--folder", str(tmp_path / "kept"))
    assert done.exit_code == 0, done.output
    lens = JacobianLens.load(lk.load(place / "model"), tmp_path / "lens.safetensors")
    assert lens.sources == ("resid_post", "attn_out")
    assert lens.layers == (1,)
    assert lens.about["fit"]["corpus"] == "two files"
    assert (tmp_path / "kept" / "jacobian_fit.safetensors").is_file()
    penultimate = run(place, tmp_path / "other.safetensors", "--target", "penultimate")
    assert penultimate.exit_code == 0, penultimate.output
    assert JacobianLens.load(lk.load(place / "model"), tmp_path / "other.safetensors").target == "penultimate"


def test_it_writes_the_reference_format_and_int8(place: Path, tmp_path: Path) -> None:
    assert run(place, tmp_path / "lens.pt").exit_code == 0
    assert "J" in torch.load(tmp_path / "lens.pt", weights_only=True)
    assert run(place, tmp_path / "small.safetensors", "--keep", "int8").exit_code == 0
    assert JacobianLens.inspect(tmp_path / "small.safetensors").dtype == "int8"


def test_an_approximate_fit_says_its_error(place: Path, tmp_path: Path) -> None:
    done = run(place, tmp_path / "lens.safetensors", "--probes", "4")
    assert done.exit_code == 0, done.output
    assert "approximate (4 probes): changed by" in done.output
    assert "standard error" in done.output


def test_what_could_not_be_written_is_refused_before_the_fit(place: Path, tmp_path: Path) -> None:
    for more in (["--keep", "int8"], ["--probes", "4", "--folder", str(tmp_path)]):
        done = run(place, tmp_path / "lens.pt", *more)
        assert done.exit_code == 2
        assert "fitting" not in done.output


def test_layers_are_said_one_by_one_or_from_to() -> None:
    assert layers_of("3,12-14") == [3, 12, 13, 14]


def test_its_help_is_there_without_torch() -> None:
    code = "import sys; from lenskit.cli.app import app; app(['jlens', 'fit', '--help'], standalone_mode=False); "
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"}
    )
    assert done.returncode == 0, done.stderr
    assert "--stop-below" in done.stdout
