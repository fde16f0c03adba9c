// Every head small: painted on a canvas as large as what is seen of them, so that a thousand heads cost no more than ten.
import { make, set, uniqueId } from "../shared/dom.ts";
import { prepare, type Ink } from "./ink.ts";
import { orderOf, placeOf, type Order } from "./order.ts";
import type { Patterns } from "./patterns.ts";
import { nameOf, sameHead, type Head, type Pick } from "./spec.ts";

const GUTTER = 30;
const HEAD = 20;
const GAP = 6;
/** Between tiles with captions. */
const WIDE_GAP = 14;
const CAPTION = 17;
const SMALLEST = 26;
const LARGEST = 64;
/** Sorted tiles carry their name and score. */
const CAPTIONED = 54;
/** Taller pictures scroll inside themselves; where the large one stands below, it should be seen without scrolling. */
const TALLEST = { beside: 740, above: 420 };
const MARGIN = 3;

export interface TilesEvents {
  hovered(head: Head | null): void;
  clicked(head: Head): void;
  pressed(event: KeyboardEvent): void;
}

export interface TilesLook {
  readonly mode: string;
  readonly pick: Pick;
  readonly chosen: Head;
  readonly ablated: readonly Head[];
}

export class Tiles {
  readonly scroller = make("div", "lk-a-scroller lk-a-tiles");
  readonly grid = make("div", "lk-a-grid");
  readonly #canvas = make("canvas", "lk-a-canvas");
  readonly #active = make("div", "lk-a-active");
  readonly #row: HTMLElement;
  #patterns: Patterns | null = null;
  #look: TilesLook | null = null;
  #ink: Ink | null = null;
  #order: Order = { rows: [], sorted: false };
  #tile = LARGEST;
  #room = 600;
  #tallest = TALLEST.beside;
  #hovered: Head | null = null;
  readonly #bitmaps = new Map<string, HTMLCanvasElement>();

