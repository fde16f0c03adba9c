"""Generate from a layer: what the model would write if the lens of one layer had the word."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lenskit.lenses.reading import rows_of
from lenskit.models.batch import Prompt
from lenskit.models.edits import Call, Edit, as_edits
from lenskit.models.generate import Generation

if TYPE_CHECKING:
    from lenskit.lenses.lens import Lens


def generate_from(
    lens: Lens,
    prompt: Prompt,
    layer: int,
    max_new_tokens: int = 20,
    *,
    edits: Edit | Iterable[Edit] = (),
    **generate_kwargs: Any,
) -> Generation:
    """Write on with what a layer predicts: its state goes through the lens, and every new token is the lens's.

    It is `model.generate` in all else: greedy by default, sampled with `do_sample=True, temperature=0.7`, in batches
    padded on the left, until the end-of-text token, with the cache, and with edits.

    Args:
        prompt: as in `model.run`.
        layer: which row of a reading speaks, counted from the end if negative; the last is the model itself.
        max_new_tokens: how many tokens to write at most.

    Raises what `model.generate` raises, and `IndexError` for a row that does not exist.
    Source: `TunedLens.generate` of tuned-lens.

    >>> tuned.generate("The capital of France is", layer=24, max_new_tokens=5).text  # doctest: +SKIP
    """
    rows = rows_of(lens)
    if not -len(rows) <= layer < len(rows):
        raise IndexError(f"row {layer} does not exist: this lens has rows 0 to {len(rows) - 1}, the last the model.")
    if layer % len(rows) == len(rows) - 1:
        return lens.model.generate(prompt, max_new_tokens, edits=edits, **generate_kwargs)
    site = rows[layer]
    seen: dict[str, Tensor] = {}

    def look(h: Tensor) -> Tensor:
        seen["h"] = h[:, -1]
        return h

    def speak(logits: Tensor) -> Tensor:
        said = lens.model.unembed(lens.transport(seen["h"], site))
        logits[:, -1] = said.to(logits.dtype)
        return logits

    speaking = [Call(site.name, look, layers=site.layer), Call("logits", speak)]
    return lens.model.generate(prompt, max_new_tokens, edits=[*as_edits(edits), *speaking], **generate_kwargs)
