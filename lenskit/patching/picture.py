"""Pictures of a sweep that need no kernel: a plotly heat map, and a plain table for GitHub and nbviewer."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from lenskit.patching.swept import Axis, Sweep

if TYPE_CHECKING:
    import plotly.graph_objects as go

# The diverging scale of LOOK.md from its middle, the colour of the page, outwards: negative, and positive.
_NEGATIVE = ((243, 201, 161), (217, 120, 47), (138, 52, 3))
_POSITIVE = ((169, 207, 230), (58, 134, 183), (6, 63, 110))
_GREY = "#797c82"  # an ink to be read on a light page and on a dark one
_WIDEST, _MOST_NUMBERS = 24, 48
_MOST_ROWS = 48


class Sheet(NamedTuple):
    """A sweep laid out in two dimensions: (row, column), the first row at the bottom."""

    rows: list[str]
    columns: list[str]
    row_title: str
    column_title: str
    shown: np.ndarray
    values: np.ndarray
    exact: np.ndarray
    where: list[list[str]]
    title: str
    limit: float
    left_out: tuple[int, int]


def laid_out(sweep: Sweep, most_columns: int | None = None) -> Sheet:
    """The sweep in two dimensions: of three axes the first two go down, and of many rows the strongest stay.

    So of too many columns, but of positions the last ones.
    """
    sweep = sweep.mean()
    shown = sweep.normalised if sweep.has_share else sweep.effect
    title = f"change of {sweep.metric}"
    if sweep.has_share:
        title = f"share of {sweep.metric} {'restored' if sweep.direction == 'denoise' else 'lost'}"
    *down, across = sweep.axes
    heights = tuple(len(axis.ticks) for axis in down)
    flat = [array.reshape(-1, len(across.ticks)) for array in (shown, sweep.values, sweep.exact)]
    strength = np.abs(np.nan_to_num(flat[0]))
    rows = _strongest(strength.max(1), _MOST_ROWS if len(down) > 1 else len(strength))
    columns = np.arange(len(across.ticks))
    if most_columns is not None and across.name == "pos":
        columns = columns[-most_columns:]
    elif most_columns is not None:
        columns = _strongest(strength.max(0), most_columns)
    where = [[_where(sweep, (*map(int, np.unravel_index(r, heights)), int(c))) for c in columns] for r in rows]
    names = _rows(down)
    shown, values, exact = (array[np.ix_(rows, columns)] for array in flat)
    return Sheet(
        [names[r] for r in rows],
        [across.labels[c] for c in columns],
        " . ".join(axis.name for axis in down),
        across.name,
        shown,
        values,
        exact,
        where,
        title,
        1.0 if sweep.has_share else float(strength.max(initial=0.0)) or 1.0,
        (len(strength) - len(rows), len(across.ticks) - len(columns)),
    )


def _strongest(strength: np.ndarray, most: int) -> np.ndarray:
    """The indices of the strongest, in their own order."""
    return np.sort(np.argsort(-strength, kind="stable")[:most])


def _where(sweep: Sweep, place: tuple[int, ...]) -> str:
    return ", ".join(f"{name} {value}" for name, value in sweep.where(place).items())


def _rows(down: list[Axis]) -> list[str]:
    names = [""]
    for axis in down:
        names = [f"{name}.{label}" if name else label for name in names for label in axis.labels]
    return names


def heat_map(sweep: Sweep) -> go.Figure:
    """The plotly figure of `Sweep.figure`."""
    import plotly.graph_objects as go

    sheet = laid_out(sweep)
    rows, columns = sheet.shown.shape
    few = columns <= _MOST_NUMBERS
    exact = np.where(sheet.exact, sheet.shown, np.nan)
    numbers = [[_hover(sheet, r, c) for c in range(columns)] for r in range(rows)]
    hovering = "%{customdata}<extra></extra>"
    figure = go.Figure(
        go.Heatmap(
            z=exact,
            customdata=numbers,
            hovertemplate=hovering,
            coloraxis="coloraxis",
            hoverongaps=False,
            xgap=1,
            ygap=1,
        )
    )
    if few:
        _write_numbers(figure, sheet, exact)
    estimates = [(r, c) for r, c in np.argwhere(~sheet.exact & ~np.isnan(sheet.shown)).tolist()]
    if estimates:
        _draw_discs(figure, sheet, estimates, numbers)
    bar = {
        "outlinewidth": 0,
        "thickness": 12,
        "lenmode": "pixels",
        "len": max(110, 21 * rows),
        "y": 1,
        "yanchor": "top",
    }
    figure.update_layout(
        coloraxis={"cmin": -sheet.limit, "cmax": sheet.limit, "colorscale": _scale(), "colorbar": bar},
        width=170 + (max(34, 8 + 8 * max(map(len, sheet.columns))) * columns if few else 900),
        height=max(250, 150 + 21 * rows),
        title={"text": _plain(sheet.title), "font": {"size": 13}, "x": 0.01, "y": 0.99, "yanchor": "top"},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": _GREY},
        margin={"l": 60, "t": 76, "b": 30, "r": 20},
        showlegend=False,
    )
    ticks = list(range(columns)) if few else list(range(0, columns, max(1, columns // 12)))
    names = [_plain(sheet.columns[c]) for c in ticks]
    plain = {"showgrid": False, "zeroline": False}
    # A margin of nothing but the cells, so that discs at the edge are whole.
    across = {"tickvals": ticks, "ticktext": names, "side": "top", "range": [-0.5, columns - 0.5], **plain}
    if sheet.column_title not in ("pos", "span"):
        across["title"] = {"text": sheet.column_title}
    step = max(1, rows // 30)
    down = {
        "tickvals": list(range(0, rows, step)),
        "ticktext": sheet.rows[::step],
        "range": [-0.5, rows - 0.5],
        **plain,
    }
    note = f", the {rows} strongest of {rows + sheet.left_out[0]}" if sheet.left_out[0] else ""
    figure.update_xaxes(**across)
    figure.update_yaxes(title={"text": f"{sheet.row_title} ({sweep.site}){note}"}, **down)
    return figure


def _write_numbers(figure: go.Figure, sheet: Sheet, exact: np.ndarray) -> None:
    """The exact cells' numbers where they say something, in an ink for their ground."""
    import plotly.graph_objects as go

    places = [(r, c) for r, c in np.argwhere(np.abs(np.nan_to_num(exact)) >= 0.095 * sheet.limit).tolist()]
    figure.add_trace(
        go.Scatter(
            x=[c for _, c in places],
            y=[r for r, _ in places],
            text=[_number(exact[r, c]) for r, c in places],
            mode="text",
            textfont={"size": 11, "color": [_ink(float(exact[r, c]) / sheet.limit) for r, c in places]},
            hoverinfo="skip",
        )
    )


