"""Floor 0: safe reading and writing of what lenskit keeps on disk.

What is written appears whole or not at all, under its final name, so that nothing half-written is ever taken
for the real thing. Only data is written and read: JSON here, safetensors where there are tensors.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

SCRATCH = ".scratch"


def cache_dir() -> Path:
    """Where lenskit keeps what it fetched or made: `$LENSKIT_CACHE`, or else the platform's cache folder.

    That is `$XDG_CACHE_HOME/lenskit` or `~/.cache/lenskit` on Linux, `~/Library/Caches/lenskit` on macOS and
    `%LOCALAPPDATA%\\lenskit\\Cache` on Windows. The folder is not created here.

    >>> cache_dir().name in ("lenskit", "Cache") or "LENSKIT_CACHE" in os.environ
    True
    """
    if chosen := os.environ.get("LENSKIT_CACHE"):
        return Path(chosen).expanduser().absolute()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "lenskit" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "lenskit"
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification says that a relative path is to be ignored.
    return (Path(xdg) if os.path.isabs(xdg) else Path.home() / ".cache") / "lenskit"


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def only_one_process(destination: Path) -> Generator[None]:
    """Waits until no other process is making `destination`, and keeps the others waiting meanwhile.

    The operating system lets go of the lock when its holder dies, however it dies. So whoever holds it knows
    that any scratch folder of `destination` was abandoned, and takes it away.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(destination.parent / f".{destination.name}.lock"):
        for abandoned in destination.parent.glob(f".{destination.name}.*{SCRATCH}"):
            shutil.rmtree(abandoned)
        yield


@contextmanager
def scratch_folder(destination: Path) -> Generator[Path]:
    """An empty folder beside `destination`, on the same filesystem, that is gone when the block ends."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{destination.name}."
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=prefix, suffix=SCRATCH) as folder:
        yield Path(folder)


@contextmanager
def whole_folder(destination: Path) -> Generator[Path]:
    """A new folder to write into: it becomes `destination` when the block ends, and vanishes if it fails.

    The change of name is one step, so `destination` is never there in part; and what was written reaches the
    disk before the name does. Raises `FileExistsError` if `destination` exists.
    """
    if destination.exists():
        raise FileExistsError(f"{destination} exists already; nothing was changed.")
    with scratch_folder(destination) as scratch:
        # A folder inside, because the scratch folder itself is for this user's eyes only.
        folder = scratch / destination.name
        folder.mkdir()
        yield folder
        for path in folder.rglob("*"):
            if path.is_file():
                # safetensors makes its files private; a cache may be shared, as far as the user's umask
                # allows.
                path.chmod(folder.stat().st_mode & 0o666)
                _flush_to_disk(path)
        folder.rename(destination)


@contextmanager
def whole_file(destination: Path) -> Generator[Path]:
    """A path to write a file to: it becomes `destination` when the block ends, and vanishes if it fails.

    It takes the place of an older file in one step, and what was written reaches the disk before the name does.
    """
    with scratch_folder(destination) as scratch:
        # A folder inside, because the scratch folder itself is for this user's eyes only.
        folder = scratch / "new"
        folder.mkdir()
        path = folder / destination.name
        yield path
        path.chmod(folder.stat().st_mode & 0o666)
        _flush_to_disk(path)
        path.replace(destination)


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file with sorted keys, so that the same value always gives the same bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _flush_to_disk(path: Path) -> None:
    with open(path, "rb+") as file:
        os.fsync(file.fileno())
