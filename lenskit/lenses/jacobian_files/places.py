"""Where a Jacobian lens lies: in lenskit itself, in a file or folder, in the Hugging Face cache or on the hub."""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, is_offline_mode, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from lenskit.models.files.load_error import LoadError

REPO = "neuronpedia/jacobian-lens"
ENDINGS = (".pt", ".safetensors", ".npz")
DEMO = "smollm2-135m-instruct-jacobian.safetensors"


def find(
    where: str | Path | None, model: str, *, revision: str | None = None, cache_dir: str | Path | None = None
) -> Path:
    """The file that `where` means for the model of this name.

    A folder or repository that is laid out as Neuronpedia's, with a folder for each model and corpus, is searched for
    `<model>_jacobian_lens.pt`. Raises `LoadError` with the list of what was tried, or of what there is to choose from.
    """
    if where == "demo":
        return Path(str(files("lenskit.lenses") / "demo" / DEMO))
    if where is not None:
        path = Path(where).expanduser()
        if path.is_file():
            return path
        if path.is_dir():
            return path / _chosen([str(each.relative_to(path)) for each in path.rglob("*")], model, str(path))
        if isinstance(where, Path) or path.is_absolute():
            raise LoadError(f"There is no Jacobian lens at {path}: nothing is there.")
    return _on_hub(REPO if where is None else str(where), model, revision, cache_dir)


def _chosen(names: Iterable[str], model: str, where: str) -> str:
    """The one lens among the names of files: the only one there is, or the one called as the model."""
    lenses = sorted(name for name in names if name.endswith(ENDINGS) and not _is_lock(name))
    short = re.escape(model.split("/")[-1])
    own = [name for name in lenses if re.fullmatch(rf"{short}_jacobian_lens\.\w+", name.split("/")[-1], re.IGNORECASE)]
    if len(own) == 1 or (not own and len(lenses) == 1):
        return (own or lenses)[0]
    several = own or lenses
    if several:
        shown = ", ".join(several[:6]) + (f" and {len(several) - 6} more" if len(several) > 6 else "")
        what = (
            f"{len(several)} lenses of {model}" if own else f"no lens called {model}_jacobian_lens, but {len(several)}"
        )
        raise LoadError(f"{where} has {what}: {shown}. Say which file.")
    raise LoadError(f"{where} holds no Jacobian lens: there is no file that ends in {', '.join(ENDINGS)}.")


def _is_lock(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _on_hub(where: str, model: str, revision: str | None, cache_dir: str | Path | None) -> Path:
    """A file of a repository, `owner/name` or `owner/name/path/in/it`: from the cache if it is there."""
    parts = where.split("/")
    repo, inside = "/".join(parts[:2]), "/".join(parts[2:])
    tried = [f"a file or folder: there is none at {Path(where).expanduser().absolute()}"]
    try:
        if len(parts) < 2:
            raise HFValidationError(f"{where!r} is no owner/name")
        validate_repo_id(repo)
        try:
            cached = Path(snapshot_download(repo, revision=revision, cache_dir=cache_dir, local_files_only=True))
            if inside and (cached / inside).is_file():
                return cached / inside
            if not inside:
                return cached / _chosen([str(each.relative_to(cached)) for each in cached.rglob("*")], model, repo)
            tried.append(f"the Hugging Face cache: it has no {inside} of {repo}")
        except LocalEntryNotFoundError:
            tried.append(f"the Hugging Face cache: it has nothing of {repo}")
        except LoadError as error:
            tried.append(f"the Hugging Face cache: {error}")
        if is_offline_mode():
            raise LoadError(_not_found(where, [*tried, "not looked for on the hub, which HF_HUB_OFFLINE switches off"]))
        names = HfApi().list_repo_files(repo, revision=revision)
        name = inside or _chosen(names, model, repo)
        folder = name.rpartition("/")[0]
        for beside in ("config.yaml", f"{Path(name).stem}.json", f"{Path(name).stem}.sidecar.json"):
            if (also := f"{folder}/{beside}".lstrip("/")) in names:
                hf_hub_download(repo, also, revision=revision, cache_dir=cache_dir)
        return Path(hf_hub_download(repo, name, revision=revision, cache_dir=cache_dir))
    except HFValidationError as error:
        raise LoadError(_not_found(where, [*tried, f"not a name the hub could have: {error}"])) from error
    except (HfHubHTTPError, OSError) as error:
        if isinstance(error, LoadError):
            raise
        raise LoadError(_not_found(where, [*tried, f"the hub, at {repo}: {error}"])) from error


def _not_found(where: str, tried: list[str]) -> str:
    lines = "".join(f"\n  - {line}" for line in tried)
    return (
        f"No Jacobian lens {where!r} was found.{lines}\nFit one with JacobianLens.fit(model, texts); the demo model "
        'has one, JacobianLens.load(model, "demo").'
    )
