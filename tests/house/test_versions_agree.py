"""One truth about versions: bounds in pyproject.toml, exact pins in requirements/dev.txt."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lenskit
from tests.house.repository import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"==[\w.!]+", str(each.specifier)) for each in requirements), f"{name}: not exact"
    return {canonicalize_name(each.name): str(each.specifier)[2:] for each in requirements}


def dependencies() -> list[Requirement]:
    return [Requirement(text) for text in PROJECT["dependencies"]]


def test_the_version_is_written_twice_and_is_the_same() -> None:
    assert lenskit.__version__ == PROJECT["version"]


def test_every_dependency_has_a_lower_bound_and_a_pin_that_fits() -> None:
    pinned = pins("requirements/dev.txt")
    optional = [Requirement(text) for group in PROJECT["optional-dependencies"].values() for text in group]
    for each in dependencies() + [each for each in optional if each.name != "lenskit-interp"]:
        assert [bound.operator for bound in each.specifier] == [">="], each
        assert each.specifier.contains(pinned[canonicalize_name(each.name)]), each


def test_what_is_installed_is_what_is_pinned() -> None:
    installed = {}
    for name in pins("requirements/dev.txt"):
        try:
            installed[name] = version(name).partition("+")[0]
        except PackageNotFoundError:
            installed[name] = "not installed"
    assert installed == pins("requirements/dev.txt")


def needs_torch(requirement: Requirement) -> bool:
    own = [Requirement(text) for text in requires(requirement.name) or []]
    return requirement.name == "torch" or any(each.name == "torch" and each.marker is None for each in own)


def test_binder_first_installs_every_dependency_that_does_not_need_torch_at_its_pin() -> None:
    # What needs torch would bring its usual wheel, with CUDA; postBuild installs it after the small one.
    pinned = pins("requirements/dev.txt")
    wanted = {canonicalize_name(each.name) for each in dependencies() if not needs_torch(each)}
    assert len(wanted) < len(dependencies())
    assert pins("binder/requirements.txt") == {name: pinned[name] for name in wanted}
