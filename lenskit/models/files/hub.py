"""The Hugging Face hub and its cache: is a model there, and if not, why not?"""

from pathlib import Path, PurePosixPath
from typing import Any

from huggingface_hub import HfApi, constants, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id

# Seconds within which the hub must answer whether it has a model. Asked once and first, because what
# transformers does with a hub that is out of reach is to try each file again for 23 seconds.
PATIENCE = 10


class NotOnHub(Exception):
    """A name that is no model on the hub, as far as can be seen from here; the message is the reason."""


def cached_commit(name: str, options: dict[str, Any]) -> str | None:
    """The commit at which the Hugging Face cache has this model's configuration; None if it has none.

    The weights need not be there too. Raises `NotOnHub` for what cannot be a name on the hub.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise NotOnHub(f"not a name the Hugging Face hub could have: {error}") from error
    file = PurePosixPath(options.get("subfolder") or "") / "config.json"
    where = {key: options.get(key) for key in ("cache_dir", "revision")}
    found = try_to_load_from_cache(name, file.as_posix(), **where)
    if not isinstance(found, str):
        return None
    return Path(found).parents[len(file.parts) - 1].name  # .../snapshots/COMMIT/SUBFOLDER/config.json


def ask(name: str, options: dict[str, Any]) -> None:
    """Returns if the hub has this model for this user; raises `NotOnHub` if not, or if it cannot be asked."""
    where = f"{constants.ENDPOINT}/{name}"
    if is_offline_mode():
        raise NotOnHub("not looked for on the hub, which HF_HUB_OFFLINE switches off")
    if options.get("local_files_only"):
        raise NotOnHub("not looked for on the hub, as local_files_only=True asks")
    try:
        api = HfApi(token=options.get("token"))
        api.model_info(name, revision=options.get("revision"), timeout=PATIENCE)
    except GatedRepoError as error:
        raise NotOnHub(f"on the hub, but one must ask for access first, at {where}, and log in") from error
    except RevisionNotFoundError as error:
        raise NotOnHub(f"on the hub, but without the revision {options['revision']!r}") from error
    except RepositoryNotFoundError as error:
        raise NotOnHub(f"not on the hub: no model at {where}, or one that this user may not see") from error
    except HfHubHTTPError as error:
        raise NotOnHub(f"the hub answered with an error: {error}") from error
    except Exception as error:  # those of whichever HTTP library huggingface_hub uses; kept as the cause
        raise NotOnHub(f"the hub did not answer: {error} ({type(error).__name__})") from error


def cache_folder(options: dict[str, Any]) -> Path:
    """The Hugging Face cache that these options look into."""
    return Path(options.get("cache_dir") or constants.HF_HUB_CACHE)


def names_in_cache(options: dict[str, Any]) -> list[str]:
    """The names of the models of which anything is in the Hugging Face cache."""
    folders = cache_folder(options).glob("models--*")
    return sorted(folder.name.removeprefix("models--").replace("--", "/") for folder in folders)


def revisions_in_cache(name: str, options: dict[str, Any]) -> dict[str, str]:
    """The revisions of a model of which anything is in the Hugging Face cache, each with its commit.

    By branch or tag, and by the commit itself where neither leads to it. For the checkpoints of a training run:

    >>> revisions_in_cache("EleutherAI/pythia-70m", {})  # doctest: +SKIP
    {'main': 'a39f36b1...', 'step1000': '2ab25ed4...'}
    """
    folder = cache_folder(options) / f"models--{name.replace('/', '--')}"
    commits = sorted(path.name for path in (folder / "snapshots").glob("*"))
    files = sorted(path for path in (folder / "refs").rglob("*") if path.is_file())
    named = {path.relative_to(folder / "refs").as_posix(): path.read_text().strip() for path in files}
    found = {revision: commit for revision, commit in named.items() if commit in commits}
    return found | {commit: commit for commit in commits if commit not in found.values()}


def why_not_cached(name: str, options: dict[str, Any]) -> str:
    """What the cache has instead, in words."""
    there = list(revisions_in_cache(name, options))
    if not there:
        return f"not in {cache_folder(options)}"
    wanted = options.get("revision") or "main"
    shown = ", ".join(map(repr, there[:20])) + (f" and {len(there) - 20} more" if len(there) > 20 else "")
    return f"has no revision {wanted!r} of {name}, or not its config.json; it has {shown}"
