"""What an exact patching sweep costs, over one plain Hugging Face forward for each of its cells."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

import lenskit as lk
from bench.interleaved import Ratio, ratio
from lenskit.patching.cells import Cell, Change
from lenskit.patching.engine import Engine

# Positions at which the two prompts agree cost nothing: these differ from here on.
DIFFERS_AT = 4
ANSWERS = (5, 9)
Cells = Callable[[lk.Model, Tensor, Tensor], list[Cell]]
AtLayer = Callable[[int, Tensor], Tensor]


def gpt2_small(layers: int = 12) -> lk.Model:
    """A random model of GPT-2 small's shape."""
    config = AutoConfig.for_model("gpt2", n_layer=layers, bos_token_id=0, eos_token_id=0)
    return lk.Model(AutoModelForCausalLM.from_config(config).eval(), name=f"GPT-2's shape, {layers} layers")


def prompts(length: int, vocab: int) -> tuple[Tensor, Tensor]:
    """Two random prompts (1, pos) that differ from `DIFFERS_AT` on."""
    random = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(vocab, (2, 1, length), generator=random)
    corrupt[:, :DIFFERS_AT] = clean[:, :DIFFERS_AT]
    return clean, corrupt


def by_position(model: lk.Model, clean: Tensor, corrupt: Tensor) -> list[Cell]:
    """Layer x position of `resid_pre`, where the two prompts differ."""
    end = ("resid_post", model.n_layers - 1)
    resid = model.run(clean, keep="resid_pre", stop_at=end)["resid_pre"][:, 0]
    first = int((clean != corrupt)[0].nonzero()[0])
    return [
        Cell((Change("resid_pre", layer, (pos,), resid[layer, pos : pos + 1]),))
        for layer in range(model.n_layers)
        for pos in range(first, clean.shape[1])
    ]


def by_head(model: lk.Model, clean: Tensor, corrupt: Tensor) -> list[Cell]:
    """Layer x head of `z`, at all positions where the two prompts differ."""
    end = ("resid_post", model.n_layers - 1)
    z = model.run(clean, keep="z", stop_at=end)["z"][:, 0]
    pos = tuple(range(int((clean != corrupt)[0].nonzero()[0]), clean.shape[1]))
    return [
        Cell((Change("z", layer, pos, z[layer, pos[0] :, head : head + 1], heads=(head,)),))
        for layer in range(model.n_layers)
        for head in range(z.shape[2])
    ]


def swept(model: lk.Model, clean: Tensor, corrupt: Tensor, cells: Cells) -> Tensor:
    """Both prompts' runs and all cells: the logit difference of two tokens after each, (cell,)."""
    made = cells(model, clean, corrupt)
    out = torch.empty(len(made))
    weight = model.hf_model.get_output_embeddings().weight
    with torch.no_grad():
        direction = weight[ANSWERS[0]] - weight[ANSWERS[1]]
        for chunk in Engine(model, corrupt).run(made, read=[-1]):
            if chunk is not None:
                assert chunk.ends.resid is not None
                out[torch.tensor(chunk.indices)] = model.anatomy.tail.normed(chunk.ends.resid[:, 0]) @ direction
    return out


def sweep(
    name: str,
    model: lk.Model,
    clean: Tensor,
    corrupt: Tensor,
    cells: Cells,
    grid: int,
    bound: float,
    by_hand: Callable[[], object] | None = None,
    pairs: int = 5,
) -> Ratio:
    """A sweep of a `grid` of so many cells, over one plain forward for each."""
    forwards = 5

    def plain() -> None:
        with torch.no_grad():
            for _ in range(forwards):
                model.hf_model(input_ids=corrupt)

    def ours() -> Tensor:
        return swept(model, clean, corrupt, cells)

    found = ratio(f"{name}, over one forward per cell", ours, plain, bound=bound, pairs=pairs, by_hand=by_hand)
    share = forwards / grid
    hand = None if found.by_hand is None else found.by_hand * share
    return replace(found, ratios=[each * share for each in found.ratios], second=found.second / forwards, by_hand=hand)


