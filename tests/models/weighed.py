"""Models whose weights are looked at, and how they are compared; each is made once."""

import hashlib
from functools import cache

import torch
from torch import Tensor, nn

from lenskit.models.model import Model
from lenskit.models.weights import Weights
from tests.models.architectures import build
from tests.models.tiny import tiny

SERIES = ["llama", "gpt2", "gemma2", "qwen3", "olmo2", "granite", "phi3", "gpt_bigcode", "bloom"]
PARALLEL = ["gpt_neox", "phi", "cohere", "falcon", "falcon_groups", "gptj"]
FAMILIES = SERIES + PARALLEL
BUILT = (
    "gpt_bigcode", "opt", "deepseek_v3", "exaone4", "hyperclovax", "falcon", "bloom", "cohere", "gpt_oss", "mamba",
)  # fmt: skip


@cache
def model(family: str) -> Model:
    if family == "falcon_groups":
        # Its fused projection holds, group by group, queries, a key and a value, which it copies for each query.
        grouped = {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": False}
        return Model(tiny("falcon", **grouped))
    return Model(build(family) if family in BUILT else tiny(family))


@cache
def weights(family: str) -> Weights:
    return Weights.of(model(family).anatomy)


def tokens(family: str, batch: int = 3, length: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(3, min(120, model(family).anatomy.vocab), (batch, length), generator=generator)


def close(made: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(made.float(), expected.float(), atol=2e-5, rtol=2e-5)


def fingerprint(hf: nn.Module) -> str:
    parts = [value.detach().contiguous().numpy().tobytes() for value in hf.state_dict().values()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def by_head(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.einsum("bpd,hdk->bphk", x, weight) + bias
