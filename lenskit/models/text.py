"""Text: from prompts to token ids, and from token ids to the very text they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

from lenskit.models.pieces import Pieces, as_bytes
from lenskit.models.show import Piece, show
from lenskit.models.spans import Occurrence, choose, covering, laid_out, occurrences

if TYPE_CHECKING:
    from torch import Tensor

    OnePrompt = str | Sequence[int] | Tensor

# Put before a text to see how it is read within a line; what is found is checked, so one that fails does no harm.
_ANCHORS = ("\n", "(")


class Text:
    """A tokenizer, asked the questions that looking inside a model raises.

    The tokenizer is used as it is and never changed: whether a prompt begins with a BOS token is its own habit, unless
    a call says `bos=True` or `bos=False`. Where a method takes a prompt it takes a text or one row of token ids.

    Pieces put together are the text *as the tokenizer reads it*. Some (Llama 2, Mistral) read a space before a text
    that has none, and it is shown. Some (BERT) do not keep spaces and capitals: their pieces are words, not the text.
    """

    def __init__(self, tokenizer: Any | None) -> None:
        self.tokenizer = tokenizer
        self._pieces = Pieces(tokenizer)

    def _need(self, what: str) -> Any:
        if self.tokenizer is None:
            raise TypeError(
                f"{what} needs a tokenizer, and this model has none. Give token ids, or Model(hf, tokenizer)."
            )
        return self.tokenizer

    # Beginning and end

    @property
    def bos(self) -> int | None:
        """The id of the token that means "a text begins here", or None where the tokenizer has none.

        Raises TypeError without a tokenizer.

        >>> lk.load("gpt2").text.bos  # doctest: +SKIP
        50256
        """
        return getattr(self._need("a BOS token"), "bos_token_id", None)

    @property
    def adds_bos(self) -> bool:
        """Whether the tokenizer begins a prompt with the BOS token by itself; measured, since settings may lie.

        Raises TypeError without a tokenizer.

        >>> lk.load("gpt2").text.adds_bos  # doctest: +SKIP
        False
        """
        return self._begins_with_bos(self._ends()[0])

    @property
    def adds_at_end(self) -> list[int]:
        """What the tokenizer puts after every prompt, because a model then predicts from there: `[SEP]`, an EOS.

        It stays in the ids whatever `bos` says. To be rid of it, give ids: `text.ids(prompt)[:-1]`. Raises TypeError
        without a tokenizer.

        >>> Text(AutoTokenizer.from_pretrained("bert-base-uncased")).adds_at_end  # doctest: +SKIP
        [102]
        """
        return self._ends()[1]

    def _ends(self) -> tuple[list[int], list[int]]:
        """What the tokenizer adds before and after a prompt. Not kept, since a tokenizer's settings can change."""
        whole, core = list(self._need("a text prompt")("a")["input_ids"]), self._plain("a")
        if not core:
            before = int(self._begins_with_bos(whole))
            return whole[:before], whole[before:]
        for at in range(len(whole) - len(core) + 1):
            if whole[at : at + len(core)] == core:
                return whole[:at], whole[at + len(core) :]
        raise ValueError(
            f"this {type(self.tokenizer).__name__} reads 'a' as {whole}, and without special tokens as {core}: what it "
            "adds to a prompt cannot be told. Give token ids, and leave out bos."
        )

    def _begins_with_bos(self, ids: list[int]) -> bool:
        return self.bos is not None and ids[:1] == [self.bos]

    def _plain(self, text: str) -> list[int]:
        return list(self._need("a text")(text, add_special_tokens=False)["input_ids"])

    # From text to ids

    def ids(self, prompt: str, bos: bool | None = None) -> list[int]:
        """The prompt's token ids, with what the tokenizer adds by itself; `bos` overrides only how they begin.

        Args:
            prompt: a text. Special tokens written out in it are read as such.
            bos: None for the tokenizer's own habit. True: they begin with exactly one BOS token, whether the tokenizer
                adds it, or the text begins with it (as after a chat template), or neither. False: none is added; one
                that is written in the text stays.

        Raises:
            TypeError: there is no tokenizer.
            ValueError: `bos=True`, and the tokenizer has no BOS token.

        >>> model.text.ids("Paris", bos=True)  # doctest: +SKIP
        [1, 38634]
        """
        tokenizer = self._need("a text prompt")
        if bos is None:
            return list(tokenizer(prompt)["input_ids"])
        (before, after), core = self._ends(), self._plain(prompt)
        before = before[1:] if self._begins_with_bos(before) else before
        if not bos:
            return [*before, *core, *after]
        if self.bos is None:
            raise ValueError(
                f"bos=True, and this {type(tokenizer).__name__} has no BOS token. Leave bos out; or give the token ids "
                "with the token in front that your model was trained to begin with."
            )
        while self._begins_with_bos(core):
            core = core[1:]
        return [self.bos, *before, *core, *after]

    def _row(self, prompt: OnePrompt, bos: bool | None = None) -> list[int]:
        """The ids of what may be a text or ids already."""
        if isinstance(prompt, str):
            return self.ids(prompt, bos)
        if bos is not None:
            raise TypeError(BOS_OF_IDS)
        row: Any = prompt if isinstance(prompt, Sequence) else getattr(prompt, "tolist", lambda: prompt)()
        if isinstance(row, Sequence) and len(row) == 1 and isinstance(row[0], list):
            row = row[0]
        try:
            return [index(i) for i in row]
        except TypeError:
            several = isinstance(row, Sequence) and len(row) > 1
            kind = f"{len(row)} of {type(row[0]).__name__}" if several else type(prompt).__name__
            raise TypeError(
                f"this takes one prompt, a text or one row of token ids, and not {kind}: give one of them, as rows[0]."
            ) from None

    def token(self, token: str | int) -> int:
        """The id of a text that is exactly one token, so that what is asked of the model has one answer.

        " Mary" and "Mary" are two tokens, also where the tokenizer reads a space before every text: what you get is
        the token whose own text is the one you gave. An id is given back as it is.

        Raises:
            TypeError: it is neither a text nor an id, or a text and there is no tokenizer.
            ValueError: it is several tokens, or unknown to the vocabulary. The message names the pieces, and which
                other spacing or capitals are one token.

        >>> model.text.token(" Paris")  # doctest: +SKIP
        7042
        """
        if not isinstance(token, str):
            if isinstance(token, bool) or not hasattr(token, "__index__"):
                raise TypeError(f"a token is a text or an id, not {token!r}: for several, use text.tokens([...]).")
            return index(token)
        ids = self._within_a_line(token)
        unknown = self._unknown(token, ids)
        if len(ids) == 1 and unknown is None:
            return ids[0]
        if unknown is not None:
            name = self._pieces[unknown]
            problem = f"{token!r} is not in this vocabulary: the tokenizer reads {name!r} (id {unknown}) for it"
        else:
            pieces = " + ".join(repr(show(piece)) for piece in self.pieces(ids)) or "nothing"
            problem = f"{token!r} is not one token but {len(ids)}: {pieces}"
        others = [repr(other) for other in _variants(token) if self._is_one(other)]
        if others:
            raise ValueError(f"{problem}. One token would be {' or '.join(others)}.")
        pick = f", or give one of its ids {ids}" if len(ids) > 1 and unknown is None else ""
        raise ValueError(f"{problem}. No other spacing or capitals make it one: choose another text{pick}.")

    def tokens(self, tokens: Iterable[str | int]) -> list[int]:
        """The ids of several texts that are one token each, such as the answers to compare. Raises as `token` does.

        >>> model.text.tokens([" Mary", " John"])  # doctest: +SKIP
        [5099, 2322]
        """
        if isinstance(tokens, (str, int)):
            raise TypeError(f"text.tokens takes a list, and this is {tokens!r}: for one token, use text.token.")
        return [self.token(token) for token in tokens]

    def _within_a_line(self, text: str) -> list[int]:
        """The ids that stand for just this text, without a space that the tokenizer reads before it by itself."""
        plain, wanted = self._plain(text), text.encode()
        if as_bytes(self.pieces(plain)) == wanted:
            return plain
        for anchor in _ANCHORS:
            start, whole = self._plain(anchor), self._plain(anchor + text)
            rest = whole[len(start) :]
            if whole[: len(start)] == start and as_bytes(self.pieces(rest)) == wanted:
                return rest
        # Where spelling is not kept (capitals, Unicode forms), nothing is the text, and the tokenizer's word counts.
        return plain

    def _unknown(self, text: str, ids: list[int]) -> int | None:
        """The id that stands for what the vocabulary lacks, where it is among the ids without being written out."""
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        # GPT-2 calls its end of text "unknown" as well, and that one can be asked for by its name.
        return unknown if unknown in ids and self._need("a text").unk_token not in text else None

    def _is_one(self, text: str) -> bool:
        ids = self._within_a_line(text)
        return len(ids) == 1 and self._unknown(text, ids) is None

    # From ids to text

    def pieces(self, ids: Sequence[int]) -> list[Piece]:
        """The text of each token by itself; bytes where a token holds part of a character only.

        Put together they are the text as the tokenizer reads it. Without a tokenizer they are numbers: `#42`.

        >>> model.text.pieces(model.text.ids("naïve🙂"))  # doctest: +SKIP
        ['na', 'ïve', b'\\xf0\\x9f', b'\\x99\\x82']
        """
        return [self._pieces[index(i)] for i in ids]

    def str_tokens(self, prompt: OnePrompt, bos: bool | None = None) -> list[str]:
        """Each token of a prompt as people should see it, with spaces and broken characters made visible (`show`).

        Raises as `ids` does, and TypeError where `bos` is given with ids.

        >>> model.text.str_tokens("The capital of France")  # doctest: +SKIP
        ['The', '·capital', '·of', '·France']
        """
        return [show(piece) for piece in self.pieces(self._row(prompt, bos))]

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """The text that ids stand for, special tokens by their names: nothing is left out or cleaned up.

        What is cut off in the middle of a character shows as U+FFFD. Raises TypeError without a tokenizer.

        >>> model.text.decode(model.text.ids("The capital of France"))  # doctest: +SKIP
        'The capital of France'
        """
        tokenizer, row = self._need("text for ids"), self._row(ids)
        if self._pieces.style == "other":
            return tokenizer.decode(row, clean_up_tokenization_spaces=False)
        return as_bytes(self.pieces(row)).decode("utf-8", "replace")

    # Where a text is in a prompt

    def positions(self, prompt: OnePrompt, token: str | int, bos: bool | None = None) -> list[int]:
        """All positions of a token in a prompt, first to last; an empty list where it does not occur.

        Raises ValueError as `token` does where it is not one token; for a longer text use `span`.

        >>> model.text.positions("When Mary and John went, John gave", " John")  # doctest: +SKIP
        [3, 6]
        """
        try:
            wanted = self.token(token)
        except ValueError as problem:
            raise ValueError(f"{problem} For the place of a longer text, use text.span.") from None
        return [at for at, i in enumerate(self._row(prompt, bos)) if i == wanted]

    def position(self, prompt: OnePrompt, token: str | int, which: Occurrence = "only", bos: bool | None = None) -> int:
        """The position of a token in a prompt, so that no one counts tokens by hand.

        Args:
            prompt: a text, or one row of ids.
            token: a text that is one token, or an id.
            which: "only" (it must occur once), "first", "last", or a number: 0 is the first, -1 the last.
            bos: as in `ids`, for a text.

        Raises:
            ValueError: it is not one token, does not occur, or occurs several times and `which` does not say which.
                The message names where it is, or where a look-alike is.

        >>> model.text.position("When Mary and John went, John gave", " John", "last")  # doctest: +SKIP
        6
        """
        row = self._row(prompt, bos)
        found = self.positions(row, token)
        own = self._pieces[self.token(token)]
        what = repr(token) if isinstance(token, str) else f"{show(own)!r} (id {token})"
        if found:
            return found[choose([str(at) for at in found], which, what)]
        alike = dict[Piece, int]()
        for at, piece in enumerate(self.pieces(row)):
            if _bare(own) and _bare(piece) == _bare(own):
                alike.setdefault(piece, at)
        near = ", ".join(f"{piece!r} at {at}" for piece, at in alike.items())
        remedy = f"But there is {near}: give that one." if near else "text.str_tokens shows what is."
        raise ValueError(f"{what} is not among the {len(row)} tokens of this prompt. {remedy}")

    def span(self, prompt: OnePrompt, part: str, which: Occurrence = "only", bos: bool | None = None) -> slice:
        """The positions of the tokens that cover a part of the prompt's text, however it is cut into tokens.

        A token that is covered partly counts. Special tokens are no text and never part of a span: see `position`.

        Args:
            prompt: a text, or one row of ids.
            part: any text within it.
            which: as in `position`.
            bos: as in `ids`, for a text.

        Raises:
            TypeError: there is no tokenizer.
            ValueError: the part is empty, does not occur, or occurs several times and `which` does not say which.

        >>> model.text.span("When Mary and John went, John gave", "John gave")  # doctest: +SKIP
        slice(6, 8, None)
        """
        self._need("a part of a text")
        row = self._row(prompt, bos)
        text, ranges = laid_out(self._pieces, prompt, row)
        found = occurrences(text, part)
        if not found:
            reads = as_bytes(self.pieces(row)).decode("utf-8", "replace")
            reads = reads if len(reads) <= 200 else f"{reads[:200]}..."
            raise ValueError(f"{part!r} is not in this prompt; spaces and capitals count. Its tokens read {reads!r}.")
        spans = [covering(ranges, begin, end) for begin, end in found]
        places = [f"{s.start} to {s.stop - 1}" if s.stop - s.start > 1 else f"{s.start}" for s in spans]
        return spans[choose(places, which, repr(part))]


BOS_OF_IDS = (
    "bos is for a text: token ids are taken as they are. Leave bos out, and put the BOS token in front of the ids "
    "(model.text.bos) or take it away."
)


def _variants(text: str) -> list[str]:
    """The same word, spaced and capitalised otherwise, the most likely first."""
    word = text.strip()
    if not word:
        return []
    fronts = (" ", "") if text.startswith(" ") else ("", " ")
    forms = (word, word[:1].upper() + word[1:], word.lower(), word.capitalize(), word.upper())
    return [other for other in dict.fromkeys(front + form for form in forms for front in fronts) if other != text]


def _bare(piece: Piece) -> str:
    return piece.strip().casefold() if isinstance(piece, str) else ""
