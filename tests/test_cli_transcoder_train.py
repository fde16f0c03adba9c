"""`lenskit transcoder train` does what `Transcoder.train_all` does, from files to files."""

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
from lenskit.cli.transcoder_train import _layers
from lenskit.data import documents_in
from lenskit.transcoders.transcoder import Transcoder
from tests.models.tiny import tiny, tiny_tokenizer

TEXT = "When Mary and John went to the store, John gave a drink to Mary. The keys are on the table.\n"
OPTIONS = ["--chunk", "16", "--batch", "64", "--features", "48", "--k", "4", "--epochs", "2"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and its text."""
    folder = tmp_path_factory.mktemp("cli")
    tiny("llama", vocab=300).save_pretrained(folder / "model")
    tiny_tokenizer(300).save_pretrained(folder / "model")
    (folder / "a.txt").write_text(TEXT * 60)
    return folder


def run(place: Path, out: Path, layers: str, *more: str) -> Any:
    command = ["transcoder", "train", str(place / "model"), str(place / "a.txt"), "--layers", layers, "--out", str(out)]
    return CliRunner().invoke(app, [*command, *OPTIONS, *more], env={"COLUMNS": "80"})


def test_it_trains_what_the_library_trains(place: Path, tmp_path: Path) -> None:
    done = run(place, tmp_path / "tcs", "0,2", "--skip")
    assert done.exit_code == 0, done.output
    model = lk.load(place / "model")
    made = Transcoder.train_all(
        model,
        list(documents_in([place / "a.txt"])),
        [0, 2],
        length=16,
        batch=64,
        n_features=48,
        k=4,
        epochs=2,
        skip=True,
    )
    written = Transcoder.load_all(tmp_path / "tcs", model)
    assert [str(each.reads) for each in written] == ["mlp_in.0", "mlp_in.2"]
    for a, b in zip(written, made, strict=True):
        assert torch.equal(a.W_dec, b.W_dec)
        assert a.about == b.about
        assert b.history is not None
        look = b.history.looks[-1]
        for number in (f"{look.explained:.3f}", f"{b.history.linear:.3f}", f"{look.recovered:.1%}"):
            assert f" {number} " in done.stdout
    assert "…" not in done.stdout  # nothing is cut in a terminal of usual width
    assert str(tmp_path / "tcs") in done.stdout


def test_its_options_reach_the_training(place: Path, tmp_path: Path) -> None:
    chosen = ["--reads", "resid_post", "--writes", "resid_post", "--kind", "jumprelu", "--sparsity", "0.02"]
    chosen += ["--lr", "0.01", "--warmup", "0.2", "--decay", "0.4", "--revival", "ghost gradients", "--seed", "3"]
    done = run(place, tmp_path / "sae.safetensors", "1", *chosen, "--dead-after", "500", "--tokens", "960")
    assert done.exit_code == 0, done.output
    sae = Transcoder.load(tmp_path / "sae.safetensors")
    recipe = {"activation": "jumprelu", "sparsity": 0.02, "lr": 0.01, "warmup": 0.2, "decay": 0.4, "skip": False}
    recipe |= {"revival": "ghost gradients", "seed": 3, "dead_after": 500, "n_features": 48, "batch": 64}
    assert {name: sae.about["recipe"][name] for name in recipe} == recipe
    assert sae.is_sae
    assert 0 < sae.about["tokens"] <= 960


def test_it_goes_on_from_a_checkpoint_and_finds_kept_activations(place: Path, tmp_path: Path) -> None:
    more = ["--folder", str(tmp_path / "kept"), "--cache", str(tmp_path / "activations")]
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert run(place, first, "1", *more).exit_code == 0
    assert list((tmp_path / "activations").glob("*.safetensors"))
    assert run(place, second, "1", *more).exit_code == 0
    assert torch.equal(Transcoder.load(first).W_enc, Transcoder.load(second).W_enc)
    refused = run(place, second, "1", *more, "--lr", "0.5")
    assert isinstance(refused.exception, ValueError)
    assert "its dictionaries are others" in str(refused.exception)


def test_it_writes_small_files_and_says_so_where_no_text_was_held_out(place: Path, tmp_path: Path) -> None:
    done = run(place, tmp_path / "tc.safetensors", "1", "--keep", "int8", "--held-out", "0")
    assert done.exit_code == 0, done.output
    assert done.stdout.count(" none ") == 3
    assert (tmp_path / "tc.safetensors").stat().st_size < 48 * 32 * 4 * 2


@pytest.mark.parametrize(("said", "meant"), [("15", [15]), ("3,1", [1, 3]), ("4-6", [4, 5, 6]), ("1,4-5", [1, 4, 5])])
def test_layers_are_said_as_numbers_and_ranges(said: str, meant: list[int]) -> None:
    assert _layers(said) == meant


@pytest.mark.parametrize("layers", ["none", "1,2"])
def test_what_could_not_be_done_is_refused_before_the_training(place: Path, tmp_path: Path, layers: str) -> None:
    done = run(place, tmp_path / "one.safetensors", layers)
    assert done.exit_code == 2
    assert "training" not in done.output


def test_its_help_is_there_without_torch() -> None:
    code = "import sys; from lenskit.cli.app import app; "
    code += "app(['transcoder', 'train', '--help'], standalone_mode=False); assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"}
    )
    assert done.returncode == 0, done.stderr
    assert "--look-every" in done.stdout
