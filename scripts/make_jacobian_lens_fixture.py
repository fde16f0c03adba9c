"""Makes `transformer_lens_4_3_0/`: a tiny GPT-2, a Jacobian lens of it fitted by TransformerLens 4.3.0, and its logits.

Run once, in an environment of its own, because TransformerLens is no dependency of lenskit:

    pip install torch && pip install transformer-lens==4.3.0
    python scripts/make_jacobian_lens_fixture.py

With `--reads FILE` it makes nothing, but says by how much TransformerLens's logits through a lens that lenskit wrote
for that model differ from those that it gave through its own.
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge  # pyright: ignore[reportMissingImports]
from transformer_lens.tools.analysis.jacobian_lens import JacobianLens  # pyright: ignore[reportMissingImports]
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

HERE = Path(__file__).parents[1] / "tests" / "lenses" / "fixtures" / "transformer_lens_4_3_0"
SKIP, LENGTH, PASSAGES, VOCAB = 3, 12, 3, 64


def bridge() -> Any:
    """The fixture's model in TransformerLens, with a tokenizer of a letter for each token, which it insists on."""
    letters = {chr(0x100 + n): n for n in range(VOCAB)}
    made = Tokenizer(models.WordLevel(letters, unk_token=chr(0x100)))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    with tempfile.TemporaryDirectory() as folder:
        model = GPT2LMHeadModel.from_pretrained(HERE / "model").eval()
        model.save_pretrained(folder)
        PreTrainedTokenizerFast(tokenizer_object=made, eos_token=chr(0x100)).save_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)


def logits_of(lens: Any, model: Any, ids: torch.Tensor) -> torch.Tensor:
    """(layer, batch, pos, vocab), every layer that the lens has."""
    reads = [lens.readout(model, row[None], layers=lens.source_layers, return_full_logits=True) for row in ids]
    return torch.stack([torch.stack([read.lens_logits[layer] for read in reads]) for layer in lens.source_layers])


def make() -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCAB, n_embd=16, n_layer=4, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    plain = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.25 + (parameter.dim() == 1))
    plain.save_pretrained(HERE / "model")
    ids = torch.randint(VOCAB, (PASSAGES, LENGTH))
    model = bridge()
    passages = {str(n): row[None] for n, row in enumerate(ids)}
    model.to_tokens = lambda prompt: passages[prompt]  # as they are, without what a tokenizer would put in front
    lens = JacobianLens.fit(
        model, list(passages), corpus="random ids", dim_batch=8, skip_first_positions=SKIP, show_progress=False
    )
    lens.metadata["model_name"] = "model"  # and not the folder in which it was for a moment
    lens.save(str(HERE / "lens.pt"))
    exact = {f"exact.{layer}": matrix.clone() for layer, matrix in lens.jacobians.items()}
    stored = _unnamed(JacobianLens.load(str(HERE / "lens.pt")))  # in float16
    save_file({"ids": ids, "logits": logits_of(stored, model, ids), **exact}, HERE / "expected.safetensors")


def _unnamed(lens: Any) -> Any:
    lens.metadata.pop("model_name", None)  # it is compared with the folder's name
    return lens


def reads(path: Path) -> None:
    model, expected = bridge(), load_file(HERE / "expected.safetensors")
    lens = _unnamed(JacobianLens.load(str(path)))
    error = (logits_of(lens, model, expected["ids"]) - expected["logits"]).abs().max()
    print(f"{lens}, largest difference of a logit: {error:.2e}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--reads"]:
        reads(Path(sys.argv[2]))
    else:
        make()
