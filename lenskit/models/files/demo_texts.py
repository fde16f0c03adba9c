"""The demo texts: passages to fit, train and measure on, that come with lenskit and are the same everywhere."""

from pathlib import Path


def demo_texts() -> list[str]:
    """Sixty short passages of every kind that the demo model wrote itself, about 8,000 of its tokens, as plain text.

    They are on disk already: nothing is fetched. A model's own text is what it finds easy; for figures about other
    text, measure on other text. Written by `scripts/write_demo_texts.py`.

    >>> len(demo_texts())
    60
    """
    path = Path(__file__).with_suffix(".txt")
    return [passage.strip() for passage in path.read_text(encoding="utf-8").split("\f")]
