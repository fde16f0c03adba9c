"""Reading graphs: whatever is wrong with a file, or with a value in it, becomes one clear error."""

from __future__ import annotations

import json
import math
import reprlib
import struct
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from lenskit.models.files.load_error import LoadError

LARGEST = 1 << 53  # beyond it, other readers of JSON round whole numbers
WIDEST = 1e200  # so that no sum of numbers overflows
_LONGEST = 1000
# What Python, numpy and safetensors raise for broken files.
_BROKEN = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    struct.error,
    SafetensorError,
)


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Whatever goes wrong in reading becomes a `LoadError` that names the file."""
    try:
        yield
    except _BROKEN as error:
        kind = "" if isinstance(error, LoadError) else f" ({type(error).__name__})"
        said = str(error) if len(str(error)) < _LONGEST else f"{str(error)[:_LONGEST]} ..."  # it may quote the file
        raise LoadError(f"{path} cannot be read as a graph: {said}{kind}") from error


def parsed(given: str | bytes) -> Any:
    """What a JSON text holds. Raises `ValueError` for what is no JSON, as NaN and Infinity are none."""

    def refuse(constant: str) -> None:
        raise ValueError(f"it holds {constant}, which is no JSON")

    return json.loads(given, parse_constant=refuse)


def whole(value: Any, what: str, least: int = 0) -> int:
    """A whole number. Raises `LoadError`, as all of these do, with what was found instead."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < LARGEST:
        raise LoadError(f"{what} should be a whole number from {least}, and is {reprlib.repr(value)}.")
    return value


def number(value: Any, what: str) -> float:
    """A number that is one; nan for null."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < WIDEST:
        raise LoadError(f"{what} should be a number or null, and is {reprlib.repr(value)}.")
    return float(value)


def text(value: Any, what: str) -> str:
    """A text."""
    if not isinstance(value, str):
        raise LoadError(f"{what} should be a text, and is {reprlib.repr(value)}.")
    return value


def listed(value: Any, what: str) -> list[Any]:
    """A list."""
    if not isinstance(value, list):
        raise LoadError(f"{what} should be a list, and is {reprlib.repr(value)}.")
    return value


def texts(value: Any, what: str) -> tuple[str, ...]:
    """A list of texts."""
    return tuple(text(each, f"{what}[{n}]") for n, each in enumerate(listed(value, what)))


def wholes(value: Any, what: str, least: int = 0) -> tuple[int, ...]:
    """A list of whole numbers."""
    return tuple(whole(each, f"{what}[{n}]", least) for n, each in enumerate(listed(value, what)))


def named(value: Any, what: str) -> dict[str, Any]:
    """Values by name."""
    if not isinstance(value, dict):
        raise LoadError(f"{what} should hold values by name, and is {reprlib.repr(value)}.")
    return value


def layers(value: Any, what: str) -> tuple[str, ...]:
    """What the features of each layer are."""
    found = texts(value, what)
    if wrong := set(found) - {"transcoder", "neurons", "none"}:
        raise LoadError(f"{what} names {reprlib.repr(min(wrong))}: a layer has transcoder, neurons or none.")
    return found
