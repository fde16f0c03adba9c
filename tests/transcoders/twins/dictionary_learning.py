"""dictionary_learning: ae.pt, torch's own file of a state dict, with a config.json."""

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.transcoders.twins.numbers import D, Draw, N


def write(
    folder: Path, kind: str = "AutoEncoder", *, seed: int = 0, old_file: bool = False, **more: Any
) -> dict[str, Tensor]:
    folder.mkdir(parents=True)
    draw = Draw(seed)
    linear = {"encoder.weight": draw(N, D), "decoder.weight": draw(D, N)}
    bare = {"W_enc": draw(D, N), "b_enc": draw(N), "W_dec": draw(N, D), "b_dec": draw(D)}
    largest = {"k": torch.tensor(5, dtype=torch.int32), "threshold": torch.tensor(0.4)}
    tensors: dict[str, Tensor] = {
        "AutoEncoder": {"bias": draw(D), **linear, "encoder.bias": draw(N)},
        "AutoEncoderNew": {**linear, "encoder.bias": draw(N), "decoder.bias": draw(D)},
        "AutoEncoderTopK": {"b_dec": draw(D), **largest, **linear, "encoder.bias": draw(N)},
        "BatchTopKSAE": {"b_dec": draw(D), **largest, **linear, "encoder.bias": draw(N)},
        "MatryoshkaBatchTopKSAE": {**bare, **largest, "group_sizes": torch.tensor([10, N - 10])},
        "GatedAutoEncoder": {
            "decoder_bias": draw(D),
            "r_mag": draw(N) / 4,
            "gate_bias": draw(N),
            "mag_bias": draw(N),
            **linear,
        },
        "JumpReluAutoEncoder": {**bare, "threshold": draw(N)},
    }[kind]
    state = OrderedDict((name, nn.Parameter(t) if t.is_floating_point() else t) for name, t in tensors.items())
    torch.save(state, folder / "ae.pt", _use_new_zipfile_serialization=not old_file)
    trainer = {
        "dict_class": kind,
        "trainer_class": "StandardTrainer",
        "activation_dim": D,
        "dict_size": N,
        "k": 5,
        "layer": 1,
        "lm_name": "EleutherAI/pythia-70m-deduped",
        "submodule_name": "resid_post_layer_1",
        "steps": 1000,
    }
    config = {"trainer": {**trainer, **more}, "buffer": {"d_submodule": D, "io": "out", "ctx_len": 128}}
    (folder / "config.json").write_text(json.dumps(config))
    return tensors
