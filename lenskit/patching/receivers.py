"""Receivers: what the parts of one layer make of an input of their own, run on copies, and the way back through them.

Each row of a batch is a copy of the prompt on which one block runs, from its input on and no further than needed. So
a head can be given another input than its neighbours, and the gradient of one head's query alone leads back to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lenskit.models.edits import Set
from lenskit.models.sites import Site, SiteUnavailable
from lenskit.patching.wiring import Input, Wiring

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.models.run import Run

ROWS = 64
SITE = {"q": "q", "k": "k", "v": "v", "attn": "attn_out", "mlp": "mlp_out", "logits": "resid_post"}
"""Where it shows what a receiver makes of its input; of the logits, the input itself."""


@dataclass(frozen=True)
class Receivers:
    """The receivers of a model on one prompt.

    tokens: (1, pos); which tokens they are does not matter, since the blocks are given their inputs.
    base: the run that gives what the other parts of a block hold: `resid_pre` of every layer is needed.
    """

    model: Model
    wiring: Wiring
    tokens: Tensor
    base: Run

    # Forward

    def inside(self, layer: int, inputs: Tensor) -> dict[str, Tensor]:
        """What attention makes of inputs (row, pos, d_model): its q, k, v (row, pos, head, d_head), or its attn_out."""
        names = self._attention_sites(layer)
        return self.through(layer, inputs, names) if names else {}

    def attended(self, layer: int, inside: Mapping[str, Tensor], keep: Sequence[str]) -> Run:
        """The run of one block with these q, k, v in it, as far as the last of `keep`."""
        edits = [Set(name, value, layers=layer) for name, value in inside.items()]
        sites = [Site(name, layer) for name in keep]
        resid = self.base["resid_pre", layer]
        return self.model.run(
            self.tokens, start_at=layer, resid=resid, edits=edits, keep=sites, stop_at=self._last(layer, keep)
        )

    def mlp(self, layer: int, inputs: Tensor) -> Tensor:
        """What the MLP adds to the residual stream (row, pos, d_model) when it reads these."""
        if layer in self.wiring.serial:
            return self.through(layer, inputs, ["mlp_out"], "resid_mid")["mlp_out"]
        return self.through(layer, inputs, ["mlp_out"])["mlp_out"]

    def through(self, layer: int, inputs: Tensor, names: Sequence[str], at: str = "resid_pre") -> dict[str, Tensor]:
        """What a block holds at these sites when it (or its MLP, at `resid_mid`) reads these inputs."""
        sites, stop = [Site(name, layer) for name in names], self._last(layer, names)
        found = {name: list[Tensor]() for name in names}
        for rows in inputs.to(self.model.dtype).split(ROWS):
            edits, resid = [], rows
            if at != "resid_pre":
                edits = [Set(at, rows, layers=layer)]
                resid = self.base["resid_pre", layer].expand(len(rows), -1, -1)
            run = self.model.run(
                self.tokens.expand(len(rows), -1), start_at=layer, resid=resid, edits=edits, keep=sites, stop_at=stop
            )
            for name, parts in found.items():
                parts.append(run[name, layer])
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _attention_sites(self, layer: int) -> list[str]:
        kinds = dict.fromkeys(node.kind for node in self.wiring.of_layer(layer, "q", "k", "v", "attn"))
        return [SITE[kind] for kind in kinds]

    def _last(self, layer: int, names: Sequence[str]) -> Site:
        order = self.model.anatomy.order.of_layer(layer)
        return Site(max(names, key=order.index), layer)

    # And back

    def slopes(self, grads: Mapping[str, Tensor], layer: int) -> dict[Input, Tensor]:
        """The gradient (pos, d_model) with respect to each receiver's own input, all else held, in one layer.

        grads: of this layer, the gradients of the metric at `q k v` (1, pos, head, d_head), `attn_out`, `mlp_out`.
        """
        found = dict[Input, Tensor]()
        if nodes := self.wiring.of_layer(layer, "q", "k", "v", "attn"):
            back = self._back_through_attention(layer, grads, nodes)
            found |= dict(zip(nodes, back, strict=True))
        for node in self.wiring.of_layer(layer, "mlp"):
            found[node] = self._back_through_mlp(layer, grads["mlp_out"])
        return found

    def _back_through_attention(self, layer: int, grads: Mapping[str, Tensor], nodes: Sequence[Input]) -> Tensor:
        """(receiver, pos, d_model): each row's loss is that of one receiver, so that its gradient is its own."""
        names = self._attention_sites(layer)

        def loss(run: Run) -> Tensor:
            terms, row = list[Tensor](), 0
            for name in names:
                own, towards = run[name, layer], grads[name][0]
                if name == "attn_out":
                    terms.append((own[0] * towards).sum())
                    continue
                heads = towards.shape[1]  # row h is the copy on which head h is asked for its gradient
                terms.append(torch.einsum("hphd,phd->", own[row : row + heads], towards))
                row += heads
            return torch.stack(terms).sum()

        run = self.model.run(
            self.tokens.expand(len(nodes), -1),
            start_at=layer,
            resid=self.base["resid_pre", layer].expand(len(nodes), -1, -1),
            keep=[Site("resid_pre", layer), *(Site(name, layer) for name in names)],
            stop_at=self._last(layer, names),
            grads=loss,
        )
        return run.grad["resid_pre", layer]

    def _back_through_mlp(self, layer: int, towards: Tensor) -> Tensor:
        """(pos, d_model)."""
        serial = layer in self.wiring.serial
        reads = Site("resid_mid" if serial else "resid_pre", layer)
        attention = [] if serial or not self._attention_sites(layer) else [Site("attn_out", layer)]
        run = self.model.run(
            self.tokens,
            start_at=layer,
            resid=self.base["resid_pre", layer],
            keep=[reads, *attention, Site("mlp_out", layer)],
            stop_at=Site("mlp_out", layer),
            grads=lambda run: (run["mlp_out", layer] * towards).sum(),
        )
        for site in attention:
            if bool(run.grad[site].any()):
                raise SiteUnavailable(
                    f"the MLP of layer {layer} of {self.model.anatomy.family} reads what its attention writes, and "
                    "where it reads it is no site here ('resid_mid'), so that its edges cannot be told apart."
                )
        return run.grad[reads][0]
