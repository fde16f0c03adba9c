"""Model: a Hugging Face causal language model and its tokenizer, as they are."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import cache, cached_property
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn

from lenskit.models.anatomy import Anatomy
from lenskit.models.batch import Batch, Prompt, Side, to_batch
from lenskit.models.check import Check, check
from lenskit.models.run import Run, keeping
from lenskit.models.sites import SiteLike, Sites
from lenskit.models.taps import tapped
from lenskit.models.text import Text


class Model:
    """A language model you can look into: it wraps a Hugging Face causal LM without converting or copying a weight.

    Args:
        hf_model: a causal LM of transformers. It is never changed; hooks are there only while a forward runs.
        tokenizer: its tokenizer. Without one, everything that needs no text works on token ids.
        name: what to call it in results; by default what the config says it was loaded from.
        revision: the revision it was loaded from, for the record; `lk.load` fills it in.

    >>> model = lk.Model(hf_model, tokenizer)  # doctest: +SKIP
    >>> model.run("The capital of France is", keep="resid_post")["resid_post"].shape  # doctest: +SKIP
    torch.Size([30, 1, 5, 576])
    """

    def __init__(
        self,
        hf_model: nn.Module,
        tokenizer: Any | None = None,
        *,
        name: str | None = None,
        revision: str | None = None,
    ) -> None:
        self.hf_model: Any = hf_model  # its parts are the architecture's own
        self.text = Text(tokenizer)
        self.anatomy = Anatomy(hf_model)
        config: Any = getattr(hf_model, "config", None)
        self.name: str = name or getattr(config, "_name_or_path", "") or self.anatomy.family
        self.revision = revision

    # What is here

    @property
    def tokenizer(self) -> Any | None:
        """The tokenizer as it was given."""
        return self.text.tokenizer

    @property
    def n_layers(self) -> int:
        """The number of blocks."""
        return len(self.anatomy.blocks)

    @property
    def device(self) -> torch.device:
        """Where the token ids go in."""
        return next(self.anatomy.embedding.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the embedding."""
        return next(self.anatomy.embedding.parameters()).dtype

    @cached_property
    def sites(self) -> Sites:
        """Which sites can be read here, and why the others cannot. Print it."""
        return Sites(self.anatomy.family, self.anatomy.sites())

    @property
    def provenance(self) -> dict[str, Any]:
        """Where a result of this model comes from, as plain data."""
        return {
            "model": self.name,
            "revision": self.revision,
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "attention": getattr(getattr(self.hf_model, "config", None), "_attn_implementation", None),
            "edits": [],
            "versions": _versions(),
        }

    # Running it

    def batch(self, prompt: Prompt, padding_side: Side | None = None) -> Batch:
        """The prompt as token ids and mask, checked and on the model's device. Raises as `run` does."""
        tokens, mask = to_batch(prompt, self.text, self.anatomy, padding_side)
        return Batch(tokens.to(self.device), None if mask is None else mask.to(self.device))

    def run(
        self,
        prompt: Prompt,
        *,
        keep: SiteLike | Iterable[SiteLike] = (),
        padding_side: Side | None = None,
    ) -> Run:
        """One forward without gradients. The logits are bit-equal to calling the Hugging Face model.

        Args:
            prompt: a text, a list of texts, token ids (pos,) or (batch, pos), or a list of lists of ids.
            keep: the sites whose activations to keep: `"resid_post"` (all layers), `("resid_post", 5)`,
                `"resid_post.5"`, or a list of such. Nothing is kept that is not asked for.
            padding_side: where rows of different length are padded; by default where the tokenizer does. Masks and
                positions are given to the model, so that each row equals its solo run either way.

        Raises:
            TypeError: the prompt is none, or is text and the model has no tokenizer.
            ValueError: the prompt is empty, too long for the model, or has an id outside the vocabulary.
            SiteUnavailable: a site does not exist in this architecture; the message says why and what does.
        """
        return self.run_batch(self.batch(prompt, padding_side), keep)[0]

    def run_batch(self, batch: Batch, keep: SiteLike | Iterable[SiteLike], **more: Any) -> tuple[Run, Any]:
        """The `Run` of a batch, and what the Hugging Face model returned; `more` goes to it as it is."""
        stores, takers = keeping(keep, self.anatomy)
        with tapped(takers):
            output = self.forward(batch, **more)
        return Run(output.logits, batch.tokens, batch.mask, stores, self.provenance, self.text), output

    def forward(self, batch: Batch, **more: Any) -> Any:
        """Call the Hugging Face model on a batch as anyone would, without gradients; `more` goes to it as it is.

        Nothing is switched off for speed: with `use_cache=False`, GPT-J's logits differ in the last bit.
        """
        if batch.mask is not None:
            more["attention_mask"] = batch.mask
            if self._takes_positions:
                more["position_ids"] = batch.positions
        with torch.no_grad():
            return self.hf_model(input_ids=batch.tokens, **more)

    @cached_property
    def _takes_positions(self) -> bool:
        return "position_ids" in inspect.signature(type(self.hf_model).forward).parameters

    def unembed(self, h: Tensor) -> Tensor:
        """The model's own path from the residual stream to logits: final norm, head, scale and soft-cap.

        `h` is (..., d_model), the result (..., vocab). Of the last `resid_post` it gives the logits. Raises
        `SiteUnavailable` where the path could not be verified.
        """
        tail = self.anatomy.tail
        return tail.finish(tail.head(tail.normed(h)))

    def check(self) -> Check:
        """Measure the promises on this very model and give a table of their errors. Print it.

        >>> model.check().passed  # doctest: +SKIP
        True
        """
        return check(self)

    def __repr__(self) -> str:
        dtype = self.provenance["dtype"]
        return f"Model({self.name}, {self.anatomy.family}, {self.n_layers} layers, {dtype} on {self.device})"


@cache
def _versions() -> dict[str, str]:
    return {package: version(package) for package in ("lenskit-interp", "torch", "transformers")}
