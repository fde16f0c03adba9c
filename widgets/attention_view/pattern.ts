// One head large: queries down, keys across, tokens on both sides, numbers where they fit; painted as far as it is seen.
import { sequential, stepAt, type Scale } from "../shared/colour.ts";
import { make, set, uniqueId } from "../shared/dom.ts";
import { tokenText } from "../shared/tokens.ts";
import { Typesetter } from "../shared/typeset.ts";
import { prepare, type Ink } from "./ink.ts";
import type { Patterns } from "./patterns.ts";
import { share } from "./tiles.ts";

const SMALLEST = 13;
const LARGEST = 38;
/** Cells from this size on have their number, and round corners. */
const NUMBERED = 27;
const ROUND = 14;
/** Columns from this width on carry slanted tokens, narrower ones upright. */
const SLANTED = 18;
const LABEL = 104;
const TALLEST = 640;
const PADDING = 10;
const MARGIN = 3;
/** A cell with less than this is drawn as an outline, a small one not at all: there is nothing to see. */
const EMPTY = 0.015;
const OUTLINED = 20;
const WRITTEN = 0.045;

export interface Place {
  readonly pos: number;
  readonly key: number;
}

export interface PatternEvents {
  hovered(place: Place | null): void;
  clicked(place: Place): void;
  pressed(event: KeyboardEvent): void;
}

export interface PatternLook {
  /** (query, key) */
  readonly weights: Float32Array;
  readonly causal: boolean;
  /** The chosen query and key, as far as they are. */
  readonly pos: number | null;
  readonly key: number | null;
}

export class PatternGrid {
  readonly scroller = make("div", "lk-a-scroller lk-a-pattern");
  readonly grid = make("div", "lk-a-grid");
  readonly #canvas = make("canvas", "lk-a-canvas");
  readonly #active = make("div", "lk-a-active");
  readonly #row: HTMLElement;
  #typesetter: Typesetter | null = null;
  #patterns: Patterns | null = null;
  #look: PatternLook | null = null;
  #ink: Ink | null = null;
  #room = 600;
  #cell = LARGEST;
  #left = LABEL;
  #top = LABEL;
  #right = 40;
  #hovered: Place | null = null;

