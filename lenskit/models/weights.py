"""Weights: the model's matrices under TransformerLens's names, to be read by layer and head and never written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from lenskit.models.anatomy import Anatomy
from lenskit.models.sites import SiteUnavailable
from lenskit.models.weighing.composition import composition_scores
from lenskit.models.weighing.embeddings import Found, Table
from lenskit.models.weighing.factored import FactoredMatrix
from lenskit.models.weighing.norms import Norm, wide
from lenskit.models.weighing.views import Stacked, StackedFactors, View

_READS = {"Q": "attn_in", "K": "attn_in", "V": "attn_in", "in": "mlp_in", "gate": "mlp_in"}
MATRICES = ("W_E", "W_pos", "W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out", "W_U")
BIASES = ("b_Q", "b_K", "b_V", "b_O", "b_in", "b_gate", "b_out", "b_U")


@dataclass(frozen=True, repr=False)
class Weights:
    """The model's weights as vectors meet them, `x @ W + b`, with the numbers of the Hugging Face model.

    Where they are in this architecture's modules is found by value and verified (`projections.py`), on the first use:
    two short forwards. What they promise, at every layer, in the sites' own numbers:

        W_E[tokens] == embed                          W_pos[:n] == pos_embed
        attn_in @ W_Q + b_Q == q before rotary        the same for k and v, by key-value head
        (z @ W_O).sum(heads) + b_O == attn_out        mlp_post @ W_out + b_out == mlp_out
        mlp_in @ W_in + b_in == mlp_pre               gated: W_gate gives mlp_pre, and W_in what multiplies it
        final_norm @ W_U + b_U == logits              before a soft-cap

    A number by which the model itself multiplies (Granite's residual multiplier, OPT's query scale, Cohere's logit
    scale) is therefore inside the views. Where a norm stands between (Qwen's per-head norms, Gemma's post-norms) the
    view ends before it, and `notes` says so; print the weights to see all of it. A bias that a model does not have is
    zeros. What cannot be found raises `SiteUnavailable` with the reason.

    Views are read-only copies of what the model holds at that moment; one layer is copied without the others. The
    large ones are copied only as far as they are asked for (GPT-2's W_E is 154 MB, Llama-3 8B's W_U 1 to 2 GB): prefer
    `W_U[:, token]` and `x @ W_U`, which copy little or nothing.

    >>> w = model.weights                                                          # doctest: +SKIP
    >>> w.W_Q.shape, w.W_Q[5].shape                                                # doctest: +SKIP
    (torch.Size([12, 12, 768, 64]), torch.Size([12, 768, 64]))
    >>> w.OV[5, 1].svd().S, w.folded().composition("K")[4, 11, 5]                  # doctest: +SKIP
    """

    found: Found
    is_folded: bool = False
    is_centred: bool = False
    unembeds_centred: bool = False

    @classmethod
    def of(cls, anatomy: Anatomy) -> Weights:
        """The weights of the model whose anatomy this is."""
        return cls(Found(anatomy))

    # The matrices

    @property
    def W_E(self) -> View:
        """The token embedding, (vocab, d_model)."""
        return self._table("W_E", self.found.embedding)

    @property
    def W_pos(self) -> View:
        """The learned position embedding, (context, d_model); there is none in a model with rotary embeddings."""
        return self._table("W_pos", self.found.positions)

    @property
    def W_U(self) -> View:
        """The unembedding, (d_model, vocab)."""
        head = self.found.head
        if not (self.is_folded or self.unembeds_centred):
            return View("W_U", head.weight)
        gain = self.found.final_norm.gain if self.is_folded else None

        def read() -> Tensor:
            weight = wide(head.weight())
            weight = weight if gain is None else weight * gain.to(weight.device)[:, None]
            return weight - weight.mean(-1, keepdim=True) if self.unembeds_centred else weight

        return View("W_U", read)

    @property
    def W_Q(self) -> Stacked:
        """The queries', (layer, head, d_model, d_head), before rotary embedding and per-head norms."""
        return self._matrix("W_Q")

    @property
    def W_K(self) -> Stacked:
        """The keys', (layer, kv_head, d_model, d_head); `by_query_head("W_K")` repeats them for each query head."""
        return self._matrix("W_K")

    @property
    def W_V(self) -> Stacked:
        """The values', (layer, kv_head, d_model, d_head); `by_query_head("W_V")` repeats them for each query head."""
        return self._matrix("W_V")

    @property
    def W_O(self) -> Stacked:
        """The heads' output, (layer, head, d_head, d_model)."""
        return self._written("W_O")

    @property
    def W_in(self) -> Stacked:
        """The MLP's input, (layer, d_model, d_mlp); in a gated MLP what multiplies the gate."""
        return self._matrix("W_in")

    @property
    def W_gate(self) -> Stacked:
        """A gated MLP's gate, (layer, d_model, d_mlp): what enters the nonlinearity."""
        return self._matrix("W_gate")

    @property
    def W_out(self) -> Stacked:
        """The MLP's output, (layer, d_mlp, d_model)."""
        return self._written("W_out")

    # The biases

    @property
    def b_Q(self) -> Stacked:
        """(layer, head, d_head)"""
        return self._bias("b_Q")

    @property
    def b_K(self) -> Stacked:
        """(layer, kv_head, d_head)"""
        return self._bias("b_K")

    @property
    def b_V(self) -> Stacked:
        """(layer, kv_head, d_head)"""
        return self._bias("b_V")

    @property
    def b_O(self) -> Stacked:
        """(layer, d_model)"""
        return self._written("b_O")

    @property
    def b_in(self) -> Stacked:
        """(layer, d_mlp)"""
        return self._bias("b_in")

    @property
    def b_gate(self) -> Stacked:
        """(layer, d_mlp)"""
        return self._bias("b_gate")

    @property
    def b_out(self) -> Stacked:
        """(layer, d_model)"""
        return self._written("b_out")

    @property
    def b_U(self) -> View:
        """(vocab,)"""

        def read() -> Tensor:
            bias, head = self.found.head.bias(), self.found.head
            beta = self.found.final_norm.bias if self.is_folded else None
            if beta is not None:
                bias = wide(bias) + beta.to(bias.device) @ wide(head.weight())
            return wide(bias) - wide(bias).mean() if self.unembeds_centred else bias

        _ = self.found.head
        return View("b_U", read)

    # Products

    @property
    def QK(self) -> StackedFactors:
        """`W_Q @ W_K.T` of each query head, (layer, head, d_model, d_model): what a position looks for, and in what.

        `x @ QK @ y` is the score of a query that reads `x` and a key that reads `y`, before scale, biases, rotary
        embedding and per-head norms. So with rotary embeddings it is the score at relative position zero only.
        """

        def read(layer: int) -> FactoredMatrix:
            return FactoredMatrix(self.W_Q[layer], self.by_query_head("W_K")[layer].mT)

        return StackedFactors("QK", self._layers, read)

    @property
    def OV(self) -> StackedFactors:
        """`W_V @ W_O` of each query head, (layer, head, d_model, d_model): what it writes of the position it looks at.

        `x @ OV` is added to the residual stream at full attention to a position whose `attn_in` is `x`, but for biases.
        """

        def read(layer: int) -> FactoredMatrix:
            return FactoredMatrix(self.by_query_head("W_V")[layer], self.W_O[layer])

        return StackedFactors("OV", self._layers, read)

    def by_query_head(self, name: Literal["W_K", "W_V", "b_K", "b_V"]) -> Stacked:
        """Keys' or values' weights repeated for each query head that shares them, (layer, head, ...).

        Raises `SiteUnavailable` where query heads do not share key-value heads evenly.
        """
        if name not in ("W_K", "W_V", "b_K", "b_V"):
            raise ValueError(f"only W_K, W_V, b_K and b_V go by key-value head, not {name!r}.")
        view: Stacked = getattr(self, name)
        repeat = lambda layer: view[layer].repeat_interleave(self.found.parts.group(layer), dim=0)  # noqa: E731
        return Stacked(f"{name} by query head", self._layers, repeat)

    def composition(self, kind: Literal["Q", "K", "V"]) -> Tensor:
        """How much of what a head writes a later head reads as query, key or value, (layer, head, layer, head).

        The writer comes first: `scores[4, 11, 5, 1]` is head 11 of layer 4 into head 1 of layer 5. As in Elhage et al.,
        "A Mathematical Framework for Transformer Circuits" (2021): `|OV R| / (|OV| |R|)` in Frobenius norms, with QK,
        its transpose, or OV of the reader as R; zero where the reader is not in a later layer. Random matrices give
        about `d_model ** -0.5`. The paper's numbers are those of `weights.folded().composition(kind)`.
        """
        if kind not in ("Q", "K", "V"):
            raise ValueError(f"composition is of kind 'Q', 'K' or 'V', not {kind!r}.")
        return composition_scores(self.OV, self.OV if kind == "V" else self.QK, transposed=kind == "K")

    def accumulated_bias(
        self, layer: int, *, mlp_input: bool = False, mlp_biases: bool = True, value_biases: bool = False
    ) -> Tensor:
        """What biases alone have added to the residual stream before a layer, (d_model,), as TransformerLens counts.

        Args:
            layer: 0 to the number of layers; the last is the end of the model.
            mlp_input: count up to the MLP of that layer: its `b_O` too.
            mlp_biases: count `b_out`.
            value_biases: count what `b_V` becomes through `W_O`, as TransformerLens does by folding it into `b_O`. It
                is a constant where each pattern row sums to one.

        Raises `SiteUnavailable` where a norm stands before the residual stream: through it, biases do not add up.
        """
        if not 0 <= layer <= self._layers or (mlp_input and layer == self._layers):
            raise IndexError(f"there is no input of layer {layer}: this model has layers 0 to {self._layers - 1}.")
        total = self.b_O[0] * 0
        for at in range(layer + mlp_input):
            added = ("W_O", "W_out") if mlp_biases and at < layer else ("W_O",)
            if any(self.found.parts.writer(name, at).post_norm is not None for name in added):
                raise SiteUnavailable(
                    f"accumulated_bias does not exist in {self.found.anatomy.family}: a norm stands before the "
                    "residual stream, and through it biases do not add up. Use b_O and b_out."
                )
            total = total + self.b_O[at].to(total)
            if value_biases:
                total = total + (self.by_query_head("b_V")[at][:, None] @ self.W_O[at]).sum((0, 1)).to(total)
            if "W_out" in added:
                total = total + self.b_out[at].to(total)
        return total

    # Other ways to see the same model

    def folded(self) -> Weights:
        """The same weights with each norm's gain and bias inside the matrix that reads it; the model is not touched.

        Then `norm(...).normalise(resid) @ W_Q + b_Q == q`, with `resid_pre` before `attn_in`, `resid_mid` before
        `mlp_in` and the last `resid_post` before W_U: every reader meets the residual stream in the same coordinates.
        In float32 at least; W_U is computed as a whole. Raises `SiteUnavailable`, when a view is read, where the norm
        before it is none that is known.
        """
        return Weights(self.found, True, self.is_centred, self.unembeds_centred)

    def centred(self, *, writing: bool = True, unembed: bool = True) -> Weights:
        """The same weights without what the model cannot notice; the model is not touched.

        Args:
            writing: subtract from all that writes (W_E, W_pos, W_O, b_O, W_out, b_out) its mean over d_model, which
                every LayerNorm subtracts anyway.
            unembed: subtract from W_U and b_U their mean over the vocabulary, which the softmax does not see.

        Raises `SiteUnavailable` for `writing` unless all norms are LayerNorms, and for `unembed` before a soft-cap.
        """
        if writing:
            self._only_layer_norms()
        if unembed and self.found.anatomy.tail.softcap is not None:
            raise SiteUnavailable(
                f"centring W_U would change {self.found.anatomy.family}: a soft-cap sees what a softmax does not. "
                "Use centred(unembed=False)."
            )
        return Weights(self.found, self.is_folded, self.is_centred or writing, self.unembeds_centred or unembed)

    def norm(self, site: Literal["attn_in", "mlp_in", "final_norm"], layer: int | None = None) -> Norm:
        """The norm between the residual stream and a site, taken apart. Raises `SiteUnavailable` if it is none."""
        if site == "final_norm":
            return self.found.final_norm
        if layer is None or not 0 <= layer < self._layers:
            raise IndexError(f"which layer's norm? This model has layers 0 to {self._layers - 1}.")
        return self.found.parts.norm(site, layer)

    # What is there

    @property
    def notes(self) -> dict[str, str]:
        """By the view's name: what stands between it and the site that it is said to give, or is inside it."""
        notes = self.found.notes()
        for layer in self.found.parts.layers:
            for name, part in (*layer.readers.items(), *layer.writers.items()):
                said = [part.note] if part.note else []
                said += [f"times {part.factor:.6g}, as the model does"] if part.factor != 1.0 and not part.note else []
                if said:
                    notes.setdefault(name, "; ".join(said))
            if not layer.mixed:
                notes.setdefault("W_O", "a gate or a norm stands between the heads' values and what it reads")
        return notes

    def __repr__(self) -> str:
        how = [name for name, on in (("folded", self.is_folded), ("centred", self.is_centred)) if on]
        notes, lines = self.notes, [f"Weights of {self.found.anatomy.family}{', ' if how else ''}{' and '.join(how)}"]
        for name in (*MATRICES, *BIASES):
            try:
                text = str(tuple(getattr(self, name).shape))
                text += f"  {notes[name]}" if name in notes else ""
            except SiteUnavailable as error:
                text = f"unavailable: {error}"
            lines.append(f"  {name:<7} {text}")
        return "\n".join(lines)

    # How they are read

    @property
    def _layers(self) -> int:
        return len(self.found.anatomy.blocks)

    def _table(self, name: str, table: Table) -> View:
        if not self.is_centred:
            return View(name, table.weight)
        return View(name, lambda: _without_mean(table.weight()))

    def _folds(self, name: str, layer: int) -> Norm:
        return self.found.parts.norm(_READS[name[2:]], layer) if self.is_folded else Norm()

    def _matrix(self, name: str) -> Stacked:
        def read(layer: int) -> Tensor:
            weight = self.found.parts.reader(name, layer).weight()
            gain = self._folds(name, layer).gain
            return weight if gain is None else wide(weight) * gain.to(weight.device)[:, None]

        return Stacked(name, self._layers, read)

    def _bias(self, name: str) -> Stacked:
        def read(layer: int) -> Tensor:
            reader = self.found.parts.reader(f"W_{name[2:]}", layer)
            beta = self._folds(name, layer).bias
            if beta is None:
                return reader.bias()
            weight = wide(reader.weight())
            return wide(reader.bias()) + beta.to(weight.device) @ weight

        return Stacked(name, self._layers, read)

    def _written(self, name: str) -> Stacked:
        def read(layer: int) -> Tensor:
            writer = self.found.parts.writer(f"W_{name[2:]}", layer)
            weight = writer.weight() if name.startswith("W") else writer.bias()
            return _without_mean(weight) if self.is_centred else weight

        return Stacked(name, self._layers, read)

    def _only_layer_norms(self) -> None:
        parts = self.found.parts
        norms = [self.found.final_norm]
        for layer in range(self._layers):
            norms += [parts.norm("attn_in", layer), parts.norm("mlp_in", layer)]
            norms += [norm for name in ("W_O", "W_out") if (norm := parts.writer(name, layer).post_norm)]
        other = next((norm for norm in norms if not norm.centres), None)
        if other is not None:
            what = "nothing" if other.module is None else type(other.module).__name__
            raise SiteUnavailable(
                f"centring what writes would change {self.found.anatomy.family}: only LayerNorms subtract the mean, "
                f"and here {what} stands before a reader. Use centred(writing=False)."
            )


def _without_mean(weight: Tensor) -> Tensor:
    weight = wide(weight)
    return weight - weight.mean(-1, keepdim=True)
