"""The demo texts come with the package and are plain text."""

from lenskit.models.files.demo_texts import demo_texts


def test_there_are_sixty_passages_that_all_differ() -> None:
    texts = demo_texts()
    assert len(texts) == 60
    assert len(set(texts)) == 60
    assert all(100 < len(text) < 2_000 for text in texts)
    assert all(text == text.strip() and "\f" not in text for text in texts)
    assert sum(map(len, texts)) > 25_000