  constructor(label: string, events: TilesEvents, signal: AbortSignal) {
    set(this.grid, { role: "grid", "aria-label": label, tabindex: 0 });
    set(this.#active, { role: "gridcell", id: uniqueId("head"), "aria-selected": "true" });
    this.#canvas.setAttribute("aria-hidden", "true");
    this.#row = make("div", "lk-a-row", this.#active);
    this.#row.setAttribute("role", "row");
    this.grid.append(this.#canvas, this.#row);
    this.scroller.append(this.grid);
    this.scroller.addEventListener("scroll", () => this.paint(), { signal, passive: true });
    const hover = (head: Head | null): void => {
      if (sameHead(head, this.#hovered)) return;
      this.#hovered = head;
      this.grid.classList.toggle("lk-a-pointing", head !== null);
      this.paint();
      events.hovered(head);
    };
    this.grid.addEventListener("pointermove", (event) => event.pointerType !== "touch" && hover(this.#headAt(event)), { signal });
    this.grid.addEventListener("pointerleave", () => hover(null), { signal });
    const clicked = (event: MouseEvent): void => {
      const head = this.#headAt(event);
      if (head) events.clicked(head);
    };
    this.grid.addEventListener("click", clicked, { signal });
    this.grid.addEventListener("keydown", events.pressed, { signal });
    this.grid.addEventListener("focus", () => this.paint(), { signal });
    this.grid.addEventListener("blur", () => this.paint(), { signal });
  }

  get order(): Order {
    return this.#order;
  }

  /** How wide the tiles of so many heads get in this room; the room they then take. */
  fit(room: number, heads: number, beside: boolean): number {
    this.#room = room;
    this.#tallest = beside ? TALLEST.beside : TALLEST.above;
    this.#tile = Math.min(LARGEST, Math.max(SMALLEST, Math.floor((room - GUTTER - 2 * MARGIN) / Math.max(1, heads)) - GAP));
    return Math.min(room, GUTTER + heads * (this.#tile + GAP) + 2 * MARGIN);
  }

  get #step(): { x: number; y: number; left: number; top: number; size: number } {
    const size = this.#order.sorted ? Math.max(this.#tile, CAPTIONED) : this.#tile;
    const left = MARGIN + (this.#order.sorted ? 0 : GUTTER);
    const top = MARGIN + (this.#order.sorted ? 0 : HEAD);
    const gap = this.#order.sorted ? WIDE_GAP : GAP;
    return { size, left, top, x: size + gap, y: size + GAP + (this.#order.sorted ? CAPTION : 0) };
  }

  show(patterns: Patterns, look: TilesLook, ink: Ink): void {
    const before = this.#look;
    if (patterns.number !== this.#patterns?.number || before?.mode !== look.mode || this.#ink !== ink) this.#bitmaps.clear();
    [this.#patterns, this.#look, this.#ink] = [patterns, look, ink];
    const wide = GUTTER + patterns.columns * (this.#tile + GAP);
    const columns = Math.max(1, Math.floor((Math.min(this.#room, Math.max(wide, 280)) - MARGIN + WIDE_GAP) / (Math.max(this.#tile, CAPTIONED) + WIDE_GAP)));
    this.#order = orderOf(patterns, look.pick, columns);
    const { left, top, x, y } = this.#step;
    const most = Math.max(...this.#order.rows.map((row) => row.length));
    const height = top + this.#order.rows.length * y;
    set(this.grid, { "aria-rowcount": this.#order.rows.length, "aria-colcount": most });
    this.grid.style.width = `${left + most * x}px`;
    this.grid.style.height = `${height}px`;
    // Whole rows.
    this.scroller.style.maxHeight = `${top + Math.floor((this.#tallest - top) / y) * y}px`;
    this.#name();
    this.paint();
  }

  /** The chosen head as an element, for who reads with their ears. */
  #name(): void {
    const [patterns, look] = [this.#patterns as Patterns, this.#look as TilesLook];
    const place = placeOf(this.#order, look.chosen);
    this.#row.hidden = place === null;
    if (!place) return this.grid.removeAttribute("aria-activedescendant");
    this.grid.setAttribute("aria-activedescendant", this.#active.id);
    this.#row.setAttribute("aria-rowindex", String(place.row + 1));
    this.#active.setAttribute("aria-colindex", String(place.column + 1));
    const score = patterns.score(look.pick, look.chosen);
    const ablated = look.ablated.some((head) => sameHead(head, look.chosen)) ? ", ablated" : "";
    const said = score === undefined ? "" : `, ${look.pick} ${score.toFixed(2)}`;
    this.#active.setAttribute("aria-label", `head ${nameOf(look.chosen)}${said}${ablated}`);
    const { left, top, x, y, size } = this.#step;
    const { style } = this.#active;
    style.left = `${left + place.column * x}px`;
    style.top = `${top + place.row * y}px`;
    style.width = style.height = `${size}px`;
  }

  /** Where a head's tile is, in the page's pixels within the grid. */
  boxOf(head: Head): { left: number; top: number; size: number } | null {
    const place = placeOf(this.#order, head);
    const { left, top, x, y, size } = this.#step;
    return place && { left: left + place.column * x, top: top + place.row * y, size };
  }

  #headAt(event: MouseEvent): Head | null {
    const box = this.grid.getBoundingClientRect();
    const { left, top, x, y, size } = this.#step;
    const [dx, dy] = [event.clientX - box.left - left, event.clientY - box.top - top];
    const under = event.clientY - this.scroller.getBoundingClientRect().top;
    if (dx < 0 || dy < 0 || dx % x > size || dy % y > size + (y - size - GAP) || under < top - MARGIN) return null;
    return this.#order.rows[Math.floor(dy / y)]?.[Math.floor(dx / x)] ?? null;
  }

  /** Scrolls so that a head is seen. */
  reveal(head: Head): void {
    const box = this.boxOf(head);
    if (!box) return;
    const { scroller } = this;
    const { left, top, size, y } = this.#step;
    const [above, room] = [box.top - top, scroller.clientHeight - top];
    // One row on, one row is scrolled; farther off, what is chosen comes to the middle.
    if (above < scroller.scrollTop - y || above > scroller.scrollTop + room) {
      scroller.scrollTop = Math.max(0, Math.round((above + y / 2 - room / 2) / y) * y);
    } else if (above < scroller.scrollTop) scroller.scrollTop = above;
    else if (above + y > scroller.scrollTop + room) scroller.scrollTop = above + y - room;
    if (box.left - left < scroller.scrollLeft) scroller.scrollLeft = box.left - left;
    else if (box.left + size + MARGIN > scroller.scrollLeft + scroller.clientWidth) {
      scroller.scrollLeft = box.left + size + MARGIN - scroller.clientWidth;
    }
    this.paint();
  }

  paint(): void {
    const [patterns, look, ink] = [this.#patterns, this.#look, this.#ink];
    if (!patterns || !look || !ink) return;
    const { scroller } = this;
    const [width, height] = [scroller.clientWidth || this.#room, scroller.clientHeight || this.#tallest];
    const context = prepare(this.#canvas, width, height);
    if (!context) return;
    const { left, top, x, y, size } = this.#step;
    const [dx, dy] = [scroller.scrollLeft, scroller.scrollTop];
    const first = Math.max(0, Math.floor((dy - top) / y));
    const end = Math.min(this.#order.rows.length, Math.ceil((dy + height - top) / y));
    for (let row = first; row < end; row++) {
      this.#order.rows[row]?.forEach((head, column) => {
        const at = { x: left + column * x - dx, y: top + row * y - dy };
        if (!head || at.x + size < 0 || at.x > width) return;
        this.#paintTile(context, head, at.x, at.y, size, patterns, look, ink);
      });
    }
    if (!this.#order.sorted) this.#paintNumbers(context, width, height, first, end, patterns, look, ink);
  }

  #paintTile(context: CanvasRenderingContext2D, head: Head, x: number, y: number, size: number, patterns: Patterns, look: TilesLook, ink: Ink): void {
    const ablated = look.ablated.some((other) => sameHead(other, head));
    const bitmap = this.#bitmap(patterns, look.mode, head, ink);
    context.fillStyle = ink.page;
    context.fillRect(x, y, size, size);
    if (bitmap) {
      context.imageSmoothingEnabled = bitmap.width > size * (globalThis.devicePixelRatio || 1);
      context.globalAlpha = ablated ? 0.35 : 1;
      context.drawImage(bitmap, x, y, size, size);
      context.globalAlpha = 1;
    }
    context.lineWidth = 1;
    context.strokeStyle = ink.line;
    context.strokeRect(x - 0.5, y - 0.5, size + 1, size + 1);
    if (ablated) {
      context.lineWidth = 1.5;
      context.strokeStyle = ink.opposite;
      context.strokeRect(x - 0.5, y - 0.5, size + 1, size + 1);
      context.beginPath();
      context.moveTo(x + size - 1, y + 1);
      context.lineTo(x + 1, y + size - 1);
      context.stroke();
    }
    const chosen = sameHead(head, look.chosen);
    if (chosen || sameHead(head, this.#hovered)) {
      const focused = chosen && this.grid.matches(":focus-visible");
      context.lineWidth = chosen ? 2 : 1.5;
      context.strokeStyle = focused ? ink.accent : chosen ? ink.ink : ink.third;
      context.beginPath();
      context.roundRect(x - 2, y - 2, size + 4, size + 4, 3);
      context.stroke();
    }
    if (!this.#order.sorted) return;
    context.font = `11px ${ink.sans}`;
    context.textBaseline = "alphabetic";
    context.fillStyle = chosen ? ink.accent : ink.second;
    context.textAlign = "left";
    context.fillText(nameOf(head), x, y + size + 13);
    context.textAlign = "right";
    context.fillStyle = ink.third;
    context.fillText(share(patterns.score(look.pick, head) ?? 0), x + size, y + size + 13);
  }

  #paintNumbers(context: CanvasRenderingContext2D, width: number, height: number, first: number, end: number, patterns: Patterns, look: TilesLook, ink: Ink): void {
    const { left, top, x, y, size } = this.#step;
    const { scrollLeft: dx, scrollTop: dy } = this.scroller;
    context.fillStyle = ink.page;
    context.fillRect(0, 0, width, top - 3);
    context.fillRect(0, 0, left - 3, height);
    context.font = `11px ${ink.sans}`;
    context.textBaseline = "middle";
    context.textAlign = "center";
    for (let head = 0; head < patterns.columns; head++) {
      const at = left + head * x + size / 2 - dx;
      context.fillStyle = head === look.chosen[1] ? ink.accent : ink.third;
      if (at > left - 4) context.fillText(String(head), at, top / 2 - 1);
    }
    context.textAlign = "right";
    for (let row = first; row < end; row++) {
      const layer = this.#order.rows[row]?.[0]?.[0];
      const at = top + row * y + size / 2 - dy;
      context.fillStyle = layer === look.chosen[0] ? ink.accent : ink.third;
      if (layer !== undefined && at > top - 4) context.fillText(String(layer), left - 8, at);
    }
  }

  #bitmap(patterns: Patterns, mode: string, head: Head, ink: Ink): HTMLCanvasElement | null {
    const name = nameOf(head);
    const known = this.#bitmaps.get(name);
    if (known) return known;
    const [tile, { side }] = [patterns.tile(mode, head), patterns];
    if (!tile) return null;
    const bitmap = make("canvas");
    bitmap.width = bitmap.height = side;
    const context = bitmap.getContext("2d");
    if (!context) return null;
    const image = context.createImageData(side, side);
    for (let i = 0; i < tile.length; i++) {
      const at = 4 * (tile[i] as number);
      for (let k = 0; k < 4; k++) image.data[4 * i + k] = ink.palette[at + k] as number;
    }
    context.putImageData(image, 0, 0);
    this.#bitmaps.set(name, bitmap);
    return bitmap;
  }
}

/** A share as `.90`, `1.00` and `.00`. */
export function share(value: number): string {
  return value.toFixed(2).replace(/^0/, "");
}
