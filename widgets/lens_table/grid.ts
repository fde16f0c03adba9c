// The grid: an ARIA grid of elements, of which only the columns in view exist, over the painting of its cells.
import { make, set, uniqueId } from "../shared/dom.ts";
import { tokenNodes, tokenText } from "../shared/tokens.ts";
import { Columns } from "./columns.ts";
import { Painting, ROW, type Paint } from "./painting.ts";
import type { Order } from "./spec.ts";
import { rowInWords, rowName, type Cells } from "./cells.ts";

/** A cell: its row in the table's arrays (not the layer's number) and its position. */
export interface Cell {
  readonly row: number;
  readonly pos: number;
}

/** A rectangle of cells, both ends included. */
export interface Region {
  readonly rows: readonly [first: number, last: number];
  readonly columns: readonly [first: number, last: number];
}

const ordered = (a: number, b: number): readonly [number, number] => [Math.min(a, b), Math.max(a, b)];
export const regionOf = (a: Cell, b: Cell): Region => ({ rows: ordered(a.row, b.row), columns: ordered(a.pos, b.pos) });

export const sameCell = (a: Cell | null, b: Cell | null): boolean => a?.row === b?.row && a?.pos === b?.pos;

export const HEAD = 26;
export const GUTTER = 36;
/** Room at the right for the outline of the last column. */
const OUTLINE = 2;
/** Columns beyond each edge: the window moves only when scrolling comes to its end. */
const SPARE = 2;
/** More characters than the widest column has room for. */
const LIMIT = 24;

/** An element that stands for some cell now and for another one after scrolling. */
interface Slot {
  readonly element: HTMLElement;
  row: number;
  pos: number;
  left: number;
  width: number;
}

interface Line {
  readonly element: HTMLElement;
  readonly number: HTMLElement;
  readonly slots: Slot[];
}

export class Grid<C extends Cells> {
  readonly element = make("div", "lk-grid");
  readonly columns = new Columns();
  readonly #painting = new Painting<C>();
  readonly #heads: Line;
  #lines: Line[] = [];
  readonly #slotOf = new WeakMap<Element, Slot>();
  readonly #id = uniqueId("cell");
  #table: C | null = null;
  /** The cells that are shown beside these. */
  #beside: C | null = null;
  #paint: Paint<C> | null = null;
  #order: Order = "last-first";
  #window: [number, number] = [0, 0];
  #stale = true;
  #active: Cell | null = null;
  #pinned: Cell | null = null;
  #lit: ReadonlySet<number> = new Set();
  #written = 0;
  readonly #region = make("div", "lk-region");

