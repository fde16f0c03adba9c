"""Packages that only some tests need."""

import importlib
import os
from importlib.util import find_spec
from typing import Any

import pytest


def needs(package: str) -> Any:
    """The package. Where it is not installed the module's tests are skipped; in CI (CI=true) they fail instead."""
    if find_spec(package) is None:
        reason = f"{package} is not installed: pip install {package}, or scripts/setup.sh"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason, allow_module_level=True)
    return importlib.import_module(package)
