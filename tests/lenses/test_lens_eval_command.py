"""`lenskit lens eval`: from text files to numbers, a page and a table."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import lenskit as lk
from lenskit.cli.app import app
from lenskit.lenses.evaluate import evaluate
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
    done = CliRunner().invoke(
        app, ["lens", "eval", "tiny", str(text), "--out", str(out), *options], env={"COLUMNS": "80"}
    )
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
    row = next(line.split() for line in done.output.splitlines() if line.split()[:1] == ["logit"])
    shown = made["logit"]
    numbers = (shown.ce, shown.kl, shown.entropy, shown.accuracy, shown.agreement)
    assert row[3:8] == [f"{each[0]:.3f}" for each in numbers]  # whole, in a terminal of usual width


def test_without_a_lens_there_is_nothing_to_measure(model: lk.Model, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["lens", "eval", "tiny", "text.txt", "--out", str(tmp_path), "--no-logit"])
    assert done.exit_code != 0
    assert "there is no lens to measure" in done.output


def test_lenses_of_every_kind_are_measured_side_by_side(model: lk.Model, tmp_path: Path) -> None:
    fitted = lk.JacobianLens.fit(model, torch.arange(1, 65), chunk=32, skip_first=4)
    fitted.save(tmp_path / "j.safetensors")
    lk.TunedLens(model).save(tmp_path / "t.safetensors")
    (tmp_path / "text.txt").write_text("The capital of France is Paris. " * 60)
    j, t, out = (str(tmp_path / name) for name in ("j.safetensors", "t.safetensors", "eval"))
    options = ["--tokens", "128", "--chunk", "32", "-o", out, "-j", j, "-l", t, "-j", j]
    done = CliRunner().invoke(app, ["lens", "eval", "tiny", str(tmp_path / "text.txt"), *options])
    assert done.exit_code == 0, done.output
    read = json.loads((tmp_path / "eval" / "aggregate_metrics.json").read_text())["metrics"]
    assert read.keys() == {"baseline", "logit", "tuned", "jacobian 1", "jacobian 2"}
    assert read["jacobian 1"] == read["jacobian 2"]
    made = evaluate({"j": fitted}, (tmp_path / "text.txt").read_text(), tokens=128, chunk=32)
    assert read["jacobian 1"]["kl"]["layer_0"] == pytest.approx(made["j"].kl[0], rel=1e-4)
