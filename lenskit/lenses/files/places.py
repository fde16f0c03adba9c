"""Where a tuned lens lies: in lenskit itself, in a file or folder, in the Hugging Face cache or on the hub."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from huggingface_hub import hf_hub_download, is_offline_mode, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from lenskit.lenses.files.published import CONFIG, PARAMS
from lenskit.models.files.load_error import LoadError

REPO, REPO_TYPE = "AlignmentResearch/tuned-lens", "space"
SUBFOLDER = "lens"


def find(
    where: str | Path,
    model: str,
    *,
    repo: str | None = None,
    repo_type: str | None = None,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
) -> Path:
    """The `.safetensors` file, or the folder in tuned-lens's format, that `where` means for the model of this name.

    Raises `LoadError` with the list of what was tried.
    """
    if where == "demo":
        return Path(str(files("lenskit.lenses") / "demo" / "smollm2-135m-instruct.safetensors"))
    path = Path(where).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return _within(path, model)
    if isinstance(where, Path) or path.suffix == ".safetensors":
        raise LoadError(f"There is no lens at {path}: nothing is there.")
    # As tuned-lens itself does it, the environment may name another repository.
    repo = repo or os.environ.get("TUNED_LENS_REPO_ID") or REPO
    kind = repo_type or os.environ.get("TUNED_LENS_REPO_TYPE") or REPO_TYPE
    return _on_hub(where, repo, kind, revision, cache_dir)


def _within(folder: Path, model: str) -> Path:
    """A folder that is a lens, holds one file that is, or is laid out as the hub's, with a folder for each model."""
    tried = [folder, folder / SUBFOLDER / model, folder / model]
    for each in tried:
        if (each / CONFIG).is_file() and (each / PARAMS).is_file():
            return each
    own = sorted(folder.glob("*.safetensors"))
    if len(own) == 1:
        return own[0]
    there = ", ".join(sorted(each.name for each in folder.iterdir())[:8]) or "nothing"
    raise LoadError(
        f"{folder} holds no lens of {model}: it needs {CONFIG} and {PARAMS}, there or in {SUBFOLDER}/{model}, or one "
        f".safetensors file; it has {there}."
    )


def _on_hub(name: str, repo: str, kind: str, revision: str | None, cache_dir: str | Path | None) -> Path:
    tried = [f"a file or folder: there is none at {Path(name).expanduser().absolute()}"]
    names = [f"{SUBFOLDER}/{name}/{file}" for file in (CONFIG, PARAMS)]
    try:
        validate_repo_id(name)
        cached = [try_to_load_from_cache(repo, n, cache_dir, revision, repo_type=kind) for n in names]
        if all(isinstance(file, str) for file in cached):
            return Path(str(cached[0])).parent
        tried.append(f"the Hugging Face cache: it has no {names[0]} and {PARAMS} of the {kind} {repo}")
        if is_offline_mode():
            raise LoadError(_not_found(name, [*tried, "not looked for on the hub, which HF_HUB_OFFLINE switches off"]))
        paths = [
            hf_hub_download(repo, n, repo_type=kind, revision=revision, cache_dir=cache_dir, etag_timeout=10)
            for n in names
        ]
    except HFValidationError as error:
        raise LoadError(_not_found(name, [*tried, f"not a name the hub could have: {error}"])) from error
    except EntryNotFoundError as error:
        raise LoadError(_not_found(name, [*tried, f"the {kind} {repo} has no {names[0]}"])) from error
    except (HfHubHTTPError, OSError) as error:
        if isinstance(error, LoadError):
            raise
        raise LoadError(_not_found(name, [*tried, f"the hub, at {repo}: {error}"])) from error
    return Path(paths[0]).parent


def _not_found(name: str, tried: list[str]) -> str:
    lines = "".join(f"\n  - {line}" for line in tried)
    return (
        f"No tuned lens {name!r} was found.{lines}\nFit one in a minute or two with TunedLens.fit(model, texts); the "
        'demo model has one, TunedLens.load(model, "demo").'
    )
