"""Makes `tuned_lens_0_2_0/`: a tiny model, a lens of it saved by tuned-lens 0.2.0, and the logits tuned-lens gives.

Run once, in an environment of its own, because tuned-lens is no dependency of lenskit:

    pip install torch transformers plotly && pip install --no-deps tuned-lens==0.2.0 simple-parsing docstring-parser
    python scripts/make_tuned_lens_fixture.py

With `--reads FOLDER` it makes nothing, but says by how much tuned-lens's logits through a lens that lenskit wrote for
that model differ from the `logits.safetensors` beside it.
"""

import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM
from tuned_lens.nn.lenses import TunedLens  # pyright: ignore[reportMissingImports]

HERE = Path(__file__).parents[1] / "tests" / "lenses" / "fixtures" / "tuned_lens_0_2_0"


def logits_of(lens: TunedLens, model: LlamaForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    """(layer, batch, pos, vocab), as tuned-lens reads `hidden_states`."""
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states[:-1]
        return torch.stack([lens(h, idx=layer) for layer, h in enumerate(states)])


def make() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=67,
        hidden_size=16,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=2,
        tie_word_embeddings=False,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.25 + (parameter.dim() == 1))
    model.save_pretrained(HERE / "model")
    lens = TunedLens.from_model(model)
    lens.config.base_model_name_or_path = "model"
    with torch.no_grad():
        for parameter in lens.layer_translators.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.1)
    lens.save(HERE / "lens")
    ids = torch.randint(67, (2, 9))
    save_file({"ids": ids, "logits": logits_of(lens, model, ids)}, HERE / "logits.safetensors")


def reads(folder: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(HERE / "model").eval()
    lens = TunedLens.from_model_and_pretrained(model, str(folder))
    expected = load_file(folder / "logits.safetensors")
    error = (logits_of(lens, model, expected["ids"]) - expected["logits"]).abs().max()
    print(f"largest difference of a logit: {error:.2e}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--reads"]:
        reads(Path(sys.argv[2]))
    else:
        make()
