"""SAELens: cfg.json, sae_weights.safetensors, sparsity.safetensors."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.transcoders.twins.numbers import D, Draw, N


def write(
    folder: Path, architecture: str = "standard", *, flat: bool = False, seed: int = 0, **more: Any
) -> dict[str, Any]:
    folder.mkdir(parents=True)
    draw = Draw(seed)
    transcodes = architecture.endswith("transcoder")
    d_out = D + 3 if transcodes else D
    tensors: dict[str, Tensor] = {"W_enc": draw(D, N), "W_dec": draw(N, d_out), "b_dec": draw(d_out)}
    if architecture == "gated":
        tensors |= {"b_gate": draw(N), "b_mag": draw(N), "r_mag": draw(N) / 4}
    else:
        tensors["b_enc"] = draw(N)
    if "jumprelu" in architecture:
        tensors["threshold"] = draw(N)
    if architecture == "skip_transcoder":
        tensors["W_skip"] = draw(d_out, D)
    if architecture == "batchtopk":
        tensors["topk_threshold"] = torch.tensor(0.4, dtype=torch.float64)
    if more.pop("finetuned", False):
        tensors["scaling_factor"] = draw(N).abs() + 0.5
        more["finetuning_scaling_factor"] = True
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "sae_weights.safetensors")
    save_file({"sparsity": draw(N)}, folder / "sparsity.safetensors")
    site = {"hook_name": "blocks.1.hook_resid_pre", "model_name": "gpt2-small", "hook_layer": 1}
    if transcodes:
        site = {"hook_name": "blocks.1.ln2.hook_normalized", "hook_name_out": "blocks.1.hook_mlp_out"}
    cfg: dict[str, Any] = {"d_in": D, "d_sae": N, "dtype": "float32", "device": "cuda"}
    if flat:
        cfg |= {"hook_point": "blocks.1.hook_resid_pre", "hook_point_layer": 1, "model_name": "gpt2-small"}
        cfg |= {"architecture": architecture} if architecture != "standard" else {}
    else:
        cfg |= {"architecture": architecture, "metadata": {**site, "sae_lens_version": "6.1.0"}}
        cfg["apply_b_dec_to_input"] = not transcodes
        cfg |= {"d_out": d_out} if transcodes else {}
        cfg |= {"k": 5} if architecture in ("topk", "batchtopk") else {}
    cfg |= more
    (folder / "cfg.json").write_text(json.dumps(cfg))
    return tensors
