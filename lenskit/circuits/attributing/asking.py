"""Attribute: from a prompt to the graph of features that made the answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from lenskit.circuits.attributing.attribution_work import Attribution
from lenskit.circuits.attributing.bases import bases_of
from lenskit.circuits.attributing.basis import Active
from lenskit.circuits.attributing.checkpoint import Checkpoint
from lenskit.circuits.attributing.put_in import PutIn
from lenskit.circuits.attributing.targets import Targets, Token, reading_site
from lenskit.circuits.graph import Graph
from lenskit.models.batch import Prompt
from lenskit.transcoders.transcoder import Transcoder

if TYPE_CHECKING:
    from lenskit.models.model import Model

Progress = Callable[[int, int], object]


def attribute(
    model: Model,
    prompt: Prompt,
    transcoders: Transcoder | Iterable[Transcoder] = (),
    target: Token | Sequence[Token] | None = None,
    *,
    versus: Token | None = None,
    pos: int = -1,
    share: float = 0.95,
    most: int = 10,
    neurons: bool = True,
    whole_first: bool = True,
    features: int = 512,
    batch: int = 64,
    width: int = 4096,
    progress: Progress | None = None,
    checkpoint: str | Path | None = None,
) -> Graph:
    """The graph of the features that made an answer, and the direct linear effect of each on each.

    The prompt's forward becomes an affine function: attention patterns and what norms divide by are held as they are,
    and what each MLP writes is taken apart into features and what these miss. Then every feature's pre-activation, and
    every logit, is a sum over what can reach it, and one batched backward pass gives the parts for many at once. First
    the logits are explained, then the features that matter most for them, as far as that is known, and so on.

    Args:
        model: the model, of any architecture whose attention patterns can be seen in all layers.
        prompt: one text, or its token ids.
        transcoders: dictionaries of its MLPs, with or without skip, or cross-layer ones.
        target: the token whose logit is explained, or several; by default the likeliest ones that together have `share`
            of the probability, at most `most` of them. A logit counts from the mean of all, and before a soft-cap.
        versus: another token: the difference of the two logits is explained.
        pos: the position whose next token it is.
        neurons: whether the MLPs without a dictionary are taken apart into their neurons; else each is an error.
        whole_first: whether all that the first position gives is put down to its token's embedding. It has seen nothing
            else, and in most models it is where attention rests: features there are huge, and mean no more than that.
            A prompt of one token is always taken apart.
        features: how many features are explained at most. What the others give stays in `rest` of each node.
        batch: how many in one backward pass; fewer where memory asks for it.
        width: how many edges from features are kept of each node at most, its largest; the others go to `rest` as well.
        progress: called with how many features are explained, and how many there will be.
        checkpoint: a file in which the work is kept after each round and taken up again; it is gone at the end.

    Memory: a few times batch x layers x pos x d_model numbers, and features x (width + layers x pos).

    Raises:
        SiteUnavailable: some attention pattern cannot be held, or the parts do not add up: something else is not
            linear. The message says what.
        ValueError: more than one prompt, a dictionary that does not stand for an MLP, or a share that is none.
        MemoryError: it would not fit, with the figure.

    Sources: Dunefsky et al., "Transcoders Find Interpretable LLM Feature Circuits" (2024); Ameisen et al., "Circuit
    Tracing" (2025).

    >>> graph = lk.circuits.attribute(model, "The capital of France is", transcoders)  # doctest: +SKIP
    >>> graph.pruned().top(3)                                                          # doctest: +SKIP
    """
    work = attribution(
        model,
        prompt,
        transcoders,
        target,
        versus=versus,
        pos=pos,
        share=share,
        most=most,
        neurons=neurons,
        whole_first=whole_first,
        batch=batch,
        width=width,
    )
    kept = None if checkpoint is None else Checkpoint(Path(checkpoint))
    with nullcontext() if kept is None else kept.alone():
        if kept is not None:
            kept.restore(work)
        for done, of in work.go_on(features):
            if kept is not None:
                kept.keep(work)
            if progress is not None:
                progress(done, of)
        if kept is not None:
            kept.remove()
    return work.graph


def attribution(
    model: Model,
    prompt: Prompt,
    transcoders: Transcoder | Iterable[Transcoder] = (),
    target: Token | Sequence[Token] | None = None,
    *,
    versus: Token | None = None,
    pos: int = -1,
    share: float = 0.95,
    most: int = 10,
    neurons: bool = True,
    whole_first: bool = True,
    batch: int = 64,
    width: int = 4096,
) -> Attribution:
    """The work of `attribute` by itself, to go on with as far as one likes and to look at on the way.

    >>> work = lk.circuits.attribution(model, prompt)                              # doctest: +SKIP
    >>> for done, of in work.go_on(2048):                                          # doctest: +SKIP
    ...     print(done, work.graph.replacement_score)
    """
    if batch < 1 or width < 1:
        raise ValueError(f"batch={batch!r}, width={width!r}: one at least.")
    given = [transcoders] if isinstance(transcoders, Transcoder) else list(transcoders)
    tokens = model.batch(prompt).tokens
    if len(tokens) != 1:
        raise ValueError(f"a graph is of one prompt, and these are {len(tokens)}: make one of each, and merge them.")
    bases = bases_of(model, given, neurons)
    put = PutIn.of(model, tokens, bases, [*(basis.reads for basis in bases), reading_site(model)])
    targets = Targets.of(model, put.replacement.logits[0], target, versus, pos, share, most)
    whole_first = whole_first and model.anatomy.causal and tokens.shape[1] > 1
    active = [_but_the_first(each, whole_first) for each in put.active]
    question = {"pos": targets.pos, "ids": [list(each) for each in targets.tokens], "neurons": neurons, "width": width}
    question |= {"whole_first": whole_first}
    origin = model.origin(model.edits, circuit=question, dictionaries=[repr(each) for each in given])
    return Attribution(put, active, targets, batch, width, whole_first, origin.as_dict())


def _but_the_first(active: Active, whole_first: bool) -> Active:
    if not whole_first:
        return active
    kept = active.pos > 0
    return Active(active.features[kept], active.pos[kept], active.activations[kept])
