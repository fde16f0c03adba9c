"""Write Jane Austen's six novels (public domain) as text files: what the demo model's lens is trained and judged on.

They come in Debian's package r-cran-janeaustenr, in a file of R's lazy-load format that is read here without R.

    python scripts/austen.py FOLDER            # fetches the package with apt-get
    python scripts/austen.py FOLDER FILE.deb   # reads one that is there
"""

import re
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "r-cran-janeaustenr"
DATA = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
NOVELS = ("emma", "mansfield_park", "northanger_abbey", "persuasion", "pride_and_prejudice", "sense_and_sensibility")

# How R's serialisation writes one string: its type and flags, its length, and then its bytes.
STRING = re.compile(rb"\x00[\x04\x00]\x00\x09(....)", re.DOTALL)


def records(data: bytes) -> Iterator[bytes]:
    """The records of a lazy-load file: four bytes of length, then that many bytes, compressed."""
    at = 0
    while at + 4 < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        inflate = zlib.decompressobj()
        record = inflate.decompress(data[at + 4 :])
        if len(record) != length:
            raise ValueError(f"the record at byte {at} has {len(record)} bytes, and says {length}")
        yield record
        at = len(data) - len(inflate.unused_data)


def lines(record: bytes) -> list[str]:
    """The strings of a character vector, which are the lines of a novel."""
    found, at = [], 0
    while match := STRING.search(record, at):
        (length,) = struct.unpack(">i", match[1])
        at = match.end() + max(0, length)
        found.append(record[match.end() : at].decode())
    return found


def fetched(folder: Path) -> Path:
    """The package's file, fetched."""
    subprocess.run(["apt-get", "download", "-q", PACKAGE], cwd=folder, check=True)
    [package] = folder.glob("*.deb")
    return package


def main(folder: Path, package: Path | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run(["dpkg-deb", "-x", str(package or fetched(Path(scratch))), scratch], check=True)
        novels = [lines(record) for record in records((Path(scratch) / DATA).read_bytes())]
    novels = [novel for novel in novels if len(novel) > 1000]  # the package also holds its own names
    for name, novel in zip(NOVELS, novels, strict=True):
        text = "\n".join(novel) + "\n"
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
        print(f"{name}.txt: {len(novel):,} lines, {len(text):,} characters, begins {novel[0]!r}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:3]))