class ByHand:
    """Both sweeps as one would write them for GPT-2 alone: its weights, one layout, nothing checked."""

    def __init__(self, model: lk.Model, clean: Tensor, corrupt: Tensor) -> None:
        self.body: Any = model.hf_model.transformer
        self.head = model.hf_model.lm_head.weight
        self.clean, self.corrupt = clean, corrupt
        self.length, self.first = clean.shape[1], int((clean != corrupt)[0].nonzero()[0])

    @torch.no_grad()
    def by_position(self) -> Tensor:
        """The logit differences after a patch of `resid_pre`, (layer * pos)."""
        clean, starts = self._run(self.clean)[0], range(self.first, self.length)
        pos = torch.cat([torch.arange(start, self.length) for start in starts])
        cell = torch.cat([torch.full((self.length - start,), start - self.first) for start in starts])
        begins = pos == cell + self.first

        def entering(layer: int, rows: Tensor) -> Tensor:
            rows[begins] = clean[layer][self.first :]
            return rows

        return self._swept(cell, pos, len(starts), entering, None)

    @torch.no_grad()
    def by_head(self) -> Tensor:
        """The logit differences after a patch of a head's `z`, (layer * head)."""
        clean, reach = self._run(self.clean)[2], self.length - self.first
        pos = torch.arange(self.first, self.length).repeat(12)
        cell = torch.arange(12).repeat_interleave(reach)

        def patched(layer: int, z: Tensor) -> Tensor:
            z[torch.arange(len(cell)) - len(cell), cell] = clean[layer][pos, cell]
            return z

        return self._swept(cell, pos, 12, lambda _, rows: rows, patched)

    def _swept(self, cell: Tensor, pos: Tensor, cells: int, entering: AtLayer, patched: AtLayer | None) -> Tensor:
        base, states, _ = self._run(self.corrupt)
        all_pos, all_cell, x = pos[:0], cell[:0], base[0][:0]
        for layer, block in enumerate(self.body.h):
            x = torch.cat([x, entering(layer, base[layer][pos])])
            all_pos, all_cell = torch.cat([all_pos, pos]), torch.cat([all_cell, cell + layer * cells])
            q, k, v = self._heads(block, x)
            at, count = all_cell * self.length + all_pos, (layer + 1) * cells
            wide = [state[None].expand(count, -1, -1, -1).clone() for state in (states[layer][0], *states[layer])]
            for table, state in zip(wide, (q, k, v), strict=True):
                table.view(-1, 12, 64).index_copy_(0, at, state)
            q, k, v = (table.transpose(1, 2) for table in wide)
            z = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(-1, 12, 64)[at]
            x = self._rest(block, x, z if patched is None else patched(layer, z))
        ends = self.body.ln_f(x[all_pos == self.length - 1])
        return ends @ (self.head[ANSWERS[0]] - self.head[ANSWERS[1]])

    def _run(self, ids: Tensor) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]], list[Tensor]]:
        """What enters each layer, each layer's keys and values, and z."""
        x = self.body.wte(ids[0]) + self.body.wpe(torch.arange(self.length))
        resid, states, mixed = list[Tensor](), list[tuple[Tensor, Tensor]](), list[Tensor]()
        for block in self.body.h:
            q, k, v = (state.transpose(0, 1)[None] for state in self._heads(block, x))
            z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            resid, mixed = [*resid, x], [*mixed, z[0].transpose(0, 1)]
            states.append((k[0].transpose(0, 1), v[0].transpose(0, 1)))
            x = self._rest(block, x, mixed[-1])
        return resid, states, mixed

    def _heads(self, block: Any, x: Tensor) -> list[Tensor]:
        return [part.unflatten(-1, (12, 64)) for part in block.attn.c_attn(block.ln_1(x)).chunk(3, -1)]

    def _rest(self, block: Any, x: Tensor, z: Tensor) -> Tensor:
        x = x + block.attn.c_proj(z.flatten(1))
        return x + block.mlp(block.ln_2(x))


def of_gpt2() -> Iterator[Ratio]:
    """Random models of GPT-2's shape: at the size of the bounds, and how the cost grows with prompt and depth."""
    for length, layers, of_positions, of_heads in ((15, 12, 0.035, 0.08), (30, 12, 0.09, 0.2), (15, 24, 0.05, 0.1)):
        model = gpt2_small(layers)
        pair = prompts(length, model.anatomy.vocab)
        hand = ByHand(model, *pair)
        for cells, by_hand, columns, bound, what in (
            (by_position, hand.by_position, length, of_positions, "positions of resid_pre"),
            (by_head, hand.by_head, 12, of_heads, "heads of z"),
        ):
            torch.testing.assert_close(swept(model, *pair, cells), by_hand(), atol=1e-4, rtol=0)
            name = f"{layers} x {columns} {what}, {length} tokens, {model.name}"
            yield sweep(name, model, *pair, cells, layers * columns, bound, by_hand, pairs=3)


def of_the_demo_model(model: lk.Model) -> Iterator[Ratio]:
    """The two prompts of indirect object identification."""
    texts = [f"When Mary and John went to the store, {name} gave a drink to" for name in ("John", "Mary")]
    clean, corrupt = (torch.tensor([model.text.ids(text)]) for text in texts)
    yield sweep(
        f"{model.n_layers} x {clean.shape[1]} positions of resid_pre, the demo model",
        model,
        clean,
        corrupt,
        by_position,
        model.n_layers * clean.shape[1],
        0.02,
    )


def first_time() -> str:
    """What the very first sweep of a model takes more: finding its sites, and the check against plain forwards."""
    seconds = list[float]()
    model = gpt2_small()
    pair = prompts(15, model.anatomy.vocab)
    for _ in range(2):
        begun = time.perf_counter()
        swept(model, *pair, by_position)
        seconds.append(time.perf_counter() - begun)
    return f"     the first 12 x 15 sweep of {model.name}: {seconds[0]:.2f} s, the second {seconds[1]:.2f} s"


def report(demo: lk.Model) -> Iterator[object]:
    """Every figure, as it is measured."""
    yield from of_gpt2()
    yield from of_the_demo_model(demo)
    yield first_time()


if __name__ == "__main__":
    torch.set_num_threads(1)
    for line in report(lk.load("demo")):
        print(line, flush=True)
