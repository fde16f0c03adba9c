"""GemmaScope 1, a params.npz, and GemmaScope 2, a safetensors file with a config.json."""

import json
from pathlib import Path

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from tests.transcoders.twins.numbers import D, Draw, N


def write_1(folder: Path, *, d_out: int = D, seed: int = 0) -> dict[str, Tensor]:
    folder.mkdir(parents=True)
    draw = Draw(seed)
    arrays = {
        "W_enc": draw(D, N),
        "W_dec": draw(N, d_out),
        "b_enc": draw(N),
        "b_dec": draw(d_out),
        "threshold": draw(N),
    }
    np.savez(folder / "params.npz", **{name: value.numpy() for name, value in arrays.items()})  # pyright: ignore
    return arrays


def write_2(folder: Path, *, transcodes: bool = False, affine: bool = False, seed: int = 0) -> dict[str, Tensor]:
    folder.mkdir(parents=True)
    draw = Draw(seed)
    tensors = {"w_enc": draw(D, N), "w_dec": draw(N, D), "b_enc": draw(N), "b_dec": draw(D), "threshold": draw(N)}
    if affine:
        tensors["affine_skip_connection"] = draw(D, D)
    save_file(tensors, folder / "params.safetensors")
    hooks = ("output", "output")
    if transcodes:
        hooks = ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output")
    config = {
        "hf_hook_point_in": f"model.layers.1.{hooks[0]}",
        "hf_hook_point_out": f"model.layers.1.{hooks[1]}",
        "width": N,
        "model_name": "google/gemma-3-1b-pt",
        "architecture": "jump_relu",
        "l0": 20,
        "affine_connection": affine,
        "type": "transcoder" if transcodes else "sae",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return tensors
