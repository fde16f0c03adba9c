"""sparsify: a folder for each module with cfg.json and sae.safetensors."""

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from tests.transcoders.twins.numbers import D, Draw, N


def write(folder: Path, *, seed: int = 0, skip: bool = False, **more: Any) -> dict[str, Tensor]:
    """`folder` is called as the module is."""
    folder.mkdir(parents=True)
    draw = Draw(seed)
    tensors = {"encoder.weight": draw(N, D), "encoder.bias": draw(N), "W_dec": draw(N, D), "b_dec": draw(D)}
    if skip:
        tensors["W_skip"] = draw(D, D)
    save_file(tensors, folder / "sae.safetensors")
    cfg = {"expansion_factor": 32, "normalize_decoder": True, "num_latents": N, "k": 8, "multi_topk": False, "d_in": D}
    (folder / "cfg.json").write_text(json.dumps({**cfg, "skip_connection": skip, **more}))
    return tensors
