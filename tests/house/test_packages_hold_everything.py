"""What a user installs holds every file of the package, the built front-ends among them, and nothing else."""

import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.house.repository import ROOT, committed_files


def built(target: str, folder: Path) -> Path:
    """The wheel or sdist of this working tree, built by hatchling without a network."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return next(folder.iterdir())


def package_files() -> set[str]:
    return {str(path.relative_to(ROOT)) for path in committed_files("lenskit")}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(built("wheel", tmp_path_factory.mktemp("wheel")))


def test_the_wheel_holds_the_package_and_only_the_package(wheel: zipfile.ZipFile) -> None:
    assert {name for name in wheel.namelist() if ".dist-info/" not in name} == package_files()


def test_the_wheel_holds_the_front_ends_and_the_marker_of_types(wheel: zipfile.ZipFile) -> None:
    assert {"lenskit/widgets/static/lens_table.js", "lenskit/py.typed"} <= set(wheel.namelist())


def test_the_wheel_says_its_name_its_licence_and_its_python(wheel: zipfile.ZipFile) -> None:
    [metadata] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    said = Parser().parsestr(wheel.read(metadata).decode())
    assert said["Name"] == "lenskit-interp"
    assert said["License-Expression"] == "Apache-2.0"
    assert said["Requires-Python"] == ">=3.11"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel.namelist())


def test_the_sdist_holds_the_package_too(tmp_path: Path) -> None:
    with tarfile.open(built("sdist", tmp_path)) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert package_files() | {"LICENSE", "README.md", "pyproject.toml"} <= inside
