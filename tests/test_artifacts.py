"""What is written to disk is whole, or it is not there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lenskit.artifacts import (
    cache_dir,
    only_one_process,
    scratch_folder,
    sha256,
    whole_folder,
    write_json,
)


def test_the_cache_is_where_LENSKIT_CACHE_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LENSKIT_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"
    assert not cache_dir().exists(), "asking where the cache is does not make it"


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/xdg"}, "/xdg/lenskit"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "~/.cache/lenskit"),
        ("linux", {}, "~/.cache/lenskit"),
        ("darwin", {}, "~/Library/Caches/lenskit"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/lenskit/Cache"),
    ],
)
def test_the_cache_is_otherwise_where_the_platform_keeps_caches(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], expected: str
):
    for name in ("LENSKIT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert cache_dir() == Path(expected).expanduser()


def test_sha256_is_that_of_the_bytes(tmp_path: Path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_whole_folder_appears_under_its_name_only_when_it_is_finished(tmp_path: Path):
    destination = tmp_path / "models" / "demo"
    with whole_folder(destination) as new:
        (new / "part").mkdir()
        (new / "part" / "weights").write_bytes(b"123")
        assert not destination.exists()
        assert new.stat().st_dev == tmp_path.stat().st_dev, "a rename is one step on one filesystem only"
    assert (destination / "part" / "weights").read_bytes() == b"123"
    assert [path.name for path in destination.parent.iterdir()] == ["demo"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_folder_that_fails_or_is_interrupted_leaves_nothing(tmp_path: Path, failure: type[BaseException]):
    def stopped_in_the_middle() -> None:
        with whole_folder(tmp_path / "demo") as new:
            (new / "weights").write_bytes(b"12")
            raise failure

    with pytest.raises(failure):
        stopped_in_the_middle()
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_overwritten(tmp_path: Path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "kept").touch()
    with pytest.raises(FileExistsError, match="nothing was changed"), whole_folder(tmp_path / "demo"):
        pass
    assert (tmp_path / "demo" / "kept").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no permission bits to widen")
def test_private_files_become_readable_as_the_umask_allows(tmp_path: Path):
    with whole_folder(tmp_path / "demo") as new:
        (new / "weights").touch(mode=0o600)
    assert (tmp_path / "demo" / "weights").stat().st_mode & 0o777 == (tmp_path / "demo").stat().st_mode & 0o666


def test_a_scratch_folder_is_gone_afterwards(tmp_path: Path):
    with scratch_folder(tmp_path / "demo") as scratch:
        (scratch / "download").touch()
        assert scratch.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleared_away_by_the_next(tmp_path: Path):
    destination = tmp_path / "demo"
    killed = """
import os, sys, pathlib
from lenskit.artifacts import only_one_process, whole_folder
destination = pathlib.Path(sys.argv[1])
with only_one_process(destination), whole_folder(destination) as new:
    (new / "half").write_text("half")
    os._exit(9)  # as if killed: no clean-up runs
"""
    assert subprocess.run([sys.executable, "-c", killed, str(destination)], check=False).returncode == 9
    assert not destination.exists()
    assert len(list(tmp_path.rglob("half"))) == 1
    with only_one_process(destination):  # and the dead process's lock does not hold the next one up
        assert list(tmp_path.rglob("half")) == []


def test_two_processes_that_want_the_same_folder_make_it_once(tmp_path: Path):
    destination = tmp_path / "demo"
    maker = """
import sys, time, pathlib
from lenskit.artifacts import only_one_process, whole_folder
destination = pathlib.Path(sys.argv[1])
with only_one_process(destination):
    if destination.exists():
        print("found")
    else:
        with whole_folder(destination) as new:
            (new / "weights").write_text("whole")
            time.sleep(0.5)  # long enough for the others to start and wait
        print("made")
"""
    command = [sys.executable, "-c", maker, str(destination)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = sorted(process.communicate(timeout=60)[0].strip() for process in running)
    assert said == ["found", "found", "made"]
    assert (destination / "weights").read_text() == "whole"


def test_json_is_written_the_same_each_time(tmp_path: Path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None], "a": "é日"})
    write_json(tmp_path / "b.json", {"a": "é日", "b": [1, 2.5, None]})
    assert json.loads((tmp_path / "a.json").read_text("utf-8")) == {"a": "é日", "b": [1, 2.5, None]}
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_no_torch_is_imported():
    code = "import sys, lenskit.artifacts; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
