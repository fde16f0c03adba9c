"""The committed bundles are what their sources build to, small, and import nothing."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.widgets.view import ROOT, STATIC

FRONT = ROOT / "widgets"
VIEWS = (
    *("attention_view", "circuit_graph", "circuit_panel"),
    *("feature_browser", "lens_panel", "lens_table", "patch_grid"),
)
NAMES = sorted(["host.js", *(f"{view}{end}" for view in VIEWS for end in (".css", ".js"))])


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    node = shutil.which("node")
    if node is None or not (FRONT / "node_modules" / "esbuild").exists():
        reason = "no node or no node_modules here: install Node 20 and run npm ci in widgets/"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("static")
    subprocess.run([node, "build.mjs", str(folder)], cwd=FRONT, check=True, capture_output=True)
    return folder


def test_the_committed_bundles_are_what_their_sources_build_to(rebuilt: Path):
    names = sorted(file.name for file in rebuilt.iterdir())
    assert names == NAMES
    for name in names:
        assert (STATIC / name).read_bytes() == (rebuilt / name).read_bytes(), f"{name} is stale: run `make front`"


def test_the_committed_bundles_are_all_there_is():
    assert sorted(file.name for file in STATIC.iterdir()) == NAMES


def test_a_bundle_imports_nothing_and_asks_for_nothing():
    for file in STATIC.iterdir():
        text = file.read_text(encoding="utf-8")
        reaching = r"""\bimport\s*["'{*]|\bfrom\s*["']|@import|url\(|fetch\(|XMLHttpRequest"""
        assert not re.search(reaching, text), file.name
        assert set(re.findall(r"https?://[^\"'`\s)]+", text)) <= {"http://www.w3.org/2000/svg"}, file.name


def test_a_bundle_never_parses_html():
    sources = [file for folder in ("shared", *VIEWS) for file in FRONT.glob(f"{folder}/*.ts")]
    for file in [*STATIC.glob("*.js"), *sources]:
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser", text), file.name


def test_each_view_is_small():
    for view in VIEWS:
        assert (STATIC / f"{view}.js").stat().st_size < 60_000
    assert (STATIC / "host.js").stat().st_size < 2_500


def test_the_lock_file_names_no_registry():
    assert '"resolved"' not in (FRONT / "package-lock.json").read_text(encoding="utf-8")
