"""Model: a Hugging Face causal language model and its tokenizer, as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from lenskit.models.anatomy import Anatomy
from lenskit.models.batch import Batch, Prompt, Read, Side, to_batch
from lenskit.models.check import Check, check
from lenskit.models.edited import Edited
from lenskit.models.edits import Edit, as_edits
from lenskit.models.finding.placed import device_and_dtype, dtype_of, entrance
from lenskit.models.finding.wrapped import adapters, innermost
from lenskit.models.generate import Generation, Stepping, generated
from lenskit.models.origin import Origin, attention_of
from lenskit.models.run import Run
from lenskit.models.running.captured import differentiated
from lenskit.models.running.clean import Clean
from lenskit.models.running.kept import Keeping
from lenskit.models.running.places import Moment, Which, whole_prompt
from lenskit.models.running.plan import Plan, Stopped
from lenskit.models.running.starting import starting
from lenskit.models.sites import SiteLike, Sites
from lenskit.models.taps import first_tensor, tapped
from lenskit.models.text import Text
from lenskit.models.trace import Trace
from lenskit.models.weights import Weights

_AS_IT_IS, _IN_PLACE = Keeping(), Keeping(in_place=True)


class Model:
    """A language model you can look into: it wraps a Hugging Face causal LM without converting or copying a weight.

    Args:
        hf_model: a causal LM of transformers, or any module: of one that is no language model, the paths of its modules
            are the sites. It is never changed; hooks are there only while a forward runs. A compiled model runs here as
            it is written, since compiled code has no places to look at, and one with PEFT adapters runs with them.
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
        self.anatomy = Anatomy(innermost(hf_model), outer=hf_model)
        config: Any = getattr(self.anatomy.model, "config", None)
        self.name: str = name or getattr(config, "_name_or_path", "") or self.anatomy.family
        self.revision = revision
        self._edited: list[Edited] = []
        self._read: Read | None = None

    # What is here

    @property
    def tokenizer(self) -> Any | None:
        """The tokenizer as it was given."""
        return self.text.tokenizer

    @property
    def n_layers(self) -> int:
        """The number of blocks; 0 in a plain module."""
        return self.anatomy.depth

    @property
    def device(self) -> torch.device:
        """Where the token ids go in: of an offloaded model, where the embedding's weight is brought to."""
        return entrance(self.anatomy.model, self.anatomy.entry)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the embedding; of a quantised one, that of the first weight that is not."""
        return dtype_of(self.anatomy.model, self.anatomy.entry)

    @property
    def sites(self) -> Sites:
        """Which sites can be read here, and why the others cannot. Print it."""
        return self.anatomy.table

    @cached_property
    def weights(self) -> Weights:
        """The weights as read-only views `W_E W_U W_Q W_K W_V W_O W_in W_out b_* QK OV`. Print them."""
        return Weights.of(self.anatomy)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where a result of this model comes from, as plain data."""
        return self.origin(self.edits).as_dict()

    def origin(self, edits: tuple[Edit, ...], **more: Any) -> Origin:
        """Where a result of this model comes from, if these edits act."""
        model = self.anatomy.model
        where, kind = device_and_dtype(model, self.anatomy.entry)
        names = adapters(self.anatomy.modules)
        return Origin(self.name, self.revision, kind, where, attention_of(model), names, edits, more)

    # Changing what it does

    def edit(self, *edits: Edit) -> Edited:
        """Edits that stay: in every run, trace and generation, until they are taken off again.

        Use it as a context, which takes them off at its end, or keep what it gives and call `remove()`. The Hugging
        Face model itself is not changed: your own calls of it never see an edit.

        >>> with model.edit(lk.Add("resid_post", v, scale=4, layers=6)):  # doctest: +SKIP
        ...     model.generate("I think", max_new_tokens=20)
        """
        made = Edited(as_edits(edits), self._edited)
        Plan(self.anatomy, Moment(None, 1, 0, 0), made.edits)  # raises here rather than in the next run
        self._edited.append(made)
        return made

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The edits that stay, in the order in which they act."""
        return tuple(edit for made in self._edited for edit in made.edits)

    # Running it

    def batch(self, prompt: Prompt, padding_side: Side | None = None, bos: bool | None = None) -> Batch:
        """The prompt as token ids and mask, checked and on the model's device. Raises as `run` does."""
        if not self.anatomy.is_language_model:
            if not isinstance(prompt, Tensor):
                raise TypeError("a plain module runs on a tensor, and reads no text: model.run(tensor).")
            return Batch(prompt, None)
        read = self._read
        if read is None or not read.is_of(prompt, bos, entrance(self.anatomy.model, self.anatomy.entry)):
            tokens, mask = to_batch(prompt, self.text, self.anatomy, padding_side, bos)
            batch = Batch(tokens.to(self.device), None if mask is None else mask.to(self.device))
            self._read = read = Read(prompt, bos, batch)
        return read.batch

    def run(
        self,
        prompt: Prompt,
        *,
        keep: SiteLike | Iterable[SiteLike] = (),
        edits: Edit | Iterable[Edit] = (),
        stop_at: SiteLike | None = None,
        start_at: int | None = None,
        resid: Tensor | None = None,
        grads: Callable[[Run], Tensor] | None = None,
        pos: Which = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        padding_side: Side | None = None,
        bos: bool | None = None,
    ) -> Run:
        """One forward without gradients. The logits of an unedited one are bit-equal to calling the Hugging Face model.

        Args:
            prompt: a text, a list of texts, token ids (pos,) or (batch, pos), or a list of lists of ids.
            keep: the sites whose activations to keep: `"resid_post"` (all layers), `("resid_post", 5)`,
                `"resid_post.5"`, a TransformerLens name, the path of a module, or a list of such. Nothing is kept that
                is not asked for, and what is kept is what the model went on with, after all edits.
            edits: interventions for this run, after those of `model.edits`.
            stop_at: a site at which the forward ends: nothing after it is computed, and there are no logits.
            start_at: a layer to run on from, as if `resid` (batch, pos, d_model) had entered it; the blocks before it
                are not computed. The prompt still gives masks and positions.
            grads: a function of the run that gives a scalar, such as `lambda run: run.logits[0, -1, 42]`: its gradient
                at every kept site is then `run.grad[site]`. The parameters' own `.grad` is never touched.
            pos, device, dtype: which positions to keep, where to put what is kept, and in which dtype.
            padding_side: where rows of different length are padded; by default where the tokenizer does. Masks and
                positions are given to the model, so that each row equals its solo run either way.
            bos: whether a text begins with the BOS token; by default as the tokenizer does it.

        Raises:
            TypeError: the prompt is none, or is text and the model has no tokenizer.
            ValueError: the prompt is empty, too long for the model, or has an id outside the vocabulary.
            SiteUnavailable: a site does not exist in this architecture; the message says why and what does.
            NothingEdited: an edit matches no layer, head, row, position or step.
        """
        batch = self.batch(prompt, padding_side, bos)
        keep = keep if isinstance(keep, (str, tuple)) else tuple(keep)
        plan = self.plan(batch, edits)
        said: dict[str, Any] = {}
        if grads is not None:
            self.anatomy.check_gradients()
        begun = None
        if start_at is not None or resid is not None:
            begun = starting(self, plan, batch, start_at, resid)
            said["start_at"] = start_at
        how = _AS_IT_IS if pos is device is dtype is None else Keeping(pos, device, dtype)
        if keep and how is _AS_IT_IS and grads is start_at is None and plan.leaves_alone:
            how = _IN_PLACE
        captured = None if grads is None else plan.capture(keep, how)
        stores = captured if captured is not None else plan.keep(keep, how) if keep else {}
        if stop_at is not None:
            said["stop_at"] = str(plan.stop(stop_at))
        with tapped(plan.takers, self.anatomy.doors):
            output = self._logits(batch, grads is not None, begun)
        if how is _IN_PLACE and (written := plan.overwritten()):
            self.anatomy.overwrites |= written  # once for a model: from now on these are copied
            return self.run(prompt, keep=keep, stop_at=stop_at, padding_side=padding_side, bos=bos)
        plan.finished()
        origin = self.origin(plan.edits, **said)
        run = Run(output, batch.tokens, batch.mask, stores, origin, self.text)
        if grads is None or captured is None:
            return run
        stores, gradients = differentiated(run, grads, captured)
        output = None if output is None else output.detach()
        return Run(output, batch.tokens, batch.mask, stores, origin, self.text, gradients)

    def trace(
        self,
        prompt: Prompt,
        *,
        edits: Edit | Iterable[Edit] = (),
        grads: bool = False,
        generate: int | None = None,
        padding_side: Side | None = None,
        bos: bool | None = None,
        **generate_kwargs: Any,
    ) -> Trace:
        """A forward that stands still where you look: `t["resid_post", 5]` is the model's own tensor, at this moment.

        Args:
            prompt, padding_side, bos: as in `run`.
            edits: interventions that act before you look.
            grads: record gradients, so that you can call `backward` on what you make of `t.logits`. Off by default,
                because a recorded forward keeps all of its activations.
            generate: generate so many tokens, a forward for each: `for step in t.steps`. `generate_kwargs` go to
                `model.generate`.

        Raises what `run` raises; `SitePassed` for a site that the forward has passed.

        >>> with model.trace(clean) as a, model.trace(corrupt) as b:  # doctest: +SKIP
        ...     b["z", 9, 6] = a["z", 9, 6]
        """
        batch = self.batch(prompt, padding_side if generate is None else "left", bos)
        if generate is None:
            if generate_kwargs:
                raise TypeError(f"{', '.join(generate_kwargs)}: options of generation need generate=n.")
            if grads:
                self.anatomy.check_gradients()
            return Trace(self, batch, self.plan(batch, edits), grads)
        if grads:
            raise TypeError("transformers generates without gradients: trace one forward, with grads=True.")
        stepping = self._stepping(batch, edits, (), Keeping())
        generation = partial(generated, self, batch, stepping, max_new_tokens=generate, **generate_kwargs)
        return Trace(self, batch, stepping.plan, False, generation)

    def generate(
        self,
        prompt: Prompt,
        max_new_tokens: int = 20,
        *,
        keep: SiteLike | Iterable[SiteLike] = (),
        edits: Edit | Iterable[Edit] = (),
        on_token: Callable[[list[int]], object] | None = None,
        pos: Which = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        bos: bool | None = None,
        **generate_kwargs: Any,
    ) -> Generation:
        """Let Hugging Face's own generation write on, with edits and with what is kept at each step.

        Args:
            prompt: as in `run`. Rows of different length are padded on the left, and each comes out as if alone.
            max_new_tokens: how many tokens to write at most.
            keep, pos, device, dtype: what to keep at every step, and how, as in `run`.
            edits: interventions; `steps` chooses among the steps: 0 reads the prompt, n the n-th new token. `pos`
                counts through the whole text, so an edit without it also acts on every new token.
            on_token: called with the new token of each row as soon as it is there.
            generate_kwargs: go to transformers' `generate`, such as `do_sample=True, temperature=0.7`. By default the
                likeliest token is taken.

        Raises what `run` raises, and `NothingEdited` for an edit whose steps or positions were never reached.

        >>> model.generate("The capital of France is", 3).text  # doctest: +SKIP
        [' Paris, which']
        """
        batch = self.batch(prompt, "left", bos)
        stepping = self._stepping(batch, edits, keep, Keeping(pos, device, dtype, open_end=True))
        with tapped(stepping.plan.takers, self.anatomy.doors):
            made = generated(self, batch, stepping, max_new_tokens=max_new_tokens, on_token=on_token, **generate_kwargs)
        stepping.plan.finished()
        return made

    def _stepping(
        self, batch: Batch, edits: Edit | Iterable[Edit], keep: SiteLike | Iterable[SiteLike], how: Keeping
    ) -> Stepping:
        """The steps of a generation, with the edits and stores of each."""
        self.anatomy.check_numbers()
        if not hasattr(self.anatomy.model, "generate"):
            raise TypeError(f"{self.anatomy.family} cannot generate: transformers gives it no generate method.")
        moment = Moment(batch.mask, len(batch.tokens), 0, 0)
        staying = self.edits
        return Stepping(Plan(self.anatomy, moment, (*staying, *as_edits(edits)), len(staying)), keep, how)

    def plan(self, batch: Batch, edits: Edit | Iterable[Edit] = ()) -> Plan:
        """What a forward of this batch has to do for the edits, those that stay first."""
        tokens, mask = batch
        rows, length = tokens.shape[:2] if tokens.dim() > 1 else (1, len(tokens))
        moment = whole_prompt(rows, length) if mask is None else Moment(mask, rows, 0, length)
        staying = self.edits if self._edited else ()
        given = (edits,) if isinstance(edits, Edit) else as_edits(edits)
        plan = Plan(self.anatomy, moment, (*staying, *given), len(staying))
        if plan.recalled:
            plan.clean = Clean(self, batch, plan.recalled)
        return plan

    def run_batch(self, batch: Batch, keep: SiteLike | Iterable[SiteLike], **more: Any) -> tuple[Run, Any]:
        """The `Run` of a batch, and what the Hugging Face model returned; `more` goes to it as it is."""
        plan = self.plan(batch)
        stores = plan.keep(keep, Keeping())
        with tapped(plan.takers, self.anatomy.doors):
            output = self.forward(batch, **more)
        plan.finished()
        return Run(output.logits, batch.tokens, batch.mask, stores, self.origin(plan.edits), self.text), output

    def forward(self, batch: Batch, **more: Any) -> Any:
        """Call the Hugging Face model on a batch as anyone would, without gradients; `more` goes to it as it is.

        Nothing is switched off for speed: with `use_cache=False`, GPT-J's logits differ in the last bit.
        """
        with torch.no_grad():
            return self.call(batch, **more)

    def call(self, batch: Batch, **more: Any) -> Any:
        """Call the Hugging Face model on a batch, with gradients if they are switched on."""
        anatomy = self.anatomy
        anatomy.check_numbers()
        given: tuple[Tensor, ...] = (batch.tokens,)
        if anatomy.is_language_model:
            given, more["input_ids"] = (), batch.tokens
            if batch.mask is not None:
                more |= anatomy.ragged.arguments(batch.mask)
        model: Any = anatomy.model
        if not anatomy.is_compiled:
            return model(*given, **more)
        with anatomy.eagerly():
            return model(*given, **more)

    def _logits(self, batch: Batch, grads: bool, begun: AbstractContextManager[None] | None) -> Tensor | None:
        """What the model gives, or None where the plan has stopped it."""
        before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(grads)  # what torch.set_grad_enabled does, in three calls of Python more
        try:
            if begun is None:
                return first_tensor(self.call(batch))
            with begun:
                return first_tensor(self.call(batch))
        except Stopped:
            return None
        finally:
            torch._C._set_grad_enabled(before)

    def unembed(self, h: Tensor) -> Tensor:
        """The model's own path from the residual stream to logits: final norm, head, scale and soft-cap.

        `h` is (..., d_model), the result (..., vocab). Of the last `resid_post` it gives the logits. Raises
        `SiteUnavailable` where the path could not be verified.
        """
        tail = self.anatomy.tail
        return tail.finish(tail.head(tail.normed(h)))

    def check(self, given: Tensor | None = None) -> Check:
        """Measure the promises on this very model and give a table of their errors. Print it.

        A plain module must be `given` something to run on.

        >>> model.check().passed  # doctest: +SKIP
        True
        """
        return check(self, given)

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        layers = f"{self.n_layers} layers, " if self.anatomy.is_language_model else ""
        return f"Model({self.name}, {self.anatomy.family}, {layers}{dtype} on {self.device})"
