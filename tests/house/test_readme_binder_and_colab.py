"""What the README, Binder and Colab promise: files that exist, scripts that can run, code that does what is said."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

import lenskit
from tests.house.repository import ROOT

BINDER = ROOT / "binder"
QUICKSTART = ROOT / "notebooks" / "01_quickstart.ipynb"


@pytest.mark.parametrize("script", ["postBuild", "start"])
def test_a_script_of_binder_can_be_executed_and_is_valid_bash(script: str) -> None:
    assert os.access(BINDER / script, os.X_OK)
    subprocess.run(["bash", "-n", str(BINDER / script)], check=True)


def test_binder_takes_a_python_that_lenskit_supports() -> None:
    assert (BINDER / "runtime.txt").read_text().strip() == "python-3.11"


def test_binder_takes_torch_from_the_index_of_cpu_wheels_only() -> None:
    post_build = (BINDER / "postBuild").read_text()
    assert "whl/cpu" in post_build
    assert "torch==" not in (BINDER / "requirements.txt").read_text()


def test_the_first_code_cell_of_the_quickstart_is_the_colab_cell_of_the_readme() -> None:
    cells = json.loads(QUICKSTART.read_text(encoding="utf-8"))["cells"]
    first = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert "google.colab" in first
    assert f"```python\n{first}\n```" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_file_that_the_readme_points_to_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pointed = re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r'src(?:set)?="([^":]+)"', text)
    assert any(name.endswith(".png") for name in pointed)
    assert [name for name in pointed if not (ROOT / name).exists()] == []


def test_the_code_of_the_readme_runs(demo: lenskit.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    [example] = [block for block in code if "lk.load" in block]
    monkeypatch.setattr(lenskit, "load", lambda name: demo if name == "demo" else pytest.fail(name))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["traj"].tokens(layer=-1, pos=-1)[0] == " Paris"
    assert (tmp_path / "table.html").stat().st_size > 10_000