def _draw_discs(figure: go.Figure, sheet: Sheet, places: list[tuple[int, int]], numbers: list[list[str]]) -> None:
    """The cells that are only estimated."""
    import plotly.graph_objects as go

    figure.add_trace(
        go.Scatter(
            x=[c for _, c in places],
            y=[r for r, _ in places],
            customdata=[numbers[r][c] for r, c in places],
            hovertemplate="%{customdata}<extra></extra>",
            mode="markers",
            marker={
                "color": [float(sheet.shown[r, c]) for r, c in places],
                "coloraxis": "coloraxis",
                "size": 11,
                "line": {"width": 1, "color": "rgba(121,124,130,0.6)"},
            },
        )
    )


def _hover(sheet: Sheet, r: int, c: int) -> str:
    state = "" if sheet.exact[r, c] else "<br>estimate"
    numbers = f"{_number(sheet.shown[r, c])} ({sheet.values[r, c]:.3f})".replace("-", "−")
    return f"{_plain(sheet.where[r][c])}<br>{numbers}{state}"


def _number(value: float) -> str:
    """Two decimals and a true minus; `.67` below one."""
    text = f"{abs(value):.2f}"
    text = text.removeprefix("0") if text.startswith("0.") else text
    return f"−{text}" if value < 0 and float(f"{value:.2f}") else text


