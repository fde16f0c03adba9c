"""Splicing: a model that runs on with dictionaries in the place of what they imitate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from lenskit.models.batch import Prompt
from lenskit.models.edits import Splice
from lenskit.models.model import Model
from lenskit.models.sites import Site
from lenskit.transcoders.transcoder import Transcoder


def spliced(
    transcoders: Transcoder | Iterable[Transcoder], *, errors_on: tuple[Model, Prompt] | None = None
) -> list[Splice]:
    """The edits that put dictionaries in the place of what they imitate, for runs, traces and generation.

    Args:
        transcoders: one, or any set of them, of different layers. What several of them write to one site, as
            cross-layer transcoders do, is summed.
        errors_on: a model and a prompt. What the dictionaries miss on this prompt is then added to what they write, so
            that unchanged they give the model's own prediction: a change is then seen against the true activations.

    Where a dictionary's output is centred, the mean over the last axis stays the model's own.

    Raises `ValueError` where two dictionaries write one site from the same one, where what a dictionary writes comes
    before what it reads, and where of those that write one site some are centred and some are not.

    >>> model.run(prompt, edits=spliced([tc8, tc9])).loss              # doctest: +SKIP
    >>> model.generate(prompt, 20, edits=spliced(tc8)).text            # doctest: +SKIP
    """
    given = [transcoders] if isinstance(transcoders, Transcoder) else list(transcoders)
    writers = _by_written(given)
    errors = {} if errors_on is None else _errors(given, writers, *errors_on)
    held: dict[int, Tensor] = {}
    edits = []
    for site, sources in writers.items():
        assert site.layer is not None
        own = [each for each, _ in sources if each.reads.layer == site.layer]
        if not own:
            raise ValueError(
                f"{site} is written by dictionaries of earlier layers only: give that of its own layer, too."
            )
        fn = _writing(own[0], sources, held, len(given) > 1)
        error = None if errors_on is None else {site.layer: errors[site]}
        centred = _centred(site, sources)
        edits.append(Splice(own[0].reads.name, site.name, fn, layers=site.layer, error=error, keeps_mean=centred))
    return edits


def _centred(site: Site, sources: Sequence[tuple[Transcoder, int]]) -> bool:
    """Whether what is written to a site lacks its mean over the last axis."""
    found = {each.centred_output for each, _ in sources}
    if len(found) > 1:
        raise ValueError(f"{site} is written by dictionaries with and without its mean: they do not belong together.")
    return found.pop()


def _by_written(given: Sequence[Transcoder]) -> dict[Site, list[tuple[Transcoder, int]]]:
    """By site written: the dictionaries that write it, each with the number of its write, the earliest layer first."""
    found: dict[Site, list[tuple[Transcoder, int]]] = {}
    for each in sorted(given, key=lambda each: each.reads.layer or 0):
        for write, site in enumerate(each.writes):
            if site.layer is None or each.reads.layer is None:
                raise ValueError(f"{each!r} reads or writes a place that is in no layer, and cannot be spliced in.")
            if site.layer < each.reads.layer:
                raise ValueError(f"{each!r} writes {site}, which comes before what it reads.")
            if any(other.reads == each.reads for other, _ in found.get(site, ())):
                raise ValueError(f"two dictionaries write {site} from {each.reads}: one of them can stand there.")
            found.setdefault(site, []).append((each, write))
    return dict(sorted(found.items(), key=lambda item: item[0].layer or 0))


def _writing(
    own: Transcoder, sources: Sequence[tuple[Transcoder, int]], held: dict[int, Tensor], several: bool
) -> Callable[[Tensor], Tensor]:
    """What stands at one site: it maps what its own dictionary reads, and adds what those before it had to say here."""
    if not several:
        return own

    def write(x: Tensor) -> Tensor:
        total: Tensor | None = None
        held[id(own)] = x
        for each, number in sources:
            part = each.written(held[id(each)], number)
            total = part if total is None else total + part
        assert total is not None
        return total

    return write


@torch.no_grad()
def _errors(
    given: Sequence[Transcoder], writers: dict[Site, list[tuple[Transcoder, int]]], model: Model, prompt: Prompt
) -> dict[Site, Tensor]:
    """What the dictionaries together miss at each site on a prompt, (batch, pos, d_out)."""
    run = model.run(prompt, keep=[*(each.reads for each in given), *writers])
    found = {}
    for site, sources in writers.items():
        parts = [each.written(run[each.reads], number) for each, number in sources]
        true = run[site] - run[site].mean(-1, keepdim=True) if _centred(site, sources) else run[site]
        found[site] = true - torch.stack(parts).sum(0)
    return found
