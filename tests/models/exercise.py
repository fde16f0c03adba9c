"""Everything that a model can be asked for, asked of one that is not plain: for the tests of those."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import lenskit as lk

IDS = torch.tensor([[5, 6, 7, 8, 9, 10], [3, 14, 15, 9, 2, 6]])
TOLERANCE = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def called(hf_model: Any) -> Tensor:
    """What calling the model itself gives."""
    with torch.no_grad():
        return hf_model(input_ids=IDS).logits


def exercise(model: lk.Model, plain: Tensor, missing: tuple[str, ...] = ("pos_embed",)) -> lk.Run:
    """Read, change, stop, run on, trace, generate, read with a lens and check; `plain` is what the logits must be."""
    assert [name for name in model.sites.reasons if name not in model.sites] == list(missing), model.sites
    kept = model.run(IDS, keep=[name for name in model.sites if name != "logits"])
    assert torch.equal(kept.logits, plain)
    assert torch.equal(model.run(IDS).logits, plain)
    near = TOLERANCE[plain.dtype]
    made = kept["resid_pre"] + kept["attn_out"] + kept["mlp_out"]
    torch.testing.assert_close(made, kept["resid_post"], atol=near, rtol=near)
    torch.testing.assert_close(model.unembed(kept["resid_post", -1]).detach(), plain, atol=near, rtol=near)

    _change(model, plain)
    _trace(model, plain, kept)
    stopped = model.run(IDS, keep=("resid_pre", 1), stop_at=("attn_out", 1))
    assert torch.equal(stopped["resid_pre", 1], kept["resid_pre", 1])
    assert torch.equal(model.run(IDS, start_at=1, resid=kept["resid_pre", 1]).logits, plain)

    check = model.check()
    assert check.passed, check
    assert np.isfinite(lk.LogitLens(model).read(IDS[0]).entropy).all()
    assert torch.equal(model.run(IDS).logits, plain)  # nothing was left behind
    return kept


def _change(model: lk.Model, plain: Tensor) -> None:
    """An edit of a head does what setting it in a trace does, and an edit that changes nothing changes nothing."""
    zeroed = model.run(IDS, edits=lk.Zero("z", layers=1, heads=2), keep=("z", 1))
    assert not zeroed["z", 1, 2].any()
    assert zeroed["z", 1, 1].any()
    assert not torch.equal(zeroed.logits, plain)
    with model.trace(IDS) as t:
        t["z", 1, 2] = 0.0
    assert torch.equal(t.logits, zeroed.logits)
    assert torch.equal(model.run(IDS, edits=lk.Call("resid_post", torch.clone)).logits, plain)


def _trace(model: lk.Model, plain: Tensor, kept: lk.Run) -> None:
    with model.trace(IDS) as t:
        assert torch.equal(t["resid_post", 0], kept["resid_post", 0])
        assert torch.equal(t["pattern", 1], kept["pattern", 1])
        assert torch.equal(model.run(IDS).logits, plain)  # another forward, while this one stands still
    assert torch.equal(t.logits, plain)


def generated_as_itself(model: lk.Model, hf_model: Any) -> None:
    """Generation writes what the model itself writes, and each step's logits are there."""
    own = hf_model.generate(input_ids=IDS, attention_mask=torch.ones_like(IDS), max_new_tokens=3, do_sample=False)
    made = model.generate(IDS, 3, keep=["logits", "resid_post"])
    assert torch.equal(made.tokens, own)
    assert len(made.steps) == 3
    torch.testing.assert_close(made.steps[0].logits[:, -1], model.run(IDS).logits[:, -1])
    with model.trace(IDS, generate=3) as t:
        for _ in t.steps:
            t["resid_post", 1] += 1
    assert t.generated.tokens.shape == own.shape


def gradient(model: lk.Model) -> Tensor:
    """Of one logit at the first layer's output."""
    return model.run(IDS, keep="resid_post", grads=lambda run: run.logits[0, -1, 3]).grad["resid_post", 0]
