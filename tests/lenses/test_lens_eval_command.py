"""`lenskit lens eval`: from text files to numbers, a page and a table."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lenskit as lk
from lenskit.cli.app import app
from tests.models.tiny import tiny, tiny_tokenizer


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> lk.Model:
    made = lk.Model(tiny("llama", vocab=300), tiny_tokenizer(300), name="tiny")
    monkeypatch.setattr("lenskit.models.load.load", lambda name, **options: made)
    return made


def test_it_measures_and_writes(model: lk.Model, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The capital of France is Paris. " * 60)
    out = tmp_path / "eval"
    options = ["--tokens", "128", "--chunk", "32", "--transfer", "16", "--marginals"]
    done = CliRunner().invoke(app, ["lens", "eval", "tiny", str(text), "--out", str(out), *options])
    assert done.exit_code == 0, done.output
    read = json.loads((out / "aggregate_metrics.json").read_text())
    assert read["tokens"] == 128
    made = lk.LogitLens(model).evaluate(text.read_text(), tokens=128, chunk=32)
    assert read["metrics"]["logit"]["kl"]["layer_0"] == pytest.approx(made["logit"].kl[0], rel=1e-5)
    assert read["transfer"]["logit"]["tokens"] == 16
    assert sorted(path.name for path in out.iterdir()) == [
        "aggregate_metrics.json",
        "marginals.safetensors",
        "report.html",
    ]
    assert "Evaluation(logit lens on 128 tokens of tiny)" in done.output


def test_without_a_lens_there_is_nothing_to_measure(model: lk.Model, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["lens", "eval", "tiny", "text.txt", "--out", str(tmp_path), "--no-logit"])
    assert done.exit_code != 0
    assert "there is no lens to measure" in done.output
