"""`import lenskit` is quick, because torch, transformers and the widgets load when they are first used."""

import subprocess
import sys

import pytest

HEAVY = ["torch", "transformers", "anywidget", "ipywidgets", "plotly", "pandas"]


def loaded_after(statement: str) -> set[str]:
    """The names of all modules that a fresh interpreter holds after running the statement."""
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("package", HEAVY)
def test_importing_lenskit_does_not_load(package: str, loaded_by_lenskit: set[str]) -> None:
    assert "lenskit" in loaded_by_lenskit
    assert package not in loaded_by_lenskit


@pytest.fixture(scope="module")
def loaded_by_lenskit() -> set[str]:
    return loaded_after("import lenskit")


def test_importing_the_widgets_loads_neither_torch_nor_transformers() -> None:
    loaded = loaded_after("import lenskit.widgets.lens_table")
    assert "anywidget" in loaded
    assert not loaded & {"torch", "transformers"}


def test_every_public_name_is_found_by_dir_and_by_getattr() -> None:
    import lenskit

    assert set(dir(lenskit)) == set(lenskit.__all__)
    assert all(getattr(lenskit, name) is not None for name in lenskit.__all__)


def test_an_unknown_name_is_an_attribute_error_that_lists_what_there_is() -> None:
    import lenskit

    with pytest.raises(AttributeError, match=r"no attribute 'Modle'\. It has: .*Model"):
        lenskit.Modle  # noqa: B018
