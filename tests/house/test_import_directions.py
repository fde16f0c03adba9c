"""A room imports only from lower floors, and rooms on one floor do not import each other.

So that one can understand, test and replace a room without the rooms above it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.house.imports import Import, imports_of
from tests.house.repository import ROOT

LENSKIT = ROOT / "lenskit"

FLOORS = {
    "artifacts": 0,
    "curves": 0,
    "data": 0,
    "largest": 0,
    "processes": 0,
    "row_products": 0,
    "models": 1,
    "lenses": 2,
    "patching": 2,
    "transcoders": 2,
    "circuits": 3,
    "widgets": 4,
    "cli": 5,
    "__main__": 6,
}
JUPYTER = {"IPython", "anywidget", "ipykernel", "ipywidgets", "jupyter_client", "jupyterlab", "notebook"}
ENGINES = {"torch", "transformers"}


def room_of(module: str) -> str | None:
    """The room of a module by its dotted name; None for the façade `lenskit` and for other packages."""
    parts = module.split(".")
    return parts[1] if parts[0] == "lenskit" and len(parts) > 1 and parts[1] in FLOORS else None


def all_imports(package: Path) -> Iterator[tuple[str | None, Import]]:
    for path in sorted(package.rglob("*.py")):
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for each in imports_of(path, package):
            yield room_of(module), each


def climbing_imports(package: Path) -> list[str]:
    """Imports from a higher floor, or from another room on the same floor, or of the façade from inside."""
    found = []
    for room, each in all_imports(package):
        if room is None or each.module.split(".")[0] != "lenskit":
            continue
        target = room_of(each.module)
        if target is None:
            found.append(f"{each}: from inside, import the module itself and not the façade")
        elif target != room and FLOORS[target] >= FLOORS[room]:
            found.append(f"{each}: {room} is on floor {FLOORS[room]}, {target} on floor {FLOORS[target]}")
    return found


def jupyter_in_the_core(package: Path) -> list[str]:
    """Imports of Jupyter's packages anywhere below the widgets' floor, also inside functions."""
    return [
        str(each)
        for room, each in all_imports(package)
        if each.module.split(".")[0] in JUPYTER and FLOORS.get(room or "", 0) < FLOORS["widgets"]
    ]


def engines_in_the_widgets(package: Path) -> list[str]:
    """Imports of torch or transformers that happen when a widget module is loaded."""
    return [
        str(each)
        for room, each in all_imports(package)
        if room == "widgets" and each.on_load and each.module.split(".")[0] in ENGINES
    ]


RULES = [climbing_imports, jupyter_in_the_core, engines_in_the_widgets]


def test_every_room_has_a_floor() -> None:
    rooms = {path.stem for path in LENSKIT.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} <= FLOORS.keys()


@pytest.mark.parametrize("rule", RULES)
def test_the_house_keeps_the_rule(rule: Callable[[Path], list[str]]) -> None:
    assert rule(LENSKIT) == []


PLANTED = [
    (climbing_imports, "models/run.py", "from lenskit.lenses.lens import LogitLens"),
    (climbing_imports, "models/run.py", "from ..lenses import lens"),
    (climbing_imports, "models/run.py", "def later():\n    import lenskit.widgets.lens_table"),
    (climbing_imports, "models/run.py", "from lenskit import lenses"),
    (climbing_imports, "models/run.py", "import lenskit"),
    (climbing_imports, "lenses/lens.py", "from lenskit.patching.sweeps import sweep"),
    (
        climbing_imports,
        "artifacts.py",
        "try:\n    from lenskit.models import load\nexcept ImportError:\n    pass",
    ),
    (jupyter_in_the_core, "lenses/lens.py", "def show():\n    from IPython.display import display"),
    (jupyter_in_the_core, "__init__.py", "import anywidget"),
    (engines_in_the_widgets, "widgets/lens_table.py", "import torch"),
    (engines_in_the_widgets, "widgets/lens_table.py", "from transformers.cache_utils import DynamicCache"),
]
ALLOWED = [
    ("lenses/lens.py", "from lenskit.models.model import Model\nfrom .trajectory import Trajectory"),
    (
        "circuits/graph.py",
        "from lenskit.transcoders.transcoder import Transcoder\nimport lenskit.patching.sweeps",
    ),
    ("widgets/lens_table.py", "import anywidget\ndef read():\n    import torch"),
    (
        "widgets/lens_table.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\nelse:\n    pass",
    ),
    ("__init__.py", "from lenskit.models.load import load"),
]


def plant(package: Path, where: str, code: str) -> None:
    (package / where).parent.mkdir(parents=True, exist_ok=True)
    (package / where).write_text(code)


@pytest.mark.parametrize(("rule", "where", "code"), PLANTED)
def test_a_planted_violation_is_found(rule: Callable[[Path], list[str]], where: str, code: str, tmp_path: Path) -> None:
    plant(tmp_path / "lenskit", where, code)
    assert len(rule(tmp_path / "lenskit")) == 1


@pytest.mark.parametrize(("where", "code"), ALLOWED)
def test_what_is_allowed_is_not_reported(where: str, code: str, tmp_path: Path) -> None:
    plant(tmp_path / "lenskit", where, code)
    assert [found for rule in RULES for found in rule(tmp_path / "lenskit")] == []
