"""Head ablations against plain hooks on the output projection of the Hugging Face model."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lenskit as lk
from lenskit.models.head_ablation import ablate_heads, ablations
from tests.models.test_model import hooks
from tests.models.tiny import HEADS, tiny

IDS = [5, 9, 17, 9, 23, 41, 5, 9]


def by_hand(hf: Any, heads: list[tuple[int, int]], by: str) -> tuple[Tensor, Tensor]:
    """The next token's probabilities, as the model is and with heads ablated by a plain hook before `o_proj`."""

    def hook(layer: int) -> Any:
        def pre(_: Any, args: tuple[Tensor]) -> tuple[Tensor]:
            z = args[0].clone().unflatten(-1, (HEADS, -1))
            for at, head in heads:
                if at == layer:
                    z[:, :, head] = 0 if by == "zero" else z[:, :, head].mean(1, keepdim=True)
            return (z.flatten(-2),)

        return pre

    with torch.no_grad():
        before = hf(torch.tensor([IDS])).logits[0, -1].softmax(-1)
        handles = [b.self_attn.o_proj.register_forward_pre_hook(hook(i)) for i, b in enumerate(hf.model.layers)]
        after = hf(torch.tensor([IDS])).logits[0, -1].softmax(-1)
        for handle in handles:
            handle.remove()
    return before, after


@pytest.mark.parametrize("by", ["zero", "mean"])
@pytest.mark.parametrize("heads", [[(0, 1)], [(1, 3), (0, 2), (1, 0)]])
def test_ablated_heads_equal_a_plain_hook(heads: list[tuple[int, int]], by: Any) -> None:
    hf = tiny("llama")
    model = lk.Model(hf)
    said = ablate_heads(model, IDS, heads, by, k=5)
    before, after = by_hand(hf, heads, by)
    np.testing.assert_allclose(said.before, before[said.ids.tolist()], atol=1e-5)
    np.testing.assert_allclose(said.after, after[said.ids.tolist()], atol=1e-5)
    assert set(before.topk(5).indices.tolist()) | set(after.topk(5).indices.tolist()) == set(said.ids.tolist())
    kl = float((before.double() * (before.double() / after.double()).log()).sum())
    assert said.kl == pytest.approx(kl, abs=1e-5)
    assert hooks(hf) == 0
    assert model.edits == ()


def test_no_heads_change_nothing_and_heads_that_are_not_there_are_refused() -> None:
    model = lk.Model(tiny("llama"))
    said = ablate_heads(model, IDS, [])
    np.testing.assert_array_equal(said.before, said.after)
    assert said.kl == 0
    with pytest.raises(ValueError, match="head 99 does not exist"):
        ablate_heads(model, IDS, [(0, 99)])
    with pytest.raises(ValueError, match="by 'zero' or by 'mean', not 'noise'"):
        ablate_heads(model, IDS, [(0, 1)], "noise")  # pyright: ignore[reportArgumentType]


def test_there_is_one_edit_for_each_layer_and_it_can_be_used_again() -> None:
    model = lk.Model(tiny("llama"))
    heads = [(1, 3), (0, 2), (1, 0), (1, 3)]
    edits = ablations(heads, "mean")
    assert edits == (lk.Mean("z", layers=0, heads=[2], over="pos"), lk.Mean("z", layers=1, heads=[0, 3], over="pos"))
    said = ablate_heads(model, IDS, heads, "mean")
    again = model.run([IDS], edits=edits).logits[0, -1].softmax(-1)
    np.testing.assert_allclose(said.after, again[said.ids.tolist()], atol=1e-6)
    assert repr(said).startswith("HeadAblation(mean 1.3, 0.2")
