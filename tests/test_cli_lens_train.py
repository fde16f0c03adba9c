"""`lenskit lens train` does what `TunedLens.train` does, from files to a file."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

import lenskit as lk
from lenskit.cli.app import app
from lenskit.data import documents_in
from lenskit.lenses.tuned import TunedLens
from tests.models.tiny import tiny, tiny_tokenizer

TEXT = "When Mary and John went to the store, John gave a drink to Mary. The keys are on the table.\n"
OPTIONS = ["--chunk", "16", "--tokens-per-step", "64", "--steps", "4", "--start-tokens", "256"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and its texts."""
    folder = tmp_path_factory.mktemp("cli")
    tiny("llama", vocab=300).save_pretrained(folder / "model")
    tiny_tokenizer(300).save_pretrained(folder / "model")
    (folder / "a.txt").write_text(TEXT * 20)
    (folder / "b.jsonl").write_text("\n".join(json.dumps({"body": TEXT * 3}) for _ in range(10)))
    return folder


def run(place: Path, out: Path, *more: str) -> Any:
    """The command, on both files."""
    texts = [str(place / "a.txt"), str(place / "b.jsonl")]
    command = ["lens", "train", str(place / "model"), *texts, "--column", "body", "--out", str(out), *OPTIONS, *more]
    return CliRunner().invoke(app, command)


def test_it_trains_what_the_library_trains(place: Path, tmp_path: Path) -> None:
    done = run(place, tmp_path / "lens.safetensors")
    assert done.exit_code == 0, done.output
    model = lk.load(place / "model")
    documents = list(documents_in([place / "a.txt", place / "b.jsonl"], "body"))
    lens = TunedLens.train(model, documents, chunk=16, tokens_per_step=64, steps=4, start_tokens=256)
    written = TunedLens.load(model, tmp_path / "lens.safetensors")
    assert torch.equal(written.translators.whole().weight, lens.translators.whole().weight)
    assert written.about == lens.about
    assert f"{tmp_path / 'lens.safetensors'}: " in done.output
    assert str(lens.history) in done.output


def test_its_options_reach_the_training(place: Path, tmp_path: Path) -> None:
    chosen = ["--loss", "ce", "--optimizer", "sgd", "--lr", "0.5", "--layers", "0,2", "--bias-only", "--clip", "0"]
    chosen += ["--start", "identity", "--accumulate", "2", "--token-shift", "2", "--weight-decay", "0.1", "--seed", "3"]
    done = run(place, tmp_path / "lens.safetensors", *chosen, "--warmup", "1")
    assert done.exit_code == 0, done.output
    about = TunedLens.load(lk.load(place / "model"), tmp_path / "lens.safetensors").about
    recipe = {"loss": "ce", "optimizer": "sgd", "lr": 0.5, "layers": [0, 2], "bias_only": True, "clip": None}
    recipe |= {"accumulate": 2, "token_shift": 2, "weight_decay": 0.1, "seed": 3, "warmup": 1}
    assert {name: about["train"][name] for name in recipe} == recipe
    assert about["start"] == "identity"


def test_it_goes_on_from_a_lens_and_from_a_checkpoint(place: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    assert run(place, first, "--folder", str(tmp_path / "kept")).exit_code == 0
    assert run(place, second, "--folder", str(tmp_path / "kept")).exit_code == 0
    assert torch.equal(load_file(first)["weight"], load_file(second)["weight"])
    assert run(place, second, "--start", str(first)).exit_code == 0
    assert not torch.equal(load_file(first)["weight"], load_file(second)["weight"])


@pytest.mark.parametrize(("dtype", "kind"), [("float16", torch.float16), ("int8", torch.int8)])
def test_it_writes_a_small_lens(place: Path, tmp_path: Path, dtype: str, kind: torch.dtype) -> None:
    done = run(place, tmp_path / "lens.safetensors", "--keep", dtype)
    assert done.exit_code == 0, done.output
    assert load_file(tmp_path / "lens.safetensors")["weight"].dtype == kind
    assert run(place, tmp_path / "low.safetensors", "--keep", dtype, "--rank", "4").exit_code == 0
    assert load_file(tmp_path / "low.safetensors")["left"].shape == (3, 32, 4)


def test_it_writes_what_tuned_lens_reads(place: Path, tmp_path: Path) -> None:
    assert run(place, tmp_path / "lens").exit_code == 0
    assert sorted(path.name for path in (tmp_path / "lens").iterdir()) == ["config.json", "params.pt"]


def test_what_could_not_be_written_is_refused_before_the_training(place: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    for more in (["--keep", "float16"], ["--keep", "int8"]):
        done = run(place, tmp_path / ("there" if "float16" in more else "new"), *more)
        assert done.exit_code == 2
        assert "training" not in done.output
    assert not (tmp_path / "new").exists()


def test_a_tracker_of_accelerate_hears_of_every_step(place: Path, tmp_path: Path) -> None:
    import accelerate.tracking as tracking

    heard: list[tuple[int, dict[str, float]]] = []

    class Hears(tracking.GeneralTracker):
        name, requires_logging_directory = "hears", False

        def __init__(self) -> None:
            super().__init__(_blank=True)

        @property
        def tracker(self) -> None:
            return None

        def log(self, values: dict[str, float], step: int | None = None, **_: Any) -> None:
            heard.append((step or 0, values))

    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, log_with=Hears())
    accelerator.init_trackers("test")
    model = lk.load(place / "model")
    lens = TunedLens.train(model, TEXT * 20, chunk=16, tokens_per_step=64, steps=3, accelerator=accelerator)
    assert [step for step, _ in heard] == [1, 2, 3]
    assert lens.history is not None
    assert math.isclose(heard[2][1]["loss/mean"], lens.history.nats[2])
    assert set(heard[0][1]) == {"loss/mean", "lr", "bits per byte", "loss/layer 0", "loss/layer 1", "loss/layer 2"}


def test_its_help_is_there_without_torch() -> None:
    code = "import sys; from lenskit.cli.app import app; app(['lens', 'train', '--help'], standalone_mode=False); "
    code += "assert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"COLUMNS": "100"}
    )
    assert done.returncode == 0, done.stderr
    assert "--tokens-per-step" in done.stdout
