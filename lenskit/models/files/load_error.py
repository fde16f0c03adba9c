"""The one exception of `lenskit.load`."""


class LoadError(OSError):
    """A model or its tokenizer could not be found, fetched or read.

    The message says what was asked for, what was tried and what to do; the exception that stopped it, if
    there was one, is the `__cause__`.
    """
