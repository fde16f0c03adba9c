"""The files of this repository as a clone would have them: what git tracks or would track when added."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def committed_files(*patterns: str) -> list[Path]:
    """Paths that match any of the git patterns ("*.py", "widgets/"), or all of them; absolute, existing."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    return sorted(path for path in paths if path.is_file())
