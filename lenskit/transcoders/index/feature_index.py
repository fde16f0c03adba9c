"""FeatureIndex: what each feature of a basis does on a corpus, looked up by feature, by token and by text."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lenskit.models.show import Piece
from lenskit.models.sites import Site, SiteLike, SiteUnavailable
from lenskit.transcoders.index import files
from lenskit.transcoders.index.by_word import TokenFeature, about_tokens, on_token
from lenskit.transcoders.index.card import FeatureCard, card_of
from lenskit.transcoders.index.examples import NOWHERE, Band, Example, Stored, share_below
from lenskit.transcoders.index.pairs import AFTER, BEFORE
from lenskit.transcoders.index.vocabulary import Token, Vocabulary

if TYPE_CHECKING:
    import pandas as pd

    from lenskit.models.corpus import Texts
    from lenskit.models.identity import Identity
    from lenskit.models.model import Model
    from lenskit.transcoders.index.bases import Basis
    from lenskit.transcoders.index.firing import Firing
    from lenskit.transcoders.index.progress import Progress

Order = Literal["density", "max", "mean", "number"]
Where = Literal["promotes", "fires"]


class FeatureIndex:
    """What each feature of a dictionary, or each neuron of a site, does on a corpus.

    It is made in one pass by `FeatureIndex.build` and kept in a folder; `FeatureIndex.open` opens it at once, whatever
    its size, since its arrays are mapped and read where they are asked for. It needs neither model nor tokenizer then.

    Attributes (arrays are read-only, (feature, ...)):
        folder: where it is.
        n_features, tokens: how many features there are, and how many positions of the corpus were looked at.
        skip: how many tokens at the beginning of each chunk, and of each text that is looked at, are left out.
        basis_name, unit, is_neurons, reads, writes: what it is of; a unit is a "feature" or a "neuron".
        density: the share of the positions at which a feature is active: above 0.
        max, mean: how active it is at most, and on average where it is active.
        histograms, ranges: counts in equal bins from 0 to the range, a power of two above the maximum.
        promoted, suppressed: (feature, 16) token ids, with `promoted_logits` and `suppressed_logits`.
        window: how many tokens before and after its own an example has at most.
        provenance: where it comes from.

    >>> index = lk.FeatureIndex.build(model, ("mlp_post", 20), texts, "neurons20")    # doctest: +SKIP
    >>> index.card(1144)                                                              # doctest: +SKIP
    >>> index.features_of_token(" weeks", 3)                                          # doctest: +SKIP
    """

    window = (BEFORE, AFTER)

    def __init__(self, folder: Path, arrays: files.Mapped, about: dict[str, Any]) -> None:
        self.folder, self._arrays, self._about = folder, arrays, about
        self._basis: Basis | None = None
        kind = about["basis"]
        self.n_features: int = about["n_features"]
        self.tokens: int = about["tokens"]
        self.skip: int = about["skip"]
        self.basis_name: str = kind["name"]
        self.is_neurons: bool = kind["kind"] == "neurons"
        self.unit: str = "neuron" if self.is_neurons else "feature"
        self.reads = Site.parse(kind["reads"])
        self.writes = tuple(Site.parse(site) for site in kind["writes"])
        self.provenance: dict[str, Any] = about["provenance"]
        self.density, self.max, self.mean = arrays["density"], arrays["max"], arrays["mean"]
        self.histograms, self.ranges = arrays["histograms"], arrays["ranges"]

    # Making and opening one

    @classmethod
    def build(
        cls,
        model: Model,
        basis: Basis | SiteLike | Path,
        texts: Texts,
        folder: str | Path,
        *,
        tokens: int | None = None,
        length: int = 128,
        skip: int = 1,
        top: int = 16,
        bands: int = 5,
        per_band: int = 4,
        bins: int = 32,
        on_progress: Callable[[Progress], object] | None = None,
    ) -> FeatureIndex:
        """Read a corpus once, keep what each feature did, and open the result.

        Args:
            model: the model, as it is, with its own edits. The forward stops at the site that is needed.
            basis: a `Transcoder`, or the place of one to load ("path/to/it", "demo/15"), which is then remembered; or a
                site with its layer, such as ("mlp_post", 20), for its neurons. Those are active where they are above 0;
                `Neurons(site, negative=True)` looks at the other side.
            texts: texts, rows of a data set, or token ids (n,) or (chunk, pos).
            folder: where to write. The same call on the same folder goes on where the last was interrupted (the state
                is written every minute), and opens what is finished already.
            tokens: how many tokens of the texts to read; None for all.
            length, skip: how many tokens are read together, and how many at the beginning of each are left out: the
                first is like nothing else.
            top: how many examples to keep of each feature's strongest, of one chunk no more than one.
            bands, per_band: how many bands of equal width there are between 0 and a feature's largest activation, and
                how many examples to keep in each.
            bins: of the histograms, a power of two.
            on_progress: called with a `Progress` after each batch; without one, a bar is drawn in the terminal.

        Memory does not grow with the corpus, but for 12 bytes a token: 4.7 KB for each feature (see `Gathering`), for
        the table by token 260 MB at most, and a million activations or those of one batch. After the pass come the
        products with the vocabulary: as much work as encoding two vocabularies and all features once.

        Raises `ValueError` for a folder that holds another index, `SiteUnavailable` for a site that is not there,
        `ModelMismatch` for a dictionary of another model, and what `model.run` raises.

        Sources: Anthropic's feature dashboards (Bricken et al., "Towards Monosemanticity", 2023), of which are the
        uniform bands; Dunefsky et al., "Transcoders Find Interpretable LLM Feature Circuits" (2024).

        >>> lk.FeatureIndex.build(model, lk.Transcoder.load("demo/20"), texts, "features20")    # doctest: +SKIP
        """
        from lenskit.transcoders.index.build import Sizes, build

        folder = Path(folder).expanduser()
        sizes = Sizes(length=length, skip=skip, top=top, bands=bands, per_band=per_band, bins=bins)
        used = build(model, basis, texts, folder, tokens, sizes, on_progress)
        index = cls.open(folder)
        index._basis = used  # while this one lives, a dictionary need not be loaded again
        return index

    @classmethod
    def open(cls, folder: str | Path) -> FeatureIndex:
        """Open the index of a folder, of which nothing is read yet. Raises `LoadError` where there is none, or in part.

        >>> index = lk.FeatureIndex.open("neurons20")  # doctest: +SKIP
        """
        folder = Path(folder).expanduser()
        arrays, about = files.read(folder)
        with files.reading(folder / files.ABOUT):
            return cls(folder, arrays, about)

    @cached_property
    def identity(self) -> Identity:
        """Which model it belongs to."""
        from lenskit.models.identity import Identity

        with files.reading(self.folder / files.ABOUT):
            return Identity.from_dict(self._about["identity"])

    # Every feature at once

    @property
    def writes_residual(self) -> bool:
        """Whether its features have a direct effect on the logits."""
        return "promotes" not in self._about["lacks"]

    @property
    def promoted(self) -> np.ndarray:
        """(feature, token) ids. Raises `SiteUnavailable` where the basis does not write the residual stream."""
        return self._there("promoted", "promotes")

    @property
    def promoted_logits(self) -> np.ndarray:
        """(feature, token)"""
        return self._there("promoted_logits", "promotes")

    @property
    def suppressed(self) -> np.ndarray:
        """(feature, token) ids. Raises as `promoted` does."""
        return self._there("suppressed", "promotes")

    @property
    def suppressed_logits(self) -> np.ndarray:
        """(feature, token)"""
        return self._there("suppressed_logits", "promotes")

    def sorted_by(self, what: Order, descending: bool = True) -> np.ndarray:
        """The numbers of all features in order; those that are never active come last. Raises `ValueError`.

        >>> index.sorted_by("max")[:5]  # doctest: +SKIP
        """
        if what not in ("density", "max", "mean", "number"):
            raise ValueError(f"features are sorted by 'density', 'max', 'mean' or 'number', not {what!r}.")
        keys = np.arange(self.n_features) if what == "number" else np.asarray(getattr(self, what))
        order = np.argsort(-keys if descending else keys, kind="stable")
        active = self.density[order] > 0
        return np.concatenate([order[active], order[~active]])

    # One feature

    def histogram(self, f: int) -> tuple[np.ndarray, np.ndarray]:
        """Edges (bin + 1,) and counts (bin,) of a feature's activations: equal bins from 0 up to its maximum's."""
        counts, range_ = np.asarray(self.histograms[self._feature(f)]), float(self.ranges[f])
        used = int(np.flatnonzero(counts).max(initial=0)) + 1
        return np.arange(used + 1) * (range_ / len(counts)), counts[:used]

    def examples(
        self, f: int, band: int | None = None, n: int | None = None, window: tuple[int, int] | None = (12, 6)
    ) -> list[Example]:
        """Where a feature is active: its strongest chunks, or the examples of one band, the strongest first.

        band: None for the strongest of all; 0 is the lowest. n: how many at most. window: how many tokens before and
        after to give, as far as the chunk goes; None for `index.window`. Raises `IndexError`, `ValueError`.
        """
        self._feature(f)
        window = self.window if window is None else window
        if not (0 <= window[0] <= BEFORE and 0 <= window[1] <= AFTER):
            raise ValueError(f"an example has up to {BEFORE} tokens before and {AFTER} after its own, not {window}.")
        kind, where = "top", (f,)
        if band is not None:
            if not 0 <= band < self._about["bands"]:
                raise IndexError(f"band {band} does not exist: there are bands 0 to {self._about['bands'] - 1}.")
            kind, where = "band", (f, band)
        there = np.flatnonzero(self._arrays[f"{kind}_positions"][where] != NOWHERE)[:n]
        stored = Stored(self._arrays, self.vocabulary, self._about["length"])
        return [stored.example(kind, (*where, int(slot)), window) for slot in there]

    def bands(self, f: int, window: tuple[int, int] | None = (12, 6)) -> list[Band]:
        """Examples of every strength: bands of equal width from 0 to the feature's maximum, the lowest first."""
        top, bands = float(self.max[self._feature(f)]), self._about["bands"]
        edges = np.arange(bands + 1) * (top / bands)
        shares = np.diff(share_below(edges, *self.histogram(f)))
        examples = [tuple(self.examples(f, band, window=window)) for band in range(bands)]
        return [
            Band(float(low), float(high), float(share), some)
            for low, high, share, some in zip(edges[:-1], edges[1:], shares, examples, strict=True)
        ]

    def promotes(self, f: int, n: int = 10) -> list[Token]:
        """The tokens whose logits a feature raises most where it is active: as shown, id, and by how much.

        That is what it writes times the final norm's gain and the unembedding, the norm's scale left out. Raises
        `SiteUnavailable` where the basis does not write the residual stream.
        """
        self._feature(f)
        return self.vocabulary.listed(self.promoted[f, :n], self.promoted_logits[f, :n])

    def suppresses(self, f: int, n: int = 10) -> list[Token]:
        """The tokens whose logits it lowers most. Raises as `promotes` does."""
        self._feature(f)
        return self.vocabulary.listed(self.suppressed[f, :n], self.suppressed_logits[f, :n])

    def de_embedding(
        self, f: int, n: int = 10, head: tuple[int, int] | None = None, model: Model | None = None
    ) -> list[Token]:
        """The tokens whose embedding alone excites a feature most: as shown, id, and the feature's pre-activation.

        With `head`, a layer and a head, the tokens of which that head would write most in the direction that the
        feature reads: that needs the `model`. Raises `SiteUnavailable` where the site is not read from the residual
        stream directly.
        """
        self._feature(f)
        if head is None:
            ids = self._there("embedded", "de_embedding")[f, :n]
            return self.vocabulary.listed(ids, self._arrays["embedded_values"][f, :n])
        if model is None:
            raise TypeError("what a head makes of every token is computed when it is asked for: give model=.")
        from lenskit.transcoders.index.embeddings import best_through

        self._check(model)
        return self.vocabulary.listed(*best_through(model, self.basis(model), f, *head, n))

    def best_heads(self, f: int, n: int = 4) -> list[tuple[tuple[int, int], float]]:
        """The heads through which a feature listens most, ((layer, head), norm): its direction taken back through OV.

        Raises `SiteUnavailable` as `de_embedding` does.
        """
        heads, norms = self._there("heads", "best_heads")[self._feature(f), :n], self._arrays["head_norms"][f, :n]
        return [((layer, head), norm) for (layer, head), norm in zip(heads.tolist(), norms.tolist(), strict=True)]

    def similar(self, f: int, n: int = 8) -> list[tuple[int, float]]:
        """The features that write most nearly the same, with the cosine."""
        return self._neighbours("similar", "cosines", f, n)

    def coactive(self, f: int, n: int = 8) -> list[tuple[int, float]]:
        """The features that are active most nearly where it is, with Jaccard's index: positions of both over of either.

        It is estimated from 128 positions of each, and errs by about 0.04. A neuron, which is above 0 half of the time,
        counts as active where it is among the 32 strongest of its layer.
        """
        return self._neighbours("company", "jaccard", f, n)

    def tokens_of_feature(self, f: int, n: int = 10) -> list[Token]:
        """The tokens on which a feature is most active: as shown, id, and its mean over all of their occurrences.

        They are in the order of the mean with two more occurrences at which it is silent, so that a token that the
        corpus has once does not come first.
        """
        words = self._arrays["words"][self._feature(f), :n]
        return self.vocabulary.listed(words[words >= 0], self._arrays["word_means"][f, :n][words >= 0])

    def card(self, f: int) -> FeatureCard:
        """All of that, to read."""
        return card_of(self, self._feature(f), self._about["lacks"])

    # By token and by text

    def features_of_token(self, token: str | int, n: int = 20) -> list[TokenFeature]:
        """The features that are most active on a token, over all of its occurrences in the corpus; 32 are kept.

        token: a text that is exactly one token, with its space, or an id. Raises `ValueError` for another text. Of a
        token that the corpus does not have, none.

        >>> index.features_of_token(" weeks", 3)  # doctest: +SKIP
        """
        return on_token(self._arrays, self.vocabulary.id_of(token), n)

    def find(self, text: str, by: Where | None = None) -> np.ndarray:
        """The features that have to do with a text: a token they promote, or that of a strongest example, contains it.

        Whether letters are capitals does not count. by: "promotes" or "fires" for one of the two only.
        """
        if by not in ("promotes", "fires", None):
            raise ValueError(f"features are found by what they 'promotes' or where each 'fires', not by {by!r}.")
        return about_tokens(self._arrays, self.vocabulary.containing(text), by)

    def firing(self, model: Model, text: str | list[int], basis: Basis | None = None) -> Firing:
        """Which features are active where in a text, now. basis: the dictionary, where `basis` cannot load it.

        Raises `ModelMismatch` for another model, and what `model.run` raises.

        >>> index.firing(model, "It took three weeks").strongest(5)  # doctest: +SKIP
        """
        from lenskit.transcoders.index.firing import fire

        self._check(model)
        return fire(model, self.basis(model) if basis is None else basis, text, self)

    def basis(self, model: Model) -> Basis:
        """The dictionary, loaded from where it was, or the neurons.

        Raises `ValueError` where the dictionary was given as an object, so that nobody knows where it is; `LoadError`
        where it is there no more, or another one is.
        """
        from lenskit.transcoders.index.bases import basis_again

        if self._basis is None:
            self._basis = basis_again(self._about["basis"], model)
        return self._basis

    # Tokens

    def piece(self, token: int) -> Piece:
        """The text of a token, or its bytes where they are no text by themselves."""
        return self.vocabulary.piece(token)

    def token(self, token: int) -> str:
        """A token as people should see it."""
        return self.vocabulary.token(token)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """All tokens of the model."""
        return Vocabulary(self._arrays)

    # As a table

    def to_pandas(self) -> pd.DataFrame:
        """One row for each feature: `feature`, `density`, `max`, `mean`, `promotes`, `suppresses`, `fires_on`."""
        import pandas as pd

        joined = self.vocabulary.joined
        table: dict[str, Any] = {
            "feature": np.arange(self.n_features),
            **{name: np.array(getattr(self, name)) for name in ("density", "max", "mean")},
        }
        if self.writes_residual:
            table |= {"promotes": joined(self.promoted[:, :5]), "suppresses": joined(self.suppressed[:, :5])}
        return pd.DataFrame({**table, "fires_on": joined(self._arrays["words"][:, :5])})

    def __len__(self) -> int:
        return self.n_features

    def __repr__(self) -> str:
        return f"FeatureIndex({self.basis_name}, {self.n_features:,} features, {self.tokens:,} tokens)"

    # How it is read

    def _feature(self, f: int) -> int:
        if not 0 <= f < self.n_features:
            raise IndexError(f"feature {f} does not exist: there are features 0 to {self.n_features - 1}.")
        return int(f)

    def _there(self, name: str, lack: str) -> np.ndarray:
        if lack in self._about["lacks"]:
            raise SiteUnavailable(self._about["lacks"][lack])
        return self._arrays[name]

    def _check(self, model: Model) -> None:
        self.identity.check(model, f"the index at {self.folder}", "build one for this model with FeatureIndex.build")

    def _neighbours(self, which: str, numbers: str, f: int, n: int) -> list[tuple[int, float]]:
        found = self._arrays[which][self._feature(f), :n].tolist()
        values = self._arrays[numbers][f, :n].tolist()
        return [(other, value) for other, value in zip(found, values, strict=True) if other >= 0]
