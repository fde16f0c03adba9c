"""Generate: Hugging Face's own generation, step by step: with edits, with what is kept, and as a stream of tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lenskit.models.batch import Batch
from lenskit.models.origin import Origin
from lenskit.models.run import Run
from lenskit.models.running.clean import Clean
from lenskit.models.running.kept import Keeping, Kept
from lenskit.models.running.places import Moment
from lenskit.models.running.plan import Plan, sites_of, wanted
from lenskit.models.sites import NAMES, Site, SiteLike, axes_of
from lenskit.models.taps import Point, Taker

if TYPE_CHECKING:
    from lenskit.models.model import Model
    from lenskit.models.text import Text

OnToken = Callable[[list[int]], object]


@dataclass(frozen=True, eq=False)
class Generation:
    """What a model wrote, and what was kept while it did.

    Attributes:
        tokens: (batch, pos), the prompts, padded on the left, and what was written after them.
        mask: (batch, pos) of the prompts, 1 for a real token; None where nothing is padded.
        prompt_length: how many columns the prompts have.
        steps: a `Run` for each forward, with what was asked to be kept: step 0 read the prompt and wrote the first new
            token, step n read the n-th new token. Their logits are there where `keep` names "logits".
        last_logits: (batch, pos, vocab), those of the last step.
        provenance: model, versions, edits, and the options of the generation.
    """

    tokens: Tensor
    mask: Tensor | None
    prompt_length: int
    steps: tuple[Run, ...] = field(repr=False)
    last_logits: Tensor = field(repr=False)
    provenance: Mapping[str, Any] = field(repr=False)
    text_of: Text = field(repr=False)
    ends: frozenset[int] = field(repr=False)

    @cached_property
    def new_tokens(self) -> list[list[int]]:
        """The new token ids of each row, up to and with the end of the text where one was written."""
        rows = self.tokens[:, self.prompt_length :].tolist()
        return [row[: next((n + 1 for n, i in enumerate(row) if i in self.ends), len(row))] for row in rows]

    @cached_property
    def text(self) -> list[str]:
        """What was written, row by row, without the prompt and the end of the text."""
        return [self.text_of.decode([i for i in row if i not in self.ends]) for row in self.new_tokens]

    def __getitem__(self, what: SiteLike) -> Tensor:
        """A site over all steps, one position after another, as a run of the whole text would have kept it.

        It covers every token but the last new one, which no forward has read. Of a site that was kept at some
        positions only, those, in the order in which they came. Raises `KeyError` for what was not kept.
        """
        site = Site.parse(what)
        there = [n for n, step in enumerate(self.steps) if _has(step, site)]
        if not there:
            return self.steps[0][site]  # raises with the reason
        store = self.steps[0].kept.get(site.name)
        if site.layer is None and store is not None and store.layers:
            _ = self.steps[there[0]][site]  # raises where some layers were not kept
            return torch.stack([self[site.name, layer] for layer in store.layers])
        axes = axes_of(site.name)
        axis = axes.pos - (site.head is not None and axes.head is not None and axes.head < axes.pos)
        parts, covered = list[Tensor](), 0
        for n in there:
            part, end = self.steps[n][site], self.prompt_length + n
            if site.name in ("scores", "pattern"):
                part = _with_keys(part, end, self.tokens.shape[1] - 1, 0.0 if site.name == "pattern" else -torch.inf)
            if store is None or store.how.pos is None:  # without a cache, each step reads the text anew
                part = part.narrow(axis, part.shape[axis] - (end - covered), end - covered)
            parts.append(part)
            covered = end
        return torch.cat(parts, axis)

    def __repr__(self) -> str:
        rows, length = self.tokens.shape
        shown = repr(self.text[0]) if rows == 1 and self.text_of.tokenizer is not None else f"{rows} rows"
        return f"Generation({shown}, {length - self.prompt_length} new tokens)"


def generated(
    model: Model,
    batch: Batch,
    stepping: Stepping,
    between_steps: Callable[[Moment], None] | None = None,
    *,
    max_new_tokens: int,
    on_token: OnToken | None = None,
    **options: Any,
) -> Generation:
    """Generate, with the taps of a plan on: before each forward the stepping tells it where in the text it stands.

    Raises `ValueError` for ways of generating whose forwards are not one for each token of each row.
    """
    hf: Any = model.anatomy.model
    options = _greedy_unless_asked(hf, options)
    stepping.start(batch, between_steps)
    if stepping.plan.recalled:
        stepping.plan.clean = Clean(model, batch, stepping.plan.recalled)
    _check(hf, options, max_new_tokens, stepping)
    if stepping.needs_all_logits and hf._supports_logits_to_keep():
        options.setdefault("logits_to_keep", 0)  # else those of the prompt are computed for its last token only
    mask = torch.ones_like(batch.tokens) if batch.mask is None else batch.mask
    try:
        with torch.no_grad(), model.anatomy.eagerly():
            made = hf.generate(
                input_ids=batch.tokens,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                streamer=None if on_token is None else _Stream(on_token),
                **options,
            )
        tokens = made if isinstance(made, Tensor) else made.sequences
        origin = model.origin(stepping.plan.edits, generate=_plain(options))
        steps = tuple(stepping.run(n, model, origin, tokens) for n in range(stepping.step + 1))
        assert stepping.last_logits is not None
        mask = None if batch.mask is None else batch.mask.repeat_interleave(len(tokens) // len(batch.tokens), 0)
        length, ends = batch.tokens.shape[1], _ends(hf, options)
        return Generation(tokens, mask, length, steps, stepping.last_logits, origin.as_dict(), model.text, ends)
    finally:
        stepping.forget()


class Stepping:
    """The forwards of a generation: which one is running, and the stores that it fills."""

    def __init__(self, plan: Plan, keep: SiteLike | Iterable[SiteLike], how: Keeping) -> None:
        self.plan, self.how, self.step = plan, how, -1
        self.last_logits: Tensor | None = None
        self._batch: Batch | None = None
        self._between: Callable[[Moment], None] | None = None
        self._moments: list[Moment] = []
        self._stores: list[dict[str, Kept]] = []
        self._logits: list[Tensor] | None = [] if any(s.name == "logits" for s in sites_of(keep)) else None
        anatomy = plan.anatomy
        self._wanted = wanted(keep, anatomy.depth)
        self._inside = False
        written = {edit.writes for edit in plan.edits}
        # A path may lead to the head, or to something in it.
        self.needs_all_logits = self._logits is not None or any(
            name == "logits" or name not in NAMES for name in (*self._wanted, *written)
        )
        for name, layers in self._wanted.items():
            for row, spot in enumerate(anatomy.spots(name, tuple(layers))):
                plan.add_at(name, spot.point, spot.taking(self._taker(name, row), plan.moment.rows))
        plan.first(Point(anatomy.embedding, "input"), self._begin)
        plan.add(anatomy.spot(Site("logits")).point, self._end)

    @property
    def watches(self) -> bool:
        """Whether anything depends on what a step is."""
        return bool(self.plan.edits or self._wanted or self._logits is not None or self._between)

    def start(self, batch: Batch, between: Callable[[Moment], None] | None) -> None:
        """A generation begins."""
        self._batch, self._between = batch, between

    def forget(self) -> None:
        """Hold nothing that is large, and nothing that leads back to a trace: what is dropped is freed at once."""
        self._batch = self._between = self.last_logits = self._logits = self.plan.clean = None
        self._moments, self._stores = [], []

    def run(self, n: int, model: Model, origin: Origin, tokens: Tensor) -> Run:
        """The `Run` of one step."""
        moment = self._moments[n]
        read = tokens[:, moment.before : moment.before + moment.length]
        mask = None if moment.mask is None else moment.mask[:, moment.before :]
        logits = None if self._logits is None else self._logits[n]
        here = origin._replace(more={**origin.more, "step": n})
        return Run(logits, read, mask, self._stores[n], here, model.text)

    def _taker(self, name: str, row: int) -> Taker:
        def take(tensor: Tensor) -> Tensor | None:
            return self._stores[-1][name].taker(row)(tensor)

        return take

    def _begin(self, ids: Tensor) -> None:
        """A forward begins: the embedding is given its tokens."""
        if self._inside:  # it is called once more, for something else
            return
        assert self._batch is not None
        self._inside = True
        self.step += 1
        rows, length = ids.shape
        total = self._batch.tokens.shape[1] + self.step
        if length not in (total, 1) and self.watches:
            raise ValueError(
                f"this way of generating reads {length} tokens in step {self.step} and not the newest one or all "
                f"{total}, so that steps and positions are not what they seem. Leave out its options."
            )
        mask = self._batch.mask
        if mask is not None:
            mask = mask.repeat_interleave(rows // len(mask), 0)
            mask = torch.cat([mask, mask.new_ones(rows, total - mask.shape[1])], 1)
        moment = self.plan.moment = Moment(mask, rows, total - length, length, self.step)
        self._moments.append(moment)
        if self.plan.clean is not None:
            self.plan.clean.read(ids, moment.before)
        depth = self.plan.anatomy.depth
        self._stores.append({n: Kept(n, layers, depth, moment, self.how) for n, layers in self._wanted.items()})
        if self._between is not None:
            self._between(moment)

    def _end(self, logits: Tensor) -> None:
        self._inside = False
        self.last_logits = logits
        if self._logits is not None:
            self._logits.append(logits.clone())


def _has(step: Run, site: Site) -> bool:
    """Whether the step has kept anything of the site."""
    if site.name == "logits":
        return step.output is not None
    store = step.kept.get(site.name)
    return store is not None and len(store.unreached()) < store.count


def _with_keys(part: Tensor, seen: int, total: int, nothing: float) -> Tensor:
    """(..., key) for all keys of the text: those that a step could not see are nothing to it."""
    part = part[..., :seen]  # a cache may have room for more
    missing = seen - part.shape[-1]  # or hold only the last ones, as that of a sliding window
    return torch.nn.functional.pad(part, (missing, total - seen), value=nothing)


class _Stream:
    """What transformers tells of each new token, once it has told of the prompt."""

    def __init__(self, on_token: OnToken) -> None:
        self.on_token, self.begun = on_token, False

    def put(self, tokens: Tensor) -> None:
        if self.begun:
            self.on_token(tokens.reshape(-1).tolist())
        self.begun = True

    def end(self) -> None:
        """The generation is over: there is nothing to close."""


def _check(hf: Any, options: Mapping[str, Any], max_new_tokens: int, stepping: Stepping) -> None:
    """Raise `ValueError` or `TypeError` for what cannot be done, before anything runs."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}.")
    if "streamer" in options:
        raise TypeError("on_token=fn is called with each new token; it takes the place of a streamer.")
    if not stepping.watches:
        return
    asked = options.get("generation_config") or hf.generation_config
    if (options.get("num_beams") or getattr(asked, "num_beams", None) or 1) > 1:
        raise ValueError(
            "beams change places while generating, so a row is not one text: no edits and nothing to keep with "
            "num_beams. Generate first, and run the text with edits or keep."
        )


def _greedy_unless_asked(hf: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The options, with the likeliest token as the default, and a padding token for rows that end early."""
    given = options.get("generation_config")
    own, made = given or hf.generation_config, dict(options)
    if given is None:
        made.setdefault("do_sample", False)
        if not made["do_sample"]:
            made = {"temperature": None, "top_p": None, "top_k": None, **made}  # the model's own, meant for sampling
    if made.get("pad_token_id", own.pad_token_id) is None:
        ends = made.get("eos_token_id", own.eos_token_id)
        made["pad_token_id"] = ends[0] if isinstance(ends, list) else ends if isinstance(ends, int) else 0
    return made


def _ends(hf: Any, options: Mapping[str, Any]) -> frozenset[int]:
    own = options.get("generation_config") or hf.generation_config
    ends = options.get("eos_token_id", own.eos_token_id)
    return frozenset(ends if isinstance(ends, list) else [] if ends is None else [ends])


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, int | float | str | None) else repr(value) for name, value in options.items()
    }
