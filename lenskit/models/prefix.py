"""Prefix: the keys and values of a prompt that was run, so that a longer or edited one runs only from the change on."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lenskit.models.batch import Batch
from lenskit.models.finding.wrapped import adapters
from lenskit.models.run import Run
from lenskit.models.sites import SiteLike

if TYPE_CHECKING:
    from lenskit.models.model import Model

# Rotary embeddings whose frequencies depend on the length of the prompt: a kept key would be another's.
_LENGTH_DEPENDENT = ("dynamic", "longrope")


class Prefix:
    """Runs prompts of one model one after another, and computes only what the last one does not already hold.

    Keys and values are kept by the model's own cache. Where there is none, where it is more than keys and values of
    every position (sliding windows, state spaces, convolutions) or where they depend on the prompt's length, nothing
    is kept and every run is whole.

    >>> prefix = Prefix(model)                                     # doctest: +SKIP
    >>> prefix.run(tokens, keep="resid_post", known=0).tokens.shape         # doctest: +SKIP
    torch.Size([1, 5])
    >>> prefix.run([*tokens, 42], keep="resid_post", known=5).tokens.shape  # doctest: +SKIP
    torch.Size([1, 1])
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.tokens: list[int] = []
        self._adapters: list[str] = []
        self._states: list[tuple[Tensor, Tensor] | None] = []

    @cached_property
    def reusable(self) -> bool:
        """Whether this architecture's cache is nothing but the keys and values of every position."""
        from transformers import DynamicCache
        from transformers.cache_utils import DynamicLayer

        config: Any = getattr(self.model.anatomy.model, "config", None)
        takes = inspect.signature(type(self.model.anatomy.model).forward).parameters
        if config is None or "past_key_values" not in takes or not self.model.anatomy.causal:
            return False
        text = config.get_text_config(decoder=True)
        rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
        if any(kind in str(rope) for kind in _LENGTH_DEPENDENT):
            return False
        layers = DynamicCache(config=config).layers
        return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)

    def shared(self, tokens: Sequence[int]) -> int:
        """How many leading tokens need not run again."""
        if self.model.edits or self._adapters != adapters(self.model.anatomy.modules):
            return 0
        if not self.reusable:
            return len(self.tokens) if list(tokens) == self.tokens else 0
        return common_length(tokens, self.tokens)

    def run(self, tokens: Sequence[int], keep: SiteLike | Iterable[SiteLike], *, known: int) -> Run:
        """Run what comes after the shared prefix, at least the last token, and remember the whole.

        `known` is how many leading positions the caller has no need of: never more than those are left out. The
        `Run` holds the positions that were computed, `tokens[-n:]`. An exception, or a forward that is given up,
        leaves the prefix as it was.
        """
        batch = self.model.batch(list(tokens))
        if not self.reusable or self.model.edits:
            run, _ = self.model.run_batch(batch, keep)
            self.tokens = list(tokens) if not self.model.edits else []
            self._adapters = adapters(self.model.anatomy.modules)
            return run
        start = min(self.shared(tokens), known, len(tokens) - 1)
        cache = self._cache(start)
        rest = Batch(batch.tokens[:, start:], None)
        run, output = self.model.run_batch(rest, keep, past_key_values=cache, use_cache=True)
        layers = output.past_key_values.layers
        self._states = [None if layer.keys is None else (layer.keys, layer.values) for layer in layers]
        self.tokens, self._adapters = list(tokens), adapters(self.model.anatomy.modules)
        return run

    def _cache(self, length: int) -> Any:
        """A cache of its own for one run, so that a run that is given up has spoilt nothing."""
        from transformers import DynamicCache

        config: Any = self.model.anatomy.model.config
        cache = DynamicCache(config=config)
        if length:
            for layer, state in enumerate(self._states):
                if state is not None:
                    keys, values = state
                    cache.update(keys[..., :length, :], values[..., :length, :], layer)
        return cache


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """How many leading tokens two prompts have in common.

    >>> common_length([1, 2, 3], [1, 2, 9, 3])
    2
    """
    pairs = enumerate(zip(a, b, strict=False))
    return next((n for n, (x, y) in pairs if x != y), min(len(a), len(b)))
