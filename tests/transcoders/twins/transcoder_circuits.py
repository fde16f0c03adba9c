"""transcoder_circuits: `cfg`, an object of a class that is gone, and `state_dict`, by torch.save or pickle and gzip."""

import gzip
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.transcoders.twins.numbers import D, Draw, N

HOOK, OUT = "blocks.1.ln2.hook_normalized", "blocks.1.hook_mlp_out"


def write(path: Path, *, transcodes: bool = True, seed: int = 0, **more: Any) -> dict[str, Tensor]:
    """`path` ends in `.pt` or `.pkl.gz`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draw = Draw(seed)
    tensors = {"W_enc": draw(D, N), "b_enc": draw(N), "W_dec": draw(N, D), "b_dec": draw(D)}
    if transcodes:
        tensors["b_dec_out"] = draw(D)
    cfg: dict[str, Any] = {
        "model_name": "gpt2-small",
        "hook_point": HOOK,
        "hook_point_layer": 1,
        "hook_point_head_index": None,
        "d_in": D,
        "d_sae": N,
        "dtype": torch.float32,
        "device": torch.device("cpu"),
        "is_transcoder": transcodes,
        "out_hook_point": OUT if transcodes else None,
        "d_out": D if transcodes else None,
        "l1_coefficient": 5.5e-5,
        "use_ghost_grads": (False,),
        "seed": 42,
    }
    state = OrderedDict((name, nn.Parameter(value)) for name, value in tensors.items())
    write_object(path, {**cfg, **more}, state)
    torch.save(draw(N), path.with_name(path.name.split(".")[0] + "_log_feature_sparsity.pt"))
    return tensors


def write_object(path: Path, cfg: dict[str, Any], state: object) -> None:
    """The class exists while the file is written, and then no more."""
    package, module = types.ModuleType("sae_training"), types.ModuleType("sae_training.config")
    kind = type("LanguageModelSAERunnerConfig", (), {"__module__": "sae_training.config"})
    module.LanguageModelSAERunnerConfig = kind  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules |= {"sae_training": package, "sae_training.config": module}
    try:
        settings = kind()
        vars(settings).update(cfg)
        content = {"cfg": settings, "state_dict": state}
        if path.name.endswith(".pkl.gz"):
            with gzip.open(path, "wb", compresslevel=1) as file:
                pickle.dump(content, file)
        else:
            torch.save(content, path)
    finally:
        del sys.modules["sae_training"], sys.modules["sae_training.config"]
