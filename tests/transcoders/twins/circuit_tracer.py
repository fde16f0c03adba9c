"""circuit-tracer: config.yaml with a safetensors file for each layer, or with encoders and decoders apart."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.transcoders.twins.numbers import D, Draw, N

CONFIG = """model_name: "google/gemma-2-2b"
model_kind: {kind}
feature_input_hook: "{reads}"
feature_output_hook: "hook_mlp_out"
scan: "gemmascope-transcoder-16k"
"""


def write_layers(
    folder: Path,
    activation: str = "relu",
    *,
    layers: int = 3,
    skip: bool = False,
    seed: int = 0,
    reads: str = "mlp.hook_in",
) -> list[dict[str, Tensor]]:
    folder.mkdir(parents=True)
    draw = Draw(seed)
    found = []
    for layer in range(layers):
        tensors = {"W_enc": draw(N, D), "b_enc": draw(N), "W_dec": draw(N, D), "b_dec": draw(D)}
        if activation == "jump_relu":
            tensors["activation_function.threshold"] = draw(N)
        if skip:
            tensors["W_skip"] = draw(D, D)
        save_file(tensors, folder / f"layer_{layer}.safetensors")
        found.append(tensors)
    config = CONFIG.format(kind="transcoder_set", reads=reads)
    (folder / "config.yaml").write_text(config + ("activation: topk\nk: 5\n" if activation == "topk" else ""))
    return found


def write_cross_layer(
    folder: Path, *, layers: int = 3, jumps: bool = True, skip: bool = False, seed: int = 0
) -> list[dict[str, Tensor]]:
    folder.mkdir(parents=True)
    draw = Draw(seed)
    found = []
    for i in range(layers):
        enc = {f"W_enc_{i}": draw(N, D), f"b_enc_{i}": draw(N), f"b_dec_{i}": draw(D)}
        if jumps:
            enc[f"threshold_{i}"] = draw(N)
        if skip:
            enc[f"W_skip_{i}"] = draw(D, D)
        dec = {f"W_dec_{i}": torch.stack([draw(N, D) for _ in range(layers - i)], 1)}
        save_file(enc, folder / f"W_enc_{i}.safetensors")
        save_file(dec, folder / f"W_dec_{i}.safetensors")
        found.append({name.removesuffix(f"_{i}"): value for name, value in (enc | dec).items()})
    (folder / "config.yaml").write_text(CONFIG.format(kind="cross_layer_transcoder", reads="hook_resid_mid"))
    return found
