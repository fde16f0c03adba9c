"""tuned-lens's published format: a folder with `config.json` and `params.pt`.

Checked against tuned-lens 0.2.0. Its translators are `0.weight`, `0.bias`, ..., one for the input of each block.
"""

from __future__ import annotations

import json
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor

from lenskit.artifacts import whole_folder, write_json
from lenskit.lenses.translators import AnyTranslators, Translators
from lenskit.models.files.load_error import LoadError
from lenskit.models.identity import Identity

CONFIG, PARAMS = "config.json", "params.pt"
LENS_TYPE = "linear_tuned_lens"


def write(folder: Path, translators: AnyTranslators, identity: Identity, dtype: torch.dtype) -> None:
    """Write a folder that tuned-lens reads. Raises `FileExistsError` where there is one."""
    whole = translators.whole()
    # tuned-lens 0.2.0 cannot read a lens without biases, though its config has a word for it: zeros say the same.
    bias = torch.zeros(whole.shape) if whole.bias is None else whole.bias
    params = dict[str, Tensor]()
    for layer in range(identity.n_layers):
        params[f"{layer}.weight"] = whole.weight[layer].detach().to("cpu", dtype).clone()
        params[f"{layer}.bias"] = bias[layer].detach().to("cpu", dtype).clone()
    config = {
        "base_model_name_or_path": identity.model,
        "base_model_revision": identity.revision,
        "d_model": identity.d_model,
        "num_hidden_layers": identity.n_layers,
        "bias": True,
        "unembed_hash": identity.unembed_hash,
        "lens_type": LENS_TYPE,
    }
    with whole_folder(folder) as unfinished:
        torch.save(params, unfinished / PARAMS)
        write_json(unfinished / CONFIG, config)


def read(folder: Path) -> tuple[Translators, Identity]:
    """Read such a folder; nothing but tensors is ever unpickled. Raises `LoadError` where it is not whole."""
    config = _config(folder / CONFIG)
    try:
        params: dict[str, Tensor] = torch.load(folder / PARAMS, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        raise LoadError(f"{folder / PARAMS} is a pickle that holds more than tensors, which is not loaded.") from error
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise LoadError(f"{folder / PARAMS} cannot be read: {error}") from error
    layers, d_model = config["num_hidden_layers"], config["d_model"]
    kinds = ("weight", "bias") if config.get("bias", True) else ("weight",)
    shapes = {"weight": (d_model, d_model), "bias": (d_model,)}
    expected = {f"{layer}.{kind}": shapes[kind] for layer in range(layers) for kind in kinds}
    found = {name: tuple(value.shape) for name, value in params.items()} if isinstance(params, dict) else {}
    if found != expected:
        wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise LoadError(
            f"{folder / PARAMS} does not hold {layers} translators of {d_model}, as its {CONFIG} says: "
            f"{', '.join(f'{name} is {found.get(name)} and not {expected.get(name)}' for name in wrong[:3])}."
        )
    weight = torch.stack([params[f"{layer}.weight"] for layer in range(layers)])
    bias = torch.stack([params[f"{layer}.bias"] for layer in range(layers)]) if "bias" in kinds else None
    identity = Identity(
        model=config["base_model_name_or_path"],
        revision=config.get("base_model_revision"),
        d_model=d_model,
        n_layers=layers,
        unembed_hash=config.get("unembed_hash"),
    )
    return Translators(weight, bias), identity


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from error
    needed = {"base_model_name_or_path": str, "d_model": int, "num_hidden_layers": int}
    for name, kind in needed.items():
        if not isinstance(config, dict) or not isinstance(config.get(name), kind):
            raise LoadError(f"{path} is no configuration of a tuned lens: it says no {name}.")
    if (kind := config.get("lens_type", LENS_TYPE)) != LENS_TYPE:
        raise LoadError(f"{path} is of a {kind!r}, and what is read here is a {LENS_TYPE!r}.")
    return config
