"""Where a dictionary lies: a file or folder, the Hugging Face cache, or the hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, is_offline_mode, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from lenskit.models.files.load_error import LoadError
from lenskit.transcoders.demo_dictionaries import demo_path


def find(where: str | Path, revision: str | None = None) -> Path:
    """The path that is meant: one of this machine, or `"org/repo/folder"` of the hub, or what comes with lenskit.

    Of the hub only the files of that one folder are fetched. Raises `LoadError` with what was tried.
    """
    if isinstance(where, str) and (comes_with_lenskit := demo_path(where)) is not None:
        return comes_with_lenskit
    path = Path(where).expanduser()
    if path.exists() or isinstance(where, Path) or path.is_absolute():
        return path
    parts = where.strip("/").split("/")
    if len(parts) < 2 or ".." in parts:
        raise LoadError(
            f"There is no dictionary at {path.absolute()}, and {where!r} is no place on the hub (org/repo/folder)."
        )
    repo, inside = "/".join(parts[:2]), "/".join(parts[2:])
    tried = [f"a file or folder: there is none at {path.absolute()}"]
    try:
        validate_repo_id(repo)
        cached = Path(snapshot_download(repo, revision=revision, local_files_only=True)) / inside
        if cached.exists():
            return cached
        tried.append(f"the Hugging Face cache: it has {repo}, without {inside}")
    except HFValidationError as error:
        raise LoadError(_not_found(where, [*tried, f"not a name the hub could have: {error}"])) from error
    except LocalEntryNotFoundError:
        tried.append(f"the Hugging Face cache: it has nothing of {repo}")
    if is_offline_mode():
        raise LoadError(_not_found(where, [*tried, "not looked for on the hub, which HF_HUB_OFFLINE switches off"]))
    try:
        return _fetched(repo, inside, revision)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise LoadError(_not_found(where, [*tried, f"the hub, at {repo}: {error}"])) from error


def _fetched(repo: str, inside: str, revision: str | None) -> Path:
    there = HfApi().list_repo_tree(repo, path_in_repo=inside or None, revision=revision)
    names = [each.path for each in there if isinstance(each, RepoFile)]
    paths = [Path(hf_hub_download(repo, name, revision=revision)) for name in names]
    if not paths:
        raise LoadError(f"{repo} has no files in {inside or 'its root'}: name the folder of one dictionary.")
    return paths[0].parent


def _not_found(where: str, tried: list[str]) -> str:
    return f"No dictionary {where!r} was found.{''.join(f'{chr(10)}  - {line}' for line in tried)}"