  constructor(label: string) {
    set(this.element, { role: "grid", "aria-label": label, tabindex: 0 });
    this.#heads = makeLine("lk-heads", "columnheader");
    this.#heads.number.textContent = "layer";
    this.#region.hidden = true;
    this.element.append(this.#heads.element, this.#painting.canvas, this.#region);
  }

  /** Before the first table: rows without columns, so that nothing jumps when it comes. */
  reserve(layers: number): void {
    if (!this.#table) this.element.style.minHeight = `${HEAD + layers * ROW}px`;
  }

  /** Shows cells of which the columns before `from` are those of the ones before; `beside` are the other grid's. */
  show(table: C, from: number, beside: C | null = null): void {
    this.#table = table;
    this.#beside = beside;
    if (this.#lines.length !== table.rows) this.#makeLines(table.rows);
    this.columns.fit(beside ? [table, beside] : [table], from);
    this.#numberLines();
    set(this.element, { "aria-rowcount": table.rows + 1, "aria-colcount": table.positions + 1 });
    this.#widen();
    this.forget(from);
  }

  /** How many of the last columns the model has written itself. */
  set written(count: number) {
    if (count !== this.#written) this.forget(0);
    this.#written = count;
  }

  set paint(paint: Paint<C>) {
    this.#paint = paint;
    this.forget(0);
  }

  set order(order: Order) {
    if (order === this.#order) return;
    this.#order = order;
    this.#numberLines();
    this.forget(0);
  }

  /** The font may have come, or the screen changed: measures the columns again. */
  measure(): void {
    if (this.columns.measured(this.#painting.takeFont())) this.#widen();
    this.forget(0);
  }

  #widen(): void {
    this.element.style.width = `${GUTTER + this.columns.total + OUTLINE}px`;
  }

  /** The line, from the top, on which a row of the table is drawn; and the other way round. */
  lineOf(row: number): number {
    return this.#order === "last-first" ? this.#lines.length - 1 - row : row;
  }

  #makeLines(rows: number): void {
    for (const line of this.#lines) line.element.remove();
    this.#lines = Array.from({ length: rows }, () => makeLine("lk-row", "rowheader"));
    for (const slot of this.#heads.slots.splice(0)) slot.element.remove();
    this.element.append(...this.#lines.map((line) => line.element));
  }

  #numberLines(): void {
    const table = this.#table;
    if (!table) return;
    this.#heads.element.setAttribute("aria-rowindex", "1");
    this.#lines.forEach((line, at) => {
      const row = this.lineOf(at);
      // Every third number is enough to count by, from the last layer down.
      const shown = (table.rows - 1 - row) % 3 === 0 || table.rows < 8;
      line.number.textContent = rowName(table, row);
      line.number.classList.toggle("lk-quiet", !shown);
      line.number.setAttribute("aria-label", rowInWords(table, row));
      line.element.setAttribute("aria-rowindex", String(at + 2));
    });
    this.#markLines();
  }

  /** Makes the columns from `from` on be drawn again. */
  forget(from: number): void {
    this.#stale = true;
    for (const line of [this.#heads, ...this.#lines]) {
      for (const slot of line.slots) if (slot.pos >= from) slot.row = -1;
    }
  }

  /** Draws what a stretch of the sheet shows, where it is not there already. */
  draw(from: number, to: number): void {
    const [table, paint] = [this.#table, this.#paint];
    if (!table || !paint) return;
    const [first, end] = this.columns.within(from, to);
    const inside = first >= this.#window[0] && end <= this.#window[1];
    if (inside && !this.#stale) return;
    const window: [number, number] = [Math.max(0, first - SPARE), Math.min(table.positions, end + SPARE)];
    this.#painting.canvas.style.left = `${GUTTER + this.columns.left(window[0])}px`;
    this.#painting.draw(table, paint, this.columns, window, (line) => this.lineOf(line));
    this.#lines.forEach((line, at) => {
      this.#shift(line, window, "gridcell");
      const row = this.lineOf(at);
      line.slots.forEach((slot, i) => this.#fill(slot, row, window[0] + i, table, paint));
    });
    this.#shift(this.#heads, window, "columnheader");
    this.#heads.slots.forEach((slot, i) => this.#fillHead(slot, window[0] + i, table));
    [this.#window, this.#stale] = [window, false];
  }

  /** Gives a line as many slots as the window has columns; those that stay in view keep their column and order. */
  #shift(line: Line, [first, end]: [number, number], role: string): void {
    const { slots, element } = line;
    const moved = first - this.#window[0];
    if (moved > 0 && moved < slots.length) {
      const leaving = slots.splice(0, moved);
      element.append(...leaving.map((slot) => slot.element));
      slots.push(...leaving);
    } else if (moved < 0 && -moved < slots.length) {
      const leaving = slots.splice(moved);
      line.number.after(...leaving.map((slot) => slot.element));
      slots.unshift(...leaving);
    }
    while (slots.length > end - first) (slots.pop() as Slot).element.remove();
    while (slots.length < end - first) {
      const slot = makeSlot(role);
      this.#slotOf.set(slot.element, slot);
      slots.push(slot);
      element.append(slot.element);
    }
  }

  #place(slot: Slot, pos: number): void {
    const [left, width] = [this.columns.left(pos) + GUTTER, this.columns.width(pos) - 1];
    if (slot.left !== left) slot.element.style.left = `${(slot.left = left)}px`;
    if (slot.width !== width) slot.element.style.width = `${(slot.width = width)}px`;
    if (slot.pos !== pos) slot.element.setAttribute("aria-colindex", String(pos + 2));
    slot.pos = pos;
  }

  #fill(slot: Slot, row: number, pos: number, table: C, { statistic }: Paint<C>): void {
    if (slot.row === row && slot.pos === pos) return;
    this.#place(slot, pos);
    slot.row = row;
    const token = tokenText(table.piece(table.topId(pos, row)));
    const said = `${statistic.label} ${statistic.show(statistic.value(table, pos, row))}`;
    slot.element.setAttribute("aria-label", `${rowInWords(table, row)}, position ${pos}: ${token}, ${said}`);
    this.#mark(slot);
  }

  #fillHead(slot: Slot, pos: number, table: C): void {
    if (slot.row === 0 && slot.pos === pos) return;
    this.#place(slot, pos);
    slot.row = 0;
    const pieces = table.tokenIds(pos).map((id) => table.piece(id));
    const nodes = pieces.flatMap((piece, i) => [...(i ? ["→"] : []), ...tokenNodes(piece, LIMIT)]);
    slot.element.replaceChildren(...nodes);
    slot.element.title = pieces.map(tokenText).join(" → ");
    const other = this.#beside?.tokenIds(pos)[0];
    slot.element.classList.toggle("lk-differs", pieces.length > 1 || (other !== undefined && other !== table.tokenIds(pos)[0]));
    slot.element.classList.toggle("lk-chosen", this.#active?.pos === pos);
    slot.element.classList.toggle("lk-written", pos >= table.positions - this.#written);
  }

  #mark(slot: Slot): void {
    const pinned = sameCell(slot, this.#pinned);
    const active = sameCell(slot, this.#active);
    const lit = this.#lit.has(slot.pos * this.#lines.length + slot.row);
    const name = `lk-cell${pinned ? " lk-pinned" : ""}${active ? " lk-active" : ""}${lit ? " lk-lit" : ""}`;
    const { element } = slot;
    if (element.className === name && (element.id !== "") === active) return;
    element.className = name;
    element.setAttribute("aria-selected", String(pinned));
    if (active) element.id = this.#id;
    else element.removeAttribute("id");
  }

  #markLines(): void {
    const chosen = this.#active ? this.lineOf(this.#active.row) : -9;
    this.#lines.forEach(({ number }, at) => {
      number.classList.toggle("lk-chosen", at === chosen);
      // The numbers above and below make way for the chosen one.
      number.classList.toggle("lk-beside", Math.abs(at - chosen) === 1 && this.#lines.length >= 8);
    });
  }

  /** Lights some cells, until others are lit. */
  light(cells: readonly Cell[]): void {
    this.#lit = new Set(cells.map(({ pos, row }) => pos * this.#lines.length + row));
    for (const { slots } of this.#lines) for (const slot of slots) this.#mark(slot);
  }

  #frame(region: Region | null): void {
    this.#region.hidden = !region;
    if (!region) return;
    const { rows, columns } = region;
    const lines = rows.map((row) => this.lineOf(row));
    const [left, top] = [this.columns.left(columns[0]), Math.min(...lines)];
    const { style } = this.#region;
    style.left = `${GUTTER + left}px`;
    style.top = `${HEAD + top * ROW}px`;
    style.width = `${this.columns.left(columns[1] + 1) - left - 1}px`;
    style.height = `${(rows[1] - rows[0] + 1) * ROW - 1}px`;
  }

  /** Marks the cell under the cursor, the pinned one and the region that it is a corner of. */
  mark(active: Cell | null, pinned: Cell | null, region: Region | null): void {
    this.#frame(region);
    const before = [this.#active, this.#pinned];
    [this.#active, this.#pinned] = [active, pinned];
    for (const cell of [...before, active, pinned]) {
      const slot = cell && this.#slot(cell);
      if (slot) this.#mark(slot);
    }
    for (const slot of this.#heads.slots) slot.element.classList.toggle("lk-chosen", slot.pos === active?.pos);
    this.#markLines();
    if (active && this.#slot(active)) this.element.setAttribute("aria-activedescendant", this.#id);
    else this.element.removeAttribute("aria-activedescendant");
  }

  #slot(cell: Cell): Slot | undefined {
    return this.#lines[this.lineOf(cell.row)]?.slots[cell.pos - this.#window[0]];
  }

  /** The colours of a cell whose token is cut off, or null where it is shown whole. */
  cutCell({ row, pos }: Cell): { fill: string; ink: string } | null {
    const [table, paint] = [this.#table, this.#paint];
    if (!table || !paint || this.#painting.fits(table, paint, row, pos, this.columns.width(pos) - 1)) return null;
    return this.#painting.coloursOf(table, paint, row, pos);
  }

  /** The cell that an event happened on; a column's head and a layer's number stand for their column and row. */
  cellAt(target: EventTarget | null): { row: number | null; pos: number | null } | null {
    if (!(target instanceof Element)) return null;
    const slot = this.#slotOf.get(target.closest(".lk-cell, .lk-head") ?? target);
    if (slot) return { row: slot.element.classList.contains("lk-head") ? null : slot.row, pos: slot.pos };
    const number = target.closest(".lk-layer");
    const at = this.#lines.findIndex((line) => line.number === number);
    return at < 0 ? null : { row: this.lineOf(at), pos: null };
  }
}

function makeLine(className: string, role: "rowheader" | "columnheader"): Line {
  const number = make("div", "lk-layer");
  set(number, { role, "aria-colindex": 1 });
  const element = make("div", className, number);
  element.setAttribute("role", "row");
  return { element, number, slots: [] };
}

function makeSlot(role: string): Slot {
  const element = make("div", role === "gridcell" ? "lk-cell" : "lk-head");
  set(element, role === "gridcell" ? { role, "aria-selected": "false" } : { role, dir: "auto" });
  return { element, row: -1, pos: -1, left: -1, width: -1 };
}