def _scale() -> list[list[object]]:
    """The scale for plotly. Its middle is see-through, so that nothing is the colour of the page, light or dark."""
    sides = {-1: _NEGATIVE, 1: _POSITIVE}
    stops = [(0.0, (128, 128, 128), 0.06)]
    for sign, (_, middle, end) in sides.items():
        stops += [(sign * at, middle, alpha) for at, alpha in ((0.02, 0.07), (0.24, 0.3), (0.4, 0.9))]
        stops.append((sign * 1.0, end, 1.0))
    colours = sorted((0.5 + at / 2, f"rgba({','.join(map(str, colour))},{alpha})") for at, colour, alpha in stops)
    return [[at, colour] for at, colour in colours]


def _ink(share: float) -> str:
    """What can be read on a cell of the scale whatever the page: as well as one ink can."""
    if abs(share) < 0.28:
        return _GREY
    return "#000000" if share < 0.55 and share > -0.7 else "#ffffff"


def _plain(text: str) -> str:
    """Text as plotly should show it: it reads a little HTML, so what would open a tag is written out."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def html_table(sweep: Sweep) -> str:
    """A static table of the numbers, coloured: the last layer on top. An estimate is in brackets.

    It is built as a tree of elements, so that a token can never become markup. Of many columns the last 24 are shown.
    """
    sheet = laid_out(sweep, _WIDEST)
    rows, columns = sheet.shown.shape
    style = "border-collapse:separate;border-spacing:1px;font:12px ui-monospace,monospace"
    table = ET.Element("table", {"style": style})
    caption = ET.SubElement(table, "caption", {"style": "caption-side:top;text-align:left;font-family:sans-serif"})
    model = sweep.provenance.get("model", "a model")
    caption.text = f"{model}, {sweep.direction} {sweep.site}: {sheet.title}"
    for shown, left_out, what in zip((rows, columns), sheet.left_out, ("rows", "columns"), strict=True):
        if left_out:
            which = "last" if what == "columns" and sheet.column_title == "pos" else "strongest"
            caption.text += f" (the {which} {shown} of {shown + left_out} {what})"
    head = ET.SubElement(ET.SubElement(table, "thead"), "tr")
    ET.SubElement(head, "th", {"scope": "col"}).text = sheet.row_title
    for name in sheet.columns:
        ET.SubElement(head, "th", {"scope": "col", "style": "text-align:center"}).text = name
    body = ET.SubElement(table, "tbody")
    for r in reversed(range(rows)):
        row = ET.SubElement(body, "tr")
        ET.SubElement(row, "th", {"scope": "row"}).text = sheet.rows[r]
        for c in range(columns):
            value = sheet.shown[r, c]
            # Two digits, in the colour too: so a stored notebook reads the same from one processor to the next.
            share = 0.0 if np.isnan(value) else round(float(value), 2) / sheet.limit
            text = "" if np.isnan(value) else _number(value) if sheet.exact[r, c] else f"({_number(value)})"
            ET.SubElement(row, "td", {"style": _cell_style(share)}).text = text
    return ET.tostring(table, encoding="unicode", method="html")


def _cell_style(share: float) -> str:
    if abs(share) < 0.005:
        return "text-align:right;padding:1px 6px"
    outwards = (255, 255, 255), *(_POSITIVE if share > 0 else _NEGATIVE)
    place = min(abs(share), 1.0) * (len(outwards) - 1)
    low = min(int(place), len(outwards) - 2)
    a, b = np.array(outwards[low]), np.array(outwards[low + 1])
    red, green, blue = (round(x) for x in (a + (b - a) * (place - low)).tolist())
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red / 255, green / 255, blue / 255)]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    ink = "#000000" if luminance > 0.179 else "#ffffff"
    return f"background:#{red:02x}{green:02x}{blue:02x};color:{ink};text-align:right;padding:1px 6px"