  constructor(label: string, events: PatternEvents, signal: AbortSignal) {
    set(this.grid, { role: "grid", "aria-label": label, tabindex: 0 });
    set(this.#active, { role: "gridcell", id: uniqueId("cell"), "aria-selected": "true" });
    this.#canvas.setAttribute("aria-hidden", "true");
    this.#row = make("div", "lk-a-row", this.#active);
    this.#row.setAttribute("role", "row");
    this.grid.append(this.#canvas, this.#row);
    this.scroller.append(this.grid);
    this.scroller.addEventListener("scroll", () => this.paint(), { signal, passive: true });
    const hover = (place: Place | null): void => {
      if (place?.pos === this.#hovered?.pos && place?.key === this.#hovered?.key) return;
      this.#hovered = place;
      this.paint();
      events.hovered(place);
    };
    this.grid.addEventListener("pointermove", (event) => event.pointerType !== "touch" && hover(this.#placeAt(event)), { signal });
    this.grid.addEventListener("pointerleave", () => hover(null), { signal });
    const clicked = (event: MouseEvent): void => {
      const place = this.#placeAt(event);
      if (place) events.clicked(place);
    };
    this.grid.addEventListener("click", clicked, { signal });
    this.grid.addEventListener("keydown", events.pressed, { signal });
    this.grid.addEventListener("focus", () => this.paint(), { signal });
    this.grid.addEventListener("blur", () => this.paint(), { signal });
  }

  /** The width it may take. */
  set room(room: number) {
    this.#room = room;
  }

  show(patterns: Patterns, look: PatternLook, ink: Ink): void {
    if (this.#ink !== ink) this.#typesetter = null;
    const other = this.#patterns !== patterns;
    [this.#patterns, this.#look, this.#ink] = [patterns, look, ink];
    if (this.#hovered && this.#hovered.pos >= patterns.positions) this.#hovered = null;
    if (other || !this.#typesetter) this.#measure();
    const n = patterns.positions;
    const cells = n * this.#cell;
    this.grid.style.width = `${this.#left + cells + this.#right}px`;
    this.grid.style.height = `${this.#top + cells + MARGIN}px`;
    this.scroller.style.maxHeight = `${TALLEST}px`;
    set(this.grid, { "aria-rowcount": n, "aria-colcount": n });
    this.#name();
    this.paint();
  }

  /** Lays out anew: the room or the tokens have changed. */
  resized(): void {
    if (!this.#patterns || !this.#look || !this.#ink) return;
    this.#measure();
    this.show(this.#patterns, this.#look, this.#ink);
  }

  #measure(): void {
    const [patterns, ink] = [this.#patterns as Patterns, this.#ink as Ink];
    const context = this.#canvas.getContext("2d");
    if (context) {
      this.#typesetter = new Typesetter(context);
      this.#typesetter.font = `12px ${ink.mono}`;
    }
    let widest = 0;
    for (let pos = 0; pos < patterns.positions; pos++) widest = Math.max(widest, this.#typesetter?.width(patterns.token(pos)) ?? 0);
    const label = Math.min(LABEL, Math.ceil(widest));
    this.#left = label + PADDING + MARGIN;
    const room = this.#room - this.#left - 2 * MARGIN;
    const slant = (cell: number): boolean => cell >= SLANTED;
    const fit = (overhang: number): number =>
      Math.min(LARGEST, Math.max(SMALLEST, Math.floor((room - overhang) / patterns.positions)));
    // Slanted tokens lean over the right edge; upright ones do not.
    const leaning = Math.ceil(label * Math.SQRT1_2);
    this.#cell = fit(leaning);
    if (!slant(this.#cell)) this.#cell = Math.min(SLANTED - 1, fit(0));
    this.#right = MARGIN + (slant(this.#cell) ? leaning : 0);
    this.#top = PADDING + (slant(this.#cell) ? leaning + 8 : label);
  }

  #name(): void {
    const [patterns, look] = [this.#patterns as Patterns, this.#look as PatternLook];
    const { pos, key } = look;
    this.#row.hidden = pos === null || key === null;
    if (pos === null || key === null) return this.grid.removeAttribute("aria-activedescendant");
    this.grid.setAttribute("aria-activedescendant", this.#active.id);
    this.#row.setAttribute("aria-rowindex", String(pos + 1));
    this.#active.setAttribute("aria-colindex", String(key + 1));
    const [query, target] = [pos, key].map((at) => `${tokenText(patterns.token(at))} (${at})`);
    const weight = share(look.weights[pos * patterns.positions + key] as number);
    this.#active.setAttribute("aria-label", `query ${query}, key ${target}: ${weight}`);
    const { style } = this.#active;
    style.left = `${this.#left + key * this.#cell}px`;
    style.top = `${this.#top + pos * this.#cell}px`;
    style.width = style.height = `${this.#cell - 1}px`;
  }

  /** Where a cell is, in the page's pixels within the grid. */
  boxOf({ pos, key }: Place): { left: number; top: number; size: number } {
    return { left: this.#left + key * this.#cell, top: this.#top + pos * this.#cell, size: this.#cell };
  }

  #placeAt(event: MouseEvent): Place | null {
    const [patterns, look] = [this.#patterns, this.#look];
    if (!patterns || !look) return null;
    const [box, view] = [this.grid.getBoundingClientRect(), this.scroller.getBoundingClientRect()];
    const hidden = event.clientX - view.left < this.#left || event.clientY - view.top < this.#top;
    const [pos, key] = [event.clientY - box.top - this.#top, event.clientX - box.left - this.#left].map((d) => Math.floor(d / this.#cell));
    const inside = pos !== undefined && key !== undefined && pos >= 0 && key >= 0 && pos < patterns.positions;
    return !hidden && inside && key < (look.causal ? pos + 1 : patterns.positions) ? { pos, key } : null;
  }

  /** Scrolls so that a cell is seen beside the tokens. */
  reveal({ pos, key }: Place): void {
    const { scroller } = this;
    const [x, y, size] = [key * this.#cell, pos * this.#cell, this.#cell];
    const [width, height] = [scroller.clientWidth - this.#left - this.#right, scroller.clientHeight - this.#top - MARGIN];
    scroller.scrollLeft = seenFrom(scroller.scrollLeft, x, size, width);
    scroller.scrollTop = seenFrom(scroller.scrollTop, y, size, height);
    this.paint();
  }

  paint(): void {
    const [patterns, look, ink] = [this.#patterns, this.#look, this.#ink];
    if (!patterns || !look || !ink) return;
    const { scroller } = this;
    const [width, height] = [scroller.clientWidth || this.#room, scroller.clientHeight || TALLEST];
    const context = prepare(this.#canvas, width, height);
    if (!context) return;
    const [n, cell] = [patterns.positions, this.#cell];
    const [x0, y0] = [this.#left - scroller.scrollLeft, this.#top - scroller.scrollTop];
    const seen = (from: number, gutter: number, size: number): [number, number] => [
      Math.max(0, Math.floor((gutter - from) / cell)),
      Math.min(n, Math.ceil((size - from) / cell)),
    ];
    const [rows, columns] = [seen(y0, this.#top, height), seen(x0, this.#left, width)];
    const scale = sequential(ink.theme);
    const at = this.#hovered ?? look;
    context.font = `${cell >= 33 ? 11.5 : 10.5}px ${ink.sans}`;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (let pos = rows[0]; pos < rows[1]; pos++) {
      for (let key = columns[0]; key < Math.min(columns[1], look.causal ? pos + 1 : n); key++) {
        this.#paintCell(context, look.weights[pos * n + key] as number, x0 + key * cell, y0 + pos * cell, scale, ink);
      }
    }
    if (at.pos !== null) this.#paintMarks(context, x0, y0, n, look, at.pos, at.key, ink);
    this.#paintTokens(context, width, height, x0, y0, rows, columns, at, ink);
  }

  #paintCell(context: CanvasRenderingContext2D, weight: number, x: number, y: number, scale: Scale, ink: Ink): void {
    const size = this.#cell - 1;
    const round = this.#cell >= ROUND ? 2.5 : 0;
    context.beginPath();
    if (weight < EMPTY && this.#cell < OUTLINED) return;
    if (weight < EMPTY) {
      context.roundRect(x + 0.5, y + 0.5, size - 1, size - 1, round);
      context.lineWidth = 1;
      context.strokeStyle = ink.faint;
      context.stroke();
      return;
    }
    const step = stepAt(weight);
    context.roundRect(x, y, size, size, round);
    context.fillStyle = scale.fill[step] as string;
    context.fill();
    if (this.#cell < NUMBERED || weight < WRITTEN) return;
    context.fillStyle = scale.ink[step] as string;
    context.fillText(share(weight), x + size / 2, y + size / 2 + 0.5);
  }

  /** The row of the query that is looked at, the column of its key, and the chosen cell. */
  #paintMarks(context: CanvasRenderingContext2D, x0: number, y0: number, n: number, look: PatternLook, pos: number, key: number | null, ink: Ink): void {
    const cell = this.#cell;
    const ring = (x: number, y: number, w: number, h: number, colour: string, line: number): void => {
      context.beginPath();
      context.roundRect(x - 1.5, y - 1.5, w + 2, h + 2, 4);
      context.lineWidth = line;
      context.strokeStyle = colour;
      context.stroke();
    };
    // From the key's own row, where the column begins in a causal model, down to the query.
    if (key !== null) {
      const from = look.causal ? key : 0;
      ring(x0 + key * cell, y0 + from * cell, cell, (pos - from + 1) * cell, ink.accent, 1.5);
    }
    ring(x0, y0 + pos * cell, (look.causal ? pos + 1 : n) * cell, cell, ink.ink, 1.5);
    const focused = this.grid.matches(":focus-visible");
    if (look.pos !== null && look.key !== null) {
      ring(x0 + look.key * cell, y0 + look.pos * cell, cell, cell, focused ? ink.accent : ink.ink, 2.5);
    }
    if (this.#hovered) ring(x0 + this.#hovered.key * cell, y0 + this.#hovered.pos * cell, cell, cell, ink.third, 1.5);
  }

  #paintTokens(
    context: CanvasRenderingContext2D,
    width: number,
    height: number,
    x0: number,
    y0: number,
    rows: readonly [number, number],
    columns: readonly [number, number],
    at: { pos: number | null; key: number | null },
    ink: Ink,
  ): void {
    const [typesetter, patterns, cell] = [this.#typesetter, this.#patterns as Patterns, this.#cell];
    if (!typesetter) return;
    const [left, top] = [this.#left, this.#top];
    context.fillStyle = ink.page;
    context.fillRect(0, 0, left - 4, height);
    context.fillRect(0, 0, width, top - 6);
    typesetter.prepare();
    const label = left - PADDING - MARGIN;
    for (let pos = rows[0]; pos < rows[1]; pos++) {
      const y = y0 + pos * cell + (cell - 1) / 2;
      if (y < top - 2) continue;
      context.fillStyle = pos === at.pos ? ink.accent : ink.ink;
      const piece = patterns.token(pos);
      const room = Math.min(label, typesetter.width(piece));
      typesetter.set(piece, MARGIN + label - room, room, y + 4);
    }
    for (let key = columns[0]; key < columns[1]; key++) {
      const x = x0 + key * cell + (cell - 1) / 2;
      if (x < left - 2) continue;
      context.save();
      context.translate(x + (cell >= SLANTED ? 1 : 4), top - 8);
      context.rotate(cell >= SLANTED ? -Math.PI / 4 : -Math.PI / 2);
      context.fillStyle = key === at.key ? ink.accent : ink.ink;
      const piece = patterns.token(key);
      typesetter.set(piece, 0, Math.min(label, typesetter.width(piece)), cell >= SLANTED ? 3 : 0);
      context.restore();
    }
  }
}

/** Where to scroll so that a cell is seen: as little as it takes for a neighbour, and to the middle for what is farther. */
function seenFrom(scroll: number, at: number, size: number, room: number): number {
  if (at < scroll - size || at > scroll + room) return Math.max(0, at - (room - size) / 2);
  return Math.min(at, Math.max(scroll, at + size - room));
}
