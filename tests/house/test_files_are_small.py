"""One idea per file: a file that outgrows 400 lines holds more than one."""

from tests.house.repository import ROOT, committed_files

LIMIT = 400


def test_no_source_file_is_longer_than_the_limit() -> None:
    sources = committed_files("*.py", "*.ts", "*.mjs", "*.css", "*.sh")
    lengths = {path.relative_to(ROOT): path.read_text(encoding="utf-8").count("\n") for path in sources}
    assert lengths, "git lists no source files"
    assert {path: length for path, length in lengths.items() if length > LIMIT} == {}
