"""A clone works anywhere: it holds no build product but the front-ends, no machine's path, no registry."""

import json
import re
from pathlib import Path

import pytest

from tests.house.repository import ROOT, committed_files

BUILD_PRODUCT = re.compile(r"(^|/)(node_modules|__pycache__|\.venv|\.ipynb_checkpoints|dist|build)/|\.(whl|pyc|log)$")
PICKLES = {".bin", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}
PICTURES = {".gif", ".ico", ".jpg", ".png", ".webp"}
WEIGHTS = {".safetensors"}

# In two halves, so that this file does not name what it looks for.
HOSTS = [
    a + b
    for a, b in [
        ("pypi.", "org"),
        ("files.python", "hosted.org"),
        ("registry.np", "mjs.org"),
        ("download.py", "torch.org"),
        ("deb.deb", "ian.org"),
    ]
]
MAY_NAME_A_HOST = {ROOT / "binder" / "postBuild"}  # Binder must not take the wheel with gigabytes of CUDA
A_MACHINES_PATH = re.compile(r"(?<![\w.])/(work|root|home/\w+|Users/\w+)/")


# Lenses as tuned-lens 0.2.0 and TransformerLens 4.3.0 saved them themselves, which is what our readers have to read:
# torch's format, of plain tensors.
FIXTURES = ROOT / "tests" / "lenses" / "fixtures"
PUBLISHED = {FIXTURES / "tuned_lens_0_2_0" / "lens" / "params.pt", FIXTURES / "transformer_lens_4_3_0" / "lens.pt"}


def texts() -> list[Path]:
    found = [path for path in committed_files() if path.suffix not in PICTURES | WEIGHTS and path not in PUBLISHED]
    assert found, "git lists no files"
    return found


def test_no_build_product_is_committed() -> None:
    names = [str(path.relative_to(ROOT)) for path in committed_files()]
    assert [name for name in names if BUILD_PRODUCT.search(name)] == []


def test_no_pickle_is_committed() -> None:
    assert [path for path in committed_files() if path.suffix in PICKLES and path not in PUBLISHED] == []


def test_the_lock_of_the_front_ends_names_no_place_to_fetch_from() -> None:
    lock = json.loads((ROOT / "widgets" / "package-lock.json").read_text())
    assert lock["packages"]
    assert [name for name, package in lock["packages"].items() if "resolved" in package] == []


def test_no_file_names_the_host_of_a_package_index() -> None:
    naming = {path for path in texts() if any(host in path.read_text(encoding="utf-8") for host in HOSTS)}
    assert naming - MAY_NAME_A_HOST == set()


def test_no_file_names_a_path_of_one_machine() -> None:
    assert [path for path in texts() if A_MACHINES_PATH.search(path.read_text(encoding="utf-8"))] == []


NOTEBOOKS = committed_files("notebooks/*.ipynb")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_names_the_kernel_that_every_python_has(path: Path) -> None:
    # With another one, or none, JupyterLab stops at a dialogue before the reader sees anything.
    metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    assert metadata["kernelspec"]["name"] == "python3"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_a_notebook_carries_no_widget_state_and_no_times_of_its_run(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert "widgets" not in notebook["metadata"]
    assert [cell["id"] for cell in notebook["cells"] if "execution" in cell["metadata"]] == []
