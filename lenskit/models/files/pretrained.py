"""A model folder, or a name on the hub, read by transformers."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from lenskit.models.files.load_error import LoadError

# What says where files come from holds for the tokenizer as for the weights.
WHENCE = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")


def read_model(where: str | Path, dtype: torch.dtype | str, options: dict[str, Any]) -> PreTrainedModel:
    """The causal LM in a folder or a repository, in eval mode. Raises `LoadError` if it is not there whole.

    A checkpoint without its language-model head also loads in transformers, with a warning and a random head.
    Here it is refused: everything a lens would say of it is noise.
    """
    try:
        # An explicit False: if it were left open, transformers would ask at the prompt whether to run code.
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            where, dtype=dtype, trust_remote_code=False, output_loading_info=True, **options
        )
    except UnpicklingError as error:  # its own message advises to switch the protection off
        raise LoadError(f"{where} is a pickle that holds more than weights, which is not loaded.") from error
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        remedy = ""
        if "trust_remote_code" in str(error):
            remedy = (
                " lenskit runs no code from a repository: if you trust it, load the model with"
                " transformers and pass it, lenskit.load(hf_model, tokenizer)."
            )
        raise LoadError(f"transformers cannot load {where}: {str(error).strip()}{remedy}") from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise LoadError(
            f"{where} lacks {len(missing)} of the weights of a {type(model).__name__}, which would be random"
            f" numbers: {', '.join(missing[:5])}{', ...' if len(missing) > 5 else ''}."
        )
    return model


def read_tokenizer(where: str | Path, options: dict[str, Any]) -> Any:
    """The tokenizer in a folder or a repository. Raises `LoadError` if it cannot be read."""
    whence = {name: value for name, value in options.items() if name in WHENCE}
    try:
        return AutoTokenizer.from_pretrained(where, trust_remote_code=False, **whence)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise LoadError(
            f"transformers cannot load the tokenizer of {where}: {str(error).strip()} "
            f"Pass one: lenskit.load({str(where)!r}, tokenizer)."
        ) from error


@contextmanager
def no_progress_bar() -> Generator[None]:
    """Keeps transformers from drawing its bar: for a load that is over before the bar can be read."""
    enabled = transformers_logging.is_progress_bar_enabled()
    if enabled:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            transformers_logging.enable_progress_bar()
