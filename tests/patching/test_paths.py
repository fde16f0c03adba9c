"""Path patching equals the same written out by hand: every head held, what arrives recorded, a second pass with it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lenskit as lk
from lenskit.patching.align import PromptsDiffer
from lenskit.patching.metrics import LogProb, kl, log_prob, logit_diff
from lenskit.patching.nodes import Node, as_nodes
from lenskit.patching.pairs import Direction
from lenskit.patching.paths import path_patch
from tests.models.architectures import build
from tests.models.by_hand import FAMILIES
from tests.models.tiny import tiny
from tests.patching.paths_by_hand import path_patched

METRIC = logit_diff(11, 42)
CLEAN = torch.tensor([[5, 9, 17, 33, 21, 8, 64]])
CORRUPT = torch.tensor([[5, 9, 17, 70, 21, 90, 64]])
SHARED = ("llama", "gemma2", "granite")  # two query heads read each key-value head

# Receivers, what they receive through, and where that is by hand (of key-value heads, where they are shared).
HEADS = {
    "queries of several layers": (["2.1", "3.2"], "q", [("q", 2, 1), ("q", 3, 2)]),
    "keys and values": (["3.0", "3.1"], ["k", "v"], None),
    "everything a head reads": (["2.2", "2.3"], ["q", "k", "v"], None),
}
OTHERS = {
    "an MLP": (["2.mlp"], (), [("mlp_in", 2, -1)]),
    "MLPs and a head": (["1.mlp", "2.3", "3.mlp"], "q", [("mlp_in", 1, -1), ("q", 2, 3), ("mlp_in", 3, -1)]),
    "logits": ("logits", (), [("resid_post", 3, -1)]),
}
SENDERS = ["0.0", "0.3", "1.2", "2.1", "0.mlp", "1.mlp", "1.attn", "embed"]
WRITTEN = {"head": "z", "mlp": "mlp_out", "attn": "attn_out", "embed": "embed"}


def difference(logits: Tensor) -> float:
    return float(logits[0, -1, 11] - logits[0, -1, 42])


def receivers_by_hand(family: str, receivers: list[str], through: list[str]) -> list[tuple[str, int, int]]:
    found = list[tuple[str, int, int]]()
    for node in as_nodes(receivers):
        for name in through:
            head = node.head // 2 if family in SHARED and name != "q" else node.head
            found.append((name, node.layer, head))
    return found


@pytest.mark.parametrize("mlps", ["recompute", "freeze"])
@pytest.mark.parametrize("case", [*HEADS, *OTHERS])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_two_passes_by_hand(family: str, case: str, mlps: Any) -> None:
    hf = tiny(family, layers=4)
    receivers, through, by_hand = (HEADS | OTHERS)[case]
    if by_hand is None:
        by_hand = receivers_by_hand(family, receivers, list(through))
    found = path_patch(lk.Model(hf), CLEAN, CORRUPT, SENDERS, receivers, METRIC, through=through, mlps=mlps)
    assert found.axes[0].labels == tuple(SENDERS)
    for value, sender in zip(found.values, as_nodes(SENDERS), strict=True):
        at = (WRITTEN[sender.kind], sender.layer, sender.head)
        logits = path_patched(hf, CLEAN, CORRUPT, at, by_hand, range(3, 7), mlps == "recompute")
        assert value == pytest.approx(difference(logits), abs=3e-5)
    with torch.no_grad():
        assert found.clean == pytest.approx(difference(hf(CLEAN).logits), abs=3e-5)
        assert found.corrupt == pytest.approx(difference(hf(CORRUPT).logits), abs=3e-5)
    assert np.abs(found.effect).max() > 2e-4


def test_denoising_is_noising_with_the_prompts_changed_round() -> None:
    model = lk.Model(tiny("llama", layers=4))
    one = path_patch(model, CLEAN, CORRUPT, "heads", "3.2", METRIC, through="q", direction="denoise")
    other = path_patch(model, CORRUPT, CLEAN, "heads", "3.2", METRIC, through="q")
    np.testing.assert_allclose(one.values, other.values, atol=1e-5)
    assert one.normalised == pytest.approx(other.normalised, abs=3e-5)


def test_the_grid_of_heads_has_each_sender_at_its_place() -> None:
    model = lk.Model(tiny("gpt2", layers=4))
    grid = path_patch(model, CLEAN, CORRUPT, "heads", "2.1", METRIC, through="q")
    assert grid.over == ("layer", "head")
    assert grid.values.shape == (4, 4)
    assert (grid.effect[2:] == 0).all()  # no path leads backwards
    chosen = path_patch(model, CLEAN, CORRUPT, ["1.3", "0.2"], "2.1", METRIC, through="q")
    assert chosen.axes[0].labels == ("1.3", "0.2")
    np.testing.assert_allclose(chosen.values, [grid.values[1, 3], grid.values[0, 2]], atol=1e-6)
    mlps = path_patch(model, CLEAN, CORRUPT, "mlps", "2.1", METRIC, through="q")
    assert mlps.over == ("layer",)
    assert (mlps.effect != 0).tolist() == [True, True, False, False]


def test_chosen_positions_are_the_only_ones() -> None:
    hf = tiny("gpt_neox", layers=4)
    found = path_patch(lk.Model(hf), CLEAN, CORRUPT, ["0.1", "1.3"], "3.2", METRIC, through="k", positions=[3, -2])
    for value, (layer, head) in zip(found.values, ((0, 1), (1, 3)), strict=True):
        logits = path_patched(hf, CLEAN, CORRUPT, ("z", layer, head), [("k", 3, 2)], [3, 5])
        assert value == pytest.approx(difference(logits), abs=3e-5)


@pytest.mark.parametrize("sender", ["0.0", "1.mlp"])
def test_a_head_that_shares_its_keys_is_given_its_own(sender: str) -> None:
    """By hand its whole group receives, but the other head of the group is put back by a hook behind attention."""
    hf = tiny("llama", layers=4)
    found = path_patch(lk.Model(hf), CLEAN, CORRUPT, [sender], "2.1", METRIC, through=["k", "v"])
    (node,) = as_nodes(sender)
    with other_head_as_it_was(hf, layer=2, head=0):
        at = (WRITTEN[node.kind], node.layer, node.head)
        logits = path_patched(hf, CLEAN, CORRUPT, at, [("k", 2, 0), ("v", 2, 0)], range(3, 7))
    value = found.values[0]
    assert value == pytest.approx(difference(logits), abs=3e-5)
    assert abs(value - found.clean) > 1e-3


@contextmanager
def other_head_as_it_was(hf: Any, layer: int, head: int) -> Iterator[None]:
    """The output projection of one layer reads a head's `z` as it is on the clean prompt."""
    project, width = hf.model.layers[layer].self_attn.o_proj, hf.config.head_dim
    part, own = slice(head * width, (head + 1) * width), dict[str, Tensor]()

    def note(_: nn.Module, args: tuple[Tensor]) -> None:
        own["z"] = args[0][..., part].clone()

    def put(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        x = args[0].clone()
        x[..., part] = own["z"]
        return (x,)

    forward(hf, CLEAN, [project.register_forward_pre_hook(note)])
    handle = project.register_forward_pre_hook(put)
    yield
    handle.remove()


def test_shared_keys_of_several_layers_are_refused() -> None:
    model = lk.Model(tiny("llama", layers=4))
    with pytest.raises(lk.SiteUnavailable, match=r"3\.0 share their keys .* while 2\.0, an earlier receiver"):
        path_patch(model, CLEAN, CORRUPT, "0.0", ["2.0", "3.0"], METRIC, through="k")


# Other families, with plain hooks on Hugging Face's own modules


def llama_parts(hf: Any) -> list[tuple[nn.Module, nn.Module]]:
    return [(block.self_attn.q_proj, block.self_attn.o_proj) for block in hf.model.layers]


def opt_parts(hf: Any) -> list[tuple[nn.Module, nn.Module]]:
    layers = hf.model.decoder.layers
    return [(block.self_attn.q_proj, block.self_attn.out_proj) for block in layers]


def phi_parts(hf: Any) -> list[tuple[nn.Module, nn.Module]]:
    return [(block.self_attn.q_proj, block.self_attn.dense) for block in hf.model.layers]


def gptj_parts(hf: Any) -> list[tuple[nn.Module, nn.Module]]:
    return [(block.attn.q_proj, block.attn.out_proj) for block in hf.transformer.h]


HOOKED = {
    "qwen3": llama_parts,
    "mistral": llama_parts,
    "cohere": llama_parts,  # attention and MLP in parallel
    "mixtral": llama_parts,
    "phi": phi_parts,
    "opt": opt_parts,
    "gptj": gptj_parts,
}


@pytest.mark.parametrize("family", HOOKED)
def test_equals_plain_hooks_on_other_families(family: str) -> None:
    hf = build(family)
    parts = HOOKED[family](hf)
    last = len(parts) - 1
    model = lk.Model(hf)
    grid = path_patch(model, CLEAN, CORRUPT, "heads", [f"{last}.1", f"{last}.3"], METRIC, through="q")
    direct = path_patch(model, CLEAN, CORRUPT, "heads", "logits", METRIC)
    for layer, head in ((0, 0), (0, 3), (last - 1, 2)):
        plain, straight = hooked(hf, parts, layer, head, receivers=[1, 3])
        assert grid.values[layer, head] == pytest.approx(plain, abs=3e-5)
        assert direct.values[layer, head] == pytest.approx(straight, abs=3e-5)
    assert np.abs(grid.effect).max() > 1e-4


def hooked(hf: Any, parts: Any, layer: int, head: int, receivers: list[int]) -> tuple[float, float]:
    """The metric when some heads' queries in the last layer are given what a head sends, and its direct effect."""
    width = parts[0][1].weight.shape[1] // 4
    z = {name: dict[int, Tensor]() for name in ("clean", "corrupt")}

    def noting(name: str, at: int) -> Callable[[nn.Module, tuple[Tensor]], None]:
        return lambda _, args: z[name].update({at: args[0].clone()})

    for name, ids in (("clean", CLEAN), ("corrupt", CORRUPT)):
        forward(hf, ids, [p[1].register_forward_pre_hook(noting(name, at)) for at, p in enumerate(parts)])
    held = {at: value.clone() for at, value in z["clean"].items()}
    part = slice(head * width, (head + 1) * width)
    held[layer][..., part] = z["corrupt"][layer][..., part]
    queries = dict[str, Tensor]()

    def note_queries(_: nn.Module, __: Any, out: Tensor) -> None:
        queries["sent"] = out.clone()

    def put_queries(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        out = out.clone().unflatten(-1, (4, -1))
        out[..., receivers, :] = queries["sent"].unflatten(-1, (4, -1))[..., receivers, :]
        return out.flatten(-2)

    hooks = [p[1].register_forward_pre_hook(lambda _, args, at=at: (held[at],)) for at, p in enumerate(parts)]
    direct = forward(hf, CLEAN, [*hooks, parts[-1][0].register_forward_hook(note_queries)])
    plain = forward(hf, CLEAN, [parts[-1][0].register_forward_hook(put_queries)])
    return plain, direct


def forward(hf: Any, ids: Tensor, hooks: list[Any]) -> float:
    try:
        with torch.no_grad():
            return difference(hf(input_ids=ids).logits)
    finally:
        for hook in hooks:
            hook.remove()


# What follows from what it means

ALL_READ = ["3.0", "3.1", "3.2", "3.3"]


def test_what_the_last_layer_says_goes_to_the_logits_alone() -> None:
    """So its paths there are all that it does: plain patching."""
    model = lk.Model(tiny("llama", layers=4))
    path = path_patch(model, CLEAN, CORRUPT, ["3.mlp", "3.attn"], "logits", METRIC)
    source = model.run(CORRUPT, keep=["mlp_out", "attn_out"])
    for value, site in zip(path.values, ("mlp_out", "attn_out"), strict=True):
        patched = model.run(CLEAN, edits=lk.Patch(site, source, layers=3))
        assert value == pytest.approx(difference(patched.logits), abs=3e-5)


def test_with_mlps_frozen_the_direct_effect_is_what_direct_logits_tells() -> None:
    """The residual stream is linear: a head's direct path adds the difference of what it writes, before the norm."""
    model = lk.Model(tiny("gpt2", layers=4))
    path = path_patch(model, CLEAN, CORRUPT, "heads", "logits", METRIC, mlps="freeze")
    runs = [model.run(ids, keep=["z", ("resid_post", 3)]) for ids in (CLEAN, CORRUPT)]
    for layer, head in ((0, 1), (2, 3)):
        more = runs[1]["z", layer, head] - runs[0]["z", layer, head]
        written = more[0, -1] @ model.weights.W_O[layer][head]
        logits = model.unembed(runs[0]["resid_post", 3][0, -1] + written)
        assert path.values[layer, head] == pytest.approx(float((logits[11] - logits[42]).detach()), abs=3e-5)


def test_all_heads_that_read_a_sender_do_what_they_do_when_it_is_patched() -> None:
    """What the last heads make of all that comes from a head of the layer before, and nothing else of what it does."""
    model = lk.Model(tiny("gpt2", layers=4))
    path = path_patch(model, CLEAN, CORRUPT, ["2.1"], ALL_READ, METRIC, through=["q", "k", "v"])
    source, last = model.run(CORRUPT, keep="z"), ("z", 3)
    patched = model.run(CLEAN, edits=lk.Patch("z", source, layers=2, heads=1), keep=last, stop_at=last)
    through_heads = model.run(CLEAN, edits=lk.Set("z", patched[last], layers=3))
    assert path.values[0] == pytest.approx(difference(through_heads.logits), abs=3e-5)


def test_several_pairs_are_each_pair_by_itself() -> None:
    model = lk.Model(tiny("gpt_neox", layers=3))
    clean, corrupt = torch.cat([CLEAN, CORRUPT]), torch.cat([CORRUPT, CLEAN])
    metrics = [METRIC, log_prob(12)]
    both = path_patch(model, clean, corrupt, "heads", "2.1", metrics, through="q")
    assert both.over == ("pair", "layer", "head")
    for n, metric in enumerate(metrics):
        one = path_patch(model, clean[n], corrupt[n], "heads", "2.1", metric, through="q")
        np.testing.assert_allclose(both.values[n], one.values, atol=1e-6)
    assert isinstance(metrics[1], LogProb)
    assert both.mean().over == ("layer", "head")


# What is refused


@pytest.mark.parametrize(
    ("senders", "receivers", "more", "message"),
    [
        ("heads", "2.1", {}, "say by what heads receive"),
        ("heads", "logits", {"through": "q"}, "is for heads"),
        ("heads", ["logits", "2.mlp"], {}, "a receiver by itself"),
        ("heads", "2.attn", {}, "receivers are heads"),
        ("logits", "2.mlp", {}, "senders are heads"),
        ("0.0.1", "logits", {}, "is no node"),
    ],
)
def test_what_makes_no_sense_is_refused(senders: Any, receivers: Any, more: Any, message: str) -> None:
    model = lk.Model(tiny("llama"))
    with pytest.raises(ValueError, match=message):
        path_patch(model, CLEAN, CORRUPT, senders, receivers, METRIC, **more)


def test_prompts_that_do_not_fit_are_refused() -> None:
    model = lk.Model(tiny("llama"))
    with pytest.raises(PromptsDiffer, match="do not line up"):
        path_patch(model, CLEAN, CORRUPT[:, :-1], "heads", "logits", METRIC)
    with pytest.raises(ValueError, match="the same"):
        path_patch(model, CLEAN, CLEAN, "heads", "logits", METRIC)
    with pytest.raises(ValueError, match="needs its partner"):
        path_patch(model, CLEAN, torch.cat([CORRUPT, CORRUPT]), "heads", "logits", METRIC)


def test_nodes_that_are_not_there_are_refused() -> None:
    model = lk.Model(tiny("llama"))
    with pytest.raises(lk.SiteUnavailable, match=r"head 1\.4 does not exist: layer 1 has heads 0 to 3"):
        path_patch(model, CLEAN, CORRUPT, "1.4", "logits", METRIC)
    with pytest.raises(lk.SiteUnavailable, match="layers 0 to 2"):
        path_patch(model, CLEAN, CORRUPT, "0.0", "7.mlp", METRIC)


def test_a_model_in_which_something_else_mixes_positions_is_refused() -> None:
    with pytest.raises(lk.SiteUnavailable, match="something else mixes positions"):
        path_patch(lk.Model(build("zamba2")), CLEAN, CORRUPT, "heads", "logits", METRIC)
    with pytest.raises(lk.SiteUnavailable, match="'attn_out' does not exist"):
        path_patch(lk.Model(build("rwkv")), CLEAN, CORRUPT, "mlps", "logits", METRIC)


def test_a_hybrid_has_paths_from_its_few_heads() -> None:
    model = lk.Model(build("qwen3_next"))  # attention in the last layer alone
    assert np.abs(path_patch(model, CLEAN, CORRUPT, "heads", "logits", METRIC).effect).max() > 1e-3
    nowhere = path_patch(model, CLEAN, CORRUPT, "heads", "2.0", METRIC, through="q")
    assert (nowhere.effect == 0).all()


def test_nodes_read_themselves() -> None:
    nodes = as_nodes(["9.6", "5.mlp", "5.attn", "embed", (10, 0), "9.6"])
    assert [str(node) for node in nodes] == ["9.6", "5.mlp", "5.attn", "embed", "10.0"]
    assert all(Node.parse(str(node)) == node for node in nodes)


@pytest.mark.parametrize("metric", [kl(), log_prob(11), lambda run: run.logits[0, 3, 11] - run.logits[0, -1, 42]])
def test_every_metric_is_read_as_on_a_whole_run(metric: Any) -> None:
    """A head of the last layer, to the logits: what patching it does."""
    model = lk.Model(tiny("llama", layers=4))
    runs = {"clean": model.run(CLEAN, keep="z"), "corrupt": model.run(CORRUPT, keep="z")}
    ways: tuple[tuple[Direction, Tensor, str], ...] = (("noise", CLEAN, "corrupt"), ("denoise", CORRUPT, "clean"))
    for direction, prompt, source in ways:
        found = path_patch(model, CLEAN, CORRUPT, "3.2", "logits", metric, direction=direction)
        patched = model.run(prompt, edits=lk.Patch("z", runs[source], layers=3, heads=2))
        for run, value in ((patched, found.values[0]), (runs["clean"], found.clean), (runs["corrupt"], found.corrupt)):
            assert value == pytest.approx(by_hand_metric(metric, run, runs["clean"]), abs=3e-5)


def by_hand_metric(metric: Any, run: Any, clean: Any) -> float:
    logs = [each.logits[0, -1].log_softmax(-1) for each in (clean, run)]
    if metric == kl():
        return float((logs[0].exp() * (logs[0] - logs[1])).sum())
    return float(logs[1][11]) if metric == log_prob(11) else float(metric(run))
