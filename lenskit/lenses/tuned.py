"""TunedLens: a translator for each layer, so that the middle of the model speaks the language of its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lenskit.lenses.closed_form import gathered
from lenskit.lenses.evaluate import evaluate
from lenskit.lenses.files import own, places, published
from lenskit.lenses.generating import generate_from
from lenskit.lenses.lens_directions import lens_directions
from lenskit.lenses.reading import COMPONENTS, read
from lenskit.lenses.training.beginning import Start, begin, chosen_layers
from lenskit.lenses.training.history import History
from lenskit.lenses.training.recipe import LEARNING_RATES, Loss, Optimizer, Recipe
from lenskit.lenses.training.steps import Training
from lenskit.lenses.translators import AnyTranslators, FactoredTranslators, Translators, factored
from lenskit.models.corpus import CHUNK, Texts, chunks_of
from lenskit.models.identity import Identity, ModelMismatch, d_model_of
from lenskit.models.model import Model
from lenskit.models.sites import Site, SiteLike
from lenskit.processes import accelerated

if TYPE_CHECKING:
    from accelerate import Accelerator

FileFormat = Literal["lenskit", "tuned-lens"]


class TunedLens:
    """The tuned lens: an affine map for each layer carries its residual to the final one, where it is unembedded.

    Translator i reads `resid_pre` of layer i, as tuned-lens's does (`hidden_states[i]`), and carries it to
    `h + weight[i] h + bias[i]`. A reading has a row for each, and the model's own prediction as the last.
    Source: Belrose et al., "Eliciting Latent Predictions from Transformers with the Tuned Lens" (2023).

    Args:
        model: the model it reads.
        translators: one for each layer; by default those that change nothing, which makes it the logit lens.
        about: how it was made, as plain data; it is saved with it.

    Its `history` is what `train` has seen, or None.

    Raises `ModelMismatch` where the translators do not fit the model's layers.

    >>> lens = lk.TunedLens.load(model, "demo")  # doctest: +SKIP
    >>> lens.read("The capital of France is").tokens(layer=24, pos=-1)[0]  # doctest: +SKIP
    ' Paris'
    """

    name = "tuned"
    site = "resid_pre"

    read = read
    generate = generate_from
    evaluate = evaluate
    directions = lens_directions

    def __init__(
        self, model: Model, translators: AnyTranslators | None = None, *, about: Mapping[str, Any] | None = None
    ) -> None:
        self.model = model
        sizes = (model.n_layers, d_model_of(model))
        if translators is None:
            translators = Translators.identity(*sizes)
        if translators.shape != sizes:
            (layers, d_model), (depth, width) = translators.shape, sizes
            raise ModelMismatch(
                f"these translators are of {layers} layers with d_model {d_model}, and {model.name} has {depth} layers "
                f"with d_model {width}."
            )
        dtype = model.dtype if model.dtype == torch.float64 else torch.float32
        self.translators = translators.to(model.device, dtype)
        self.about = dict(about or {})
        self.history: History | None = None

    @cached_property
    def identity(self) -> Identity:
        """Which model it belongs to, with hashes of its unembedding; worked out when it is saved or asked for."""
        return Identity.of(self.model)

    def transport(self, h: Tensor, site: SiteLike) -> Tensor:
        """The final residual that `h` (..., d_model), seen at `site`, stands for.

        `site` is `resid_pre` of a layer, or `resid_post`, which is `resid_pre` of the next one; the last `resid_post`
        is the final residual already. What lies between (`resid_mid`) or is added there (`attn_out`, `mlp_out`) goes
        through the layer's own translator, as in tuned-lens. Raises `ValueError` at any other site, `IndexError` for a
        layer out of range.
        """
        where = Site.parse(site)
        if where.name not in COMPONENTS or where.layer is None:
            raise ValueError(
                f"a tuned lens reads {', '.join(COMPONENTS)} of a layer, such as resid_pre.5, not {site!r}."
            )
        layers = self.model.n_layers
        if not -layers <= where.layer < layers:
            raise IndexError(f"{where} does not exist: there are layers 0 to {layers - 1}.")
        layer = where.layer % layers + (where.name == "resid_post")
        if layer == layers:
            return h
        kept = next(iter(vars(self.translators).values())).dtype
        return self.translators.carry(h.to(kept), layer).to(h.dtype)

    # Making one

    @classmethod
    def fit(
        cls,
        model: Model,
        texts: Texts,
        *,
        tokens: int | None = 20_480,
        chunk: int = CHUNK,
        skip_first: int = 1,
        progress: Callable[[float], object] | None = None,
    ) -> TunedLens:
        """A lens in closed form from one pass over a text: for each layer, ridge regression of the final residual.

        Every row counts by 1 over what the final norm divides it by. `TunedLens.train` makes it better.

        Args:
            texts: a text, texts, rows of a data set with a `text`, `Chunks`, or token ids (n,) or (chunk, pos).
            tokens: how many to use at most, of a stream the first and else from all over it; None for all.
            chunk: how many tokens the model reads at once.
            skip_first: positions left out at each chunk's beginning, where the attention sink is.
            progress: called with the share done after each batch.

        Memory: 16 d_model^2 bytes for each layer. Raises `ValueError` where the text is not one chunk long.

        >>> lens = lk.TunedLens.fit(model, open("austen.txt").read())  # doctest: +SKIP
        """
        chunks = chunks_of(model, texts, chunk, tokens)
        layers = range(model.n_layers)
        moments = gathered(model, chunks.ids, layers, skip_first=skip_first, progress=progress)
        about = {"fit": {"tokens": chunks.ids.numel(), "chunk": chunks.ids.shape[1], "skip_first": skip_first}}
        return cls(model, moments.solve(), about=about)

    @classmethod
    def train(
        cls,
        model: Model,
        texts: Texts,
        *,
        start: Start | TunedLens = "closed form",
        start_tokens: int = 20_480,
        loss: Loss = "kl",
        optimizer: Optimizer = "adam",
        lr: float | None = None,
        warmup: int | None = None,
        weight_decay: float = 0.0,
        token_shift: int | None = None,
        bias_only: bool = False,
        layers: Sequence[int] | None = None,
        steps: int = 250,
        tokens_per_step: int = 512,
        accumulate: int = 1,
        chunk: int = CHUNK,
        clip: float | None = 1.0,
        skip_first: int = 1,
        seed: int = 0,
        folder: str | Path | None = None,
        checkpoint_every: int = 25,
        on_step: Callable[[History], object] | None = None,
        progress: Callable[[float], object] | None = None,
        accelerator: Accelerator | None = None,
    ) -> TunedLens:
        """Train a lens on a text: every chosen layer at once, from one forward of the model for each pass.

        Logits are multiplied out in one reused buffer of 50 MB, whatever the text and the number of layers. The same
        arguments give the same lens to the last bit. What was seen on the way is its `history`.

        Args:
            texts: as in `fit`. Where there is less than the steps need, it is gone through again in another order.
            start: `"closed form"`, which is `fit` on `start_tokens` of it; `"identity"`, the logit lens; or a lens.
            loss: `"kl"`, from the model's own prediction, or `"ce"`, of the token that comes.
            optimizer: `"adam"` (with decoupled weight decay) or `"sgd"` (Nesterov, momentum 0.9).
            lr: by default 1e-3 with Adam and 1 with SGD. It rises over the warm-up, then falls in a straight line to 0.
            warmup: steps; by default a fifth of all, at most 1,000, with Adam and none with SGD.
            weight_decay: pulls the translators to the identity.
            token_shift: what a row is to say: 0 what the model says there, 1 what it says a token later; or of which
                token. By default 0 for KL and 1 for CE, the next token.
            bias_only: train the biases and leave the matrices as they began.
            layers: the layers to train; by default all. The others stay the identity, or what the given lens has.
            steps: how many.
            tokens_per_step: over all passes and processes.
            accumulate: in how many passes a step's tokens go through the model, to need less memory.
            chunk: how many tokens the model reads at once.
            clip: the longest gradient of a layer; None for no limit.
            skip_first: positions left out at each chunk's beginning, where the attention sink is.
            seed: of the order of the chunks; nothing else is drawn.
            folder: keeps a checkpoint, from which the same call goes on after any interruption and ends as if it had
                not been there, to the last bit.
            checkpoint_every: steps from one to the next.
            on_step: called with the `History` after every step.
            progress: called with the share done of the closed form.
            accelerator: accelerate's, for a tracker (`Accelerator(log_with=...)`, after `init_trackers`) or for many
                processes. Each of these takes its share of every step's chunks, and gradients are averaged. Where
                `accelerate launch` started the process, one is made.

        Memory: 4 times the translators with Adam, 3 with SGD, and 4 (layers + 1) d_model bytes for each token of a
        pass. Raises `ValueError` for arguments that do not go together, for too little text, and where `folder` holds
        another training; `FloatingPointError` where the loss is no number.

        >>> lens = lk.TunedLens.train(model, open("austen.txt").read(), steps=50)  # doctest: +SKIP
        >>> lens.history.figure()  # doctest: +SKIP
        """
        chunks = chunks_of(model, texts, chunk, max(steps * tokens_per_step, start_tokens))
        recipe = Recipe(
            layers=chosen_layers(model, layers),
            loss=loss,
            optimizer=optimizer,
            lr=LEARNING_RATES.get(optimizer, 1.0) if lr is None else lr,
            warmup=(min(1000, steps // 5) if optimizer == "adam" else 0) if warmup is None else warmup,
            weight_decay=weight_decay,
            token_shift=int(loss == "ce") if token_shift is None else token_shift,
            bias_only=bias_only,
            steps=steps,
            tokens_per_step=tokens_per_step,
            accumulate=accumulate,
            chunk=chunks.ids.shape[1],
            clip=clip,
            skip_first=skip_first,
            seed=seed,
        )
        given = start.translators if isinstance(start, TunedLens) else start
        starting = partial(begin, model, chunks, recipe, given, start_tokens, progress)
        training = Training(model, chunks, recipe, starting, accelerated(accelerator))
        trained, history = training.run(None if folder is None else Path(folder), checkpoint_every, on_step)
        others = Translators.identity(model.n_layers, trained.shape[1]) if isinstance(given, str) else given.whole()
        about = {"train": recipe.as_dict(), "start": str(start), "start_tokens": start_tokens}
        lens = cls(model, others.with_layers(recipe.layers, trained), about=about)
        lens.history = history
        return lens

    def low_rank(self, rank: int, texts: Texts | None = None, *, tokens: int = 8_192, chunk: int = CHUNK) -> TunedLens:
        """The same lens in factors of this rank, which are smaller to keep.

        With `texts`, the factors are the best for what the layers read there, from one pass of the model; without,
        for whatever they could read, which takes a higher rank for the same faithfulness.
        """
        metric = None
        if texts is not None:
            chunks = chunks_of(self.model, texts, chunk, tokens)
            metric = gathered(self.model, chunks.ids, range(self.model.n_layers)).metric
        about = {**self.about, "rank": rank}
        return TunedLens(self.model, factored(self.translators.whole(), rank, metric), about=about)

    # Keeping one

    @classmethod
    def load(
        cls,
        model: Model,
        where: str | Path | None = None,
        *,
        repo: str | None = None,
        repo_type: str | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
    ) -> TunedLens:
        """Read a lens, and refuse it where it is not this model's.

        Args:
            model: the model it is to read.
            where: `"demo"`, the lens of the demo model that comes with lenskit; a `.safetensors` file that `save`
                wrote; a folder in tuned-lens's format, or laid out as the hub's is (`lens/<model>/`); or the name of a
                lens on the hub. None, the default: the lens on the hub that is called as the model.
            repo, repo_type: where on the hub; by default the space `AlignmentResearch/tuned-lens`, or what the
                environment's `TUNED_LENS_REPO_ID` and `TUNED_LENS_REPO_TYPE` say.
            revision: of that repository.
            cache_dir: the Hugging Face cache to use.

        What is in the Hugging Face cache is taken from there, and the hub is asked only for what is not. Only tensors
        are read, never code. Raises `LoadError` where there is no lens, `ModelMismatch` where it is another model's.
        """
        found = places.find(
            model.name if where is None else where,
            model.name,
            repo=repo,
            repo_type=repo_type,
            revision=revision,
            cache_dir=cache_dir,
        )
        about: dict[str, Any] = {}
        if found.is_dir():
            translators, identity = published.read(found)
        else:
            translators, identity, about = own.read(found)
        identity.check(
            model,
            f"the lens at {where if where is not None else found}",
            "fit a lens to this one with TunedLens.fit(model, texts)",
        )
        return cls(model, translators, about=about)

    def save(
        self,
        path: str | Path,
        *,
        format: FileFormat = "lenskit",  # noqa: A002 -- what everyone calls it
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Write the lens, whole or not at all.

        Args:
            path: a `.safetensors` file, which is replaced; or for tuned-lens's format a new folder.
            format: `"lenskit"`, one safetensors file with the model's identity in it; or `"tuned-lens"`, which
                tuned-lens 0.2.0 reads.
            dtype: float16 halves the size; in lenskit's format, int8 (127 steps to either side of 0 in each row of a
                matrix) makes a quarter of it, and costs the demo model's lens nothing that could be measured.

        Raises `ValueError` for another format or ending, `FileExistsError` where the folder is there already.
        """
        path = Path(path).expanduser()
        if format == "tuned-lens":
            if not dtype.is_floating_point:
                raise ValueError(f"tuned-lens reads floats only, not {str(dtype).removeprefix('torch.')}.")
            published.write(path, self.translators, self.identity, dtype)
        elif format != "lenskit":
            raise ValueError(f"format is 'lenskit' or 'tuned-lens', not {format!r}.")
        elif path.suffix != ".safetensors":
            raise ValueError(f"lenskit's own format is one file: call it {path.name}.safetensors.")
        else:
            own.write(path, self.translators, self.identity, self.about, dtype)

    def __repr__(self) -> str:
        rank = f", rank {self.translators.rank}" if isinstance(self.translators, FactoredTranslators) else ""
        return f"TunedLens({self.model.name}, {self.model.n_layers} layers{rank})"
