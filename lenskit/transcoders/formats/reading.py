"""Reading what others wrote: whatever is wrong with a file becomes one clear error, and nothing is allocated for it."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError

import yaml
from safetensors import SafetensorError

from lenskit.models.files.load_error import LoadError
from lenskit.models.identity import ModelMismatch
from lenskit.models.sites import SiteUnavailable

# What Python, numpy, torch and safetensors raise for broken files.
_BROKEN = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    RecursionError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
    yaml.YAMLError,
    SafetensorError,
    UnpicklingError,
)


@contextmanager
def reading(where: Path | str) -> Generator[None]:
    """Whatever goes wrong in reading becomes a `LoadError` that names the file; other refusals stay what they are."""
    try:
        yield
    except LoadError as error:
        if str(where) in str(error):
            raise
        raise LoadError(f"{where} cannot be read as a dictionary: {error}") from error
    except (ModelMismatch, SiteUnavailable):
        raise
    except _BROKEN as error:
        raise LoadError(f"{where} cannot be read as a dictionary: {error} ({type(error).__name__})") from error
