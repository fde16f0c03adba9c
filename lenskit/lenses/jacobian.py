"""JacobianLens: what a hidden state makes the end of the model do, to first order and on average, read as tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lenskit.lenses.evaluate import evaluate
from lenskit.lenses.generating import generate_from
from lenskit.lenses.jacobian_check import check
from lenskit.lenses.jacobian_files import places
from lenskit.lenses.jacobian_files.checked import brief, checked, identity_of, source_of
from lenskit.lenses.jacobian_files.inspecting import Inspection, inspected
from lenskit.lenses.jacobian_files.loading import loaded
from lenskit.lenses.jacobian_files.saving import FileFormat, save
from lenskit.lenses.jacobian_files.stored import Target
from lenskit.lenses.jacobian_fit.averages import weighted
from lenskit.lenses.jacobian_fit.fitting import Fitting
from lenskit.lenses.jacobian_fit.history import FitHistory
from lenskit.lenses.jacobian_fit.recipe import Recipe, passages_of
from lenskit.lenses.lens_directions import lens_directions
from lenskit.lenses.reading import COMPONENTS, read
from lenskit.models.corpus import CHUNK, Texts
from lenskit.models.identity import Identity
from lenskit.models.model import Model
from lenskit.models.sites import Site, SiteLike
from lenskit.processes import accelerated

if TYPE_CHECKING:
    from accelerate import Accelerator


class JacobianLens:
    """The Jacobian lens: a matrix for each layer says what a change there changes in the final residual.

    `J[l]` is the derivative of the final residual by `resid_post` of layer l, summed over all later positions and
    averaged over positions and texts. A hidden state `h` is carried to `J[l] h` and unembedded: it shows what a state
    is about, where a tuned lens shows what will be said next. The last layer is the model's own output.
    Source: Gurnee, Sofroniew, Lindsey et al., "Verbalizable Representations Form a Global Workspace in Language Models"
    (Transformer Circuits, 2026).

    Args:
        model: the model it reads.
        jacobians: by layer, (d_model, d_model), the output first: `J h` is `h @ J.T`. Some layers are enough.
        components: by site, `"attn_out"`, `"mlp_out"` or `"z"`, and layer, the same for what a block adds, (d_model,
            d_model), or for the heads' outputs side by side, (d_model, head * d_head).
        target: `"final"`, or `"penultimate"` for derivatives of the last residual but one, which some prefer.
        about: how it was made, as plain data; it is saved with it.

    Its `history` is what `fit` has seen, or None. Raises `ModelMismatch` where the matrices do not fit the model.

    >>> lens = lk.JacobianLens.load(model, "demo")  # doctest: +SKIP
    >>> lens.read("The opposite of hot is").tokens(layer=25, pos=-1)[:2]  # doctest: +SKIP
    [' cold', ' colder']
    """

    name = "jacobian"
    site = "resid_post"

    read = read
    generate = generate_from
    evaluate = evaluate
    directions = lens_directions
    check = check

    def __init__(
        self,
        model: Model,
        jacobians: Mapping[int, Tensor],
        *,
        components: Mapping[str, Mapping[int, Tensor]] | None = None,
        target: Target = "final",
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.target: Target = target
        self.target_layer = model.n_layers - (1 if target == "final" else 2)
        self._matrices = checked(model, {"resid_post": jacobians, **(components or {})}, target)
        self.about = dict(about or {})
        self.history: FitHistory | None = None

    @cached_property
    def identity(self) -> Identity:
        """Which model it belongs to, with hashes of its unembedding; worked out when it is saved or asked for."""
        return Identity.of(self.model)

    # What it has

    @property
    def passages(self) -> int | None:
        """On how many passages it was fitted, or None where nobody said."""
        return self.about.get("fit", {}).get("passages")

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers with a matrix for `resid_post`, ascending, without those that are the identity."""
        return tuple(self._matrices.get("resid_post", ()))

    @property
    def components(self) -> dict[str, dict[int, Tensor]]:
        """By site and layer, the matrices for what a block adds."""
        return {site: each for site, each in self._matrices.items() if site != "resid_post"}

    @property
    def sources(self) -> tuple[str, ...]:
        """The sites for which it has matrices."""
        return tuple(self._matrices)

    def layers_at(self, site: str) -> list[int]:
        """The layers in which a site can be read, but for the last `resid_post`, which is the model's own output."""
        layers = range(self.model.n_layers - (site == "resid_post"))
        return [layer for layer in layers if self._why_not(Site(site, layer)) is None]

    def matrix(self, layer: int, source: str = "resid_post") -> Tensor:
        """(d_model out, d_model in) what a change in a layer changes in the final residual, float32.

        The last layer's is the identity. Raises `IndexError` for a layer that is not there, and says which are.
        """
        last = self.model.n_layers - 1
        if not -last - 1 <= layer <= last:
            raise IndexError(f"layer {layer} does not exist: this model has layers 0 to {last}.")
        layer %= last + 1
        found = self._matrices.get(source, {}).get(layer)
        if found is None and source in ("resid_post", "mlp_out"):  # what the MLP adds is all the stream's from there on
            found = self._matrices.get("resid_post", {}).get(layer)
            if found is None and layer >= self.target_layer:
                found = identity_of(self.model)
        if found is None:
            raise IndexError(self._has_no(source, layer))
        return found

    def transport(self, h: Tensor, site: SiteLike) -> Tensor:
        """The final residual that `h` (..., d_model), seen at `site`, stands for.

        `site` is `resid_post` of a layer, or `resid_pre`, which is `resid_post` of the one before; `mlp_out`, which has
        the same matrix as `resid_post` since nothing of the block comes after it; and where the lens was fitted for
        them, `attn_out`, `resid_mid` (which has its matrix), and `z`, (..., head, d_head) or one head's (..., d_head).
        Raises `ValueError` at any other site, `IndexError` for a layer that does not exist or is not in this lens.
        """
        where = Site.parse(site)
        if where.name not in (*COMPONENTS, "z") or where.layer is None:
            raise ValueError(
                f"a Jacobian lens reads {', '.join(COMPONENTS)} or z of a layer, such as resid_post.5, not {site!r}."
            )
        depth = self.model.n_layers
        if not -depth <= where.layer < depth:
            raise IndexError(f"{where} does not exist: there are layers 0 to {depth - 1}.")
        where = where._replace(layer=where.layer % depth)
        if reason := self._why_not(where):
            raise IndexError(reason)
        source, layer = source_of(where)
        if source == "resid_post" and layer >= self.target_layer:
            return h
        matrix = self.matrix(layer, source)
        if where.name == "z" and where.head is None:
            h = h.flatten(-2)
        elif where.head is not None:
            matrix = matrix.unflatten(1, (-1, h.shape[-1]))[:, where.head]
        return (h.to(matrix.dtype) @ matrix.T).to(h.dtype)

    def _why_not(self, where: Site) -> str | None:
        """Why there is no matrix for a site of a layer, or None where there is one."""
        source, layer = source_of(where)
        if layer < 0:
            return f"{where} comes before every layer, and a Jacobian lens begins at resid_post.0."
        there = layer in self._matrices.get(source, {})
        if source == "mlp_out":
            there = there or layer in self.layers
        if there or (source in ("resid_post", "mlp_out") and layer >= self.target_layer):
            return None
        return self._has_no(source, layer)

    def _has_no(self, source: str, layer: int) -> str:
        has = "; ".join(f"{site} in layers {brief(list(each))}" for site, each in self._matrices.items())
        return (
            f"this Jacobian lens has no matrix for {source}.{layer}. It has {has}. Fit one with "
            f"JacobianLens.fit(model, texts, layers=..., sources=[{source!r}])."
        )

    def alike(self, other: JacobianLens) -> bool:
        """Whether another lens has matrices for the same layers and sources, of the same target."""
        mine, theirs = ({site: list(each) for site, each in x._matrices.items()} for x in (self, other))
        return mine == theirs and self.target == other.target

    # Making one

    @classmethod
    def fit(
        cls,
        model: Model,
        texts: Texts,
        *,
        passages: int | None = 100,
        chunk: int = CHUNK,
        skip_first: int = 16,
        layers: Sequence[int] | None = None,
        target: Target = "final",
        sources: Sequence[str] = ("resid_post",),
        at_once: int | None = None,
        stop_below: float | None = None,
        corpus: str | None = None,
        folder: str | Path | None = None,
        checkpoint_every: int = 1,
        on_passage: Callable[[FitHistory], object] | None = None,
        accelerator: Accelerator | None = None,
    ) -> JacobianLens:
        """Fit a lens exactly: of each passage one forward, and d_model / `at_once` backwards that serve every layer.

        A passage gives, for each source position, the derivatives of the target residual there and later, summed; these
        are averaged over its positions and then over passages. Ten beat the logit lens, and from 60 on little changes.

        Args:
            texts: a text, texts, rows of a data set with a `text`, `Chunks`, or token ids (n,) or (chunk, pos).
            passages: how many to use at most, of a stream the first and else from all over it; None for all.
            chunk: how many tokens a passage has.
            skip_first: positions left out at each passage's beginning, as sources and as targets; the last is, too.
            layers: the layers to fit; by default all. The backward ends at the earliest.
            target: `"final"`, or `"penultimate"` for the residual before the last block.
            sources: by what to take derivatives: `"resid_post"`; `"attn_out"` and `"mlp_out"`, what a block adds;
                `"z"`, what the heads give. All of them come from the same backward.
            at_once: how many rows one backward gives, on as many copies of the passage; by default what a quarter of
                the free memory holds, at most 64, and 16 on a CPU.
            stop_below: end early when the last ten passages changed the means by less than this on average, relative to
                their norm (0.002 is strict).
            corpus: what to call the text, for the record. Its hash is recorded in any case.
            folder: keeps a checkpoint, from which the same call goes on after any interruption and ends with the same
                sums, to the last bit; with more `passages` it goes on where it had ended.
            checkpoint_every: passages from one to the next.
            on_passage: called with the `FitHistory` after every passage; `lk.widgets.live_curves()` draws it in a
                notebook.
            accelerator: accelerate's, for many processes: each takes its share of the passages. Where `accelerate
                launch` started the process, one is made.

        Cost: about 2 * parameters * tokens * d_model operations a passage, one or two minutes for the demo model.
        Memory: three times the matrices, and what a forward with gradients of `at_once` copies needs. Raises
        `ValueError` where no gradient comes through (some quantised models), where later tokens change earlier ones,
        for passages that `skip_first` leaves nothing of, and where `folder` holds another fit.

        >>> lens = lk.JacobianLens.fit(model, texts, passages=8, on_passage=lk.widgets.live_curves())  # doctest: +SKIP
        """
        chunks = passages_of(model, texts, chunk, passages)
        recipe = Recipe.of(model, chunks, target, sources, layers, skip_first)
        fitting = Fitting(model, chunks, recipe, at_once, accelerated(accelerator))
        fitting.run(None if folder is None else Path(folder), checkpoint_every, stop_below, on_passage)
        return cls._fitted(fitting, corpus)

    @classmethod
    def fit_approximately(
        cls,
        model: Model,
        texts: Texts,
        *,
        probes: int,
        seed: int = 0,
        passages: int | None = 100,
        chunk: int = CHUNK,
        skip_first: int = 16,
        layers: Sequence[int] | None = None,
        target: Target = "final",
        sources: Sequence[str] = ("resid_post",),
        at_once: int | None = None,
        corpus: str | None = None,
        on_passage: Callable[[FitHistory], object] | None = None,
    ) -> JacobianLens:
        """As `fit`, from random probes instead of every row: `probes` backwards' worth of rows for each passage.

        It is unbiased and noisy: the error, relative to the matrices, is about sqrt((d_model - 1) / (probes *
        passages)), because each probe mixes all rows. It is measured on two halves, printed in the `history`, recorded.
        Source: Hutchinson's estimator, as the jspace package uses it.

        Args:
            probes: random signs drawn for each passage, from `seed`.

        The others are as in `fit`, and so is what it raises.
        """
        chunks = passages_of(model, texts, chunk, passages)
        recipe = Recipe.of(model, chunks, target, sources, layers, skip_first, probes, seed)
        fitting = Fitting(model, chunks, recipe, at_once)
        fitting.run(None, 1, None, on_passage)
        return cls._fitted(fitting, corpus)

    @classmethod
    def merge(cls, lenses: Sequence[JacobianLens]) -> JacobianLens:
        """One lens of several that were fitted alike on different passages, weighted by how many each has seen.

        Raises `ValueError` where they have other layers, sources or targets, or do not say how many passages they saw.
        """
        if not lenses:
            raise ValueError("there is no lens to merge.")
        first, counts = lenses[0], [lens.passages or 0 for lens in lenses]
        for lens in lenses:
            if not lens.alike(first):
                raise ValueError(f"{lens!r} has other layers, sources or target than {first!r}: they do not merge.")
            if not lens.passages:
                raise ValueError(f"{lens!r} does not say how many passages it was fitted on, so it has no weight.")
            first.identity.check(lens.model, "the first lens", "fit them on the same model")
        fit = {key: value for key, value in first.about["fit"].items() if key not in ("text", "error")}
        about = {**first.about, "fit": fit | {"passages": sum(counts), "merged": counts}}
        return cls._of(first.model, weighted([lens._matrices for lens in lenses], counts), first.target, about)

    # Keeping one

    @classmethod
    def load(
        cls,
        model: Model,
        where: str | Path | None = None,
        *,
        source: str | None = None,
        target: Target | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> JacobianLens:
        """Read a lens in any published form, and refuse it where it does not fit this model.

        Which form it is, and what its matrices are derivatives of and by, is decided by its keys, shapes, layers and
        where the identity is among them, never by its name; `inspect` shows what a file says.

        Args:
            model: the model it is to read.
            where: `"demo"`, the lens of the demo model that comes with lenskit; a file; a folder that holds one, or is
                laid out as Neuronpedia's; a repository on the hub, `owner/name` or `owner/name/path/in/it`. None, the
                default: Neuronpedia's lens of the model's name.
            source: `"resid_post"` or `"z"`, for a file that could be either.
            target: `"final"` or `"penultimate"`, for a file that could be either.
            revision: of the repository, where there are others under a tag.
            cache_dir: the Hugging Face cache to use.

        What is in the Hugging Face cache is taken from there, and the hub is asked only for what is not. Only tensors
        are read, never code. Raises `LoadError` where there is no lens, or its file could mean two things, with what
        was seen; `ModelMismatch` where it is another model's.
        """
        stored = loaded(model, where, source, target, revision, cache_dir)
        return cls._of(
            model, {"resid_post": stored.matrices, **stored.components}, stored.target or "final", stored.about
        )

    @classmethod
    def inspect(
        cls, where: str | Path, *, revision: str | None = None, cache_dir: str | Path | None = None
    ) -> Inspection:
        """What a file says of itself: form, layers, shapes, model, passages; no matrix is read. Print it.

        `where` is as in `load`. Raises `LoadError` where there is no lens.

        >>> lk.JacobianLens.inspect("demo")  # doctest: +SKIP
        """
        return inspected(places.find(where, "", revision=revision, cache_dir=cache_dir))

    def save(
        self,
        path: str | Path,
        *,
        format: FileFormat = "lenskit",  # noqa: A002 -- what everyone calls it
        dtype: torch.dtype | None = None,
    ) -> None:
        """Write the lens, whole or not at all.

        Args:
            path: a `.safetensors` file, or for the reference format a `.pt` file; an older one is replaced.
            format: `"lenskit"`, one safetensors file with the model's identity in it; or `"reference"`, which the
                reference package, TransformerLens and Neuronpedia's tools read.
            dtype: by default float32, or as usual in the reference format float16. In lenskit's own, int8 (127 steps
                to either side of 0 in each row) is half of that, and keeps 94 to 97 of 100 top-ten tokens of the demo
                lens.

        Raises `ValueError` for another format or ending, for numbers that do not fit, and in the reference format for
        int8 and for a lens of several sources.
        """
        save(Path(path).expanduser(), format, self._matrices, self.target, self.identity, self.about, dtype)

    @classmethod
    def _fitted(cls, fitting: Fitting, corpus: str | None) -> JacobianLens:
        """The lens of what has been fitted so far."""
        about = {"fit": fitting.about | ({} if corpus is None else {"corpus": corpus})}
        lens = cls._of(fitting.model, fitting.averages.means(), fitting.recipe.target, about)
        lens.history = fitting.history
        return lens

    @classmethod
    def _of(
        cls, model: Model, matrices: Mapping[str, Mapping[int, Tensor]], target: Target, about: Mapping[str, Any]
    ) -> JacobianLens:
        """A lens of matrices by site and layer."""
        components = {site: each for site, each in matrices.items() if site != "resid_post"}
        return cls(model, matrices.get("resid_post", {}), components=components, target=target, about=about)

    def __repr__(self) -> str:
        what = "; ".join(f"{site} {brief(list(each))}" for site, each in self._matrices.items())
        target = "" if self.target == "final" else ", of the penultimate residual"
        count = "" if self.passages is None else f", {self.passages} passages"
        return f"JacobianLens({self.model.name}, {what}{target}{count})"
