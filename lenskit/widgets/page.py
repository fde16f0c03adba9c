"""One self-contained page of a widget: a front-end, its state and one stored reply, and nothing from the network."""

import base64
import html
import json
from collections.abc import Sequence
from pathlib import Path

_HOST = Path(__file__).parent / "static" / "host.js"

# Scripts only from this page and from the blob that the front-end is imported from; nothing else may load.
_POLICY = "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; img-src data:"

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
body {{ margin: 0; padding: 20px; background: #ffffff; color: #1c1d1f; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #111214; color: #e9e9e6; }} }}
main {{ max-width: 1500px; margin: 0 auto; }}
{css}
</style>
</head>
<body>
<main id="lk-here"><noscript>
{static}
</noscript></main>
<script type="application/json" id="lk-data">{data}</script>
<script>{host}</script>
</body>
</html>
"""


def page(
    *,
    title: str,
    front_end: str,
    css: str,
    state: dict,
    reply: tuple[dict, list[bytes]],
    others: Sequence[tuple[dict, list[bytes]]] = (),
    static: str = "",
) -> str:
    """Write a widget as one HTML page that opens from disk, offline, and can be explored there.

    The page holds a model of about 1 KB with anywidget's interface over the given state, and answers every request
    of the front-end with the stored reply. It follows the reader's light or dark colour scheme.

    Args:
        title: the page's title; text.
        front_end: the source of the front-end's module, as built into ``static/``.
        css: the stylesheet built beside it.
        state: the widget's traits by name, JSON-able; the facts should say ``live: False``.
        reply: a message of WIRE.md and its buffers, in the order of the message's ``arrays``.
        others: more replies. A request gets the first of all that tells of the same ``lens``, ``second`` and ``other``.
        static: HTML, already escaped, for readers without scripts.

    Returns:
        The page, about 60 KB and 4/3 of the buffers. Nothing in it can end a script or a comment early.

    Raises:
        TypeError: something in ``state`` or in the message is not JSON-able.

    Example:
        >>> text = page(title="Empty", front_end="export default {}", css="", state={}, reply=({}, []))
        >>> text.startswith("<!doctype html>")
        True
    """
    first, *more = (
        [said, [base64.b64encode(x).decode("ascii") for x in buffers]] for said, buffers in (reply, *others)
    )
    data = {"frontEnd": front_end, "state": state, "reply": first, **({"others": more} if more else {})}
    return _PAGE.format(
        policy=_POLICY,
        title=html.escape(title),
        css=css.replace("</", r"<\/"),
        static=static,
        data=_as_json(data),
        host=_as_script(_HOST.read_text(encoding="utf-8")),
    )


def _as_json(data: dict) -> str:
    """JSON without a ``<``: neither ``</script`` nor ``<!--`` can be in it, whatever a token says."""
    # JSON has no NaN and no infinity; a lone surrogate, which UTF-8 cannot write, is escaped like all non-ASCII.
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")


def _as_script(source: str) -> str:
    """Our own code, with what would end its element early written in another way."""
    return source.replace("</script", r"<\/script").replace("<!--", r"<\!--")
