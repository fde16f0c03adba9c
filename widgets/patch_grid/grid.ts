// The grid: an ARIA grid of elements, of which only the columns in view exist, over the painting of its cells.
import { make, set, uniqueId } from "../shared/dom.ts";
import { tokenText, tokenWidth } from "../shared/tokens.ts";
import { Tracks } from "../shared/tracks.ts";
import { effectInWords } from "./words.ts";
import { Painting, ROW, type Paint } from "./painting.ts";
import { Pair } from "./pair.ts";
import { sameCell, type Cell, type Region } from "./region.ts";
import type { Sweep } from "./sweep.ts";

export const GUTTER = 52;
/** The two prompts' height as heads of the columns, and that of the heads' numbers. */
export const PAIR = 62;
export const HEADS = 26;
/** Room at the right for the outline of the last column. */
export const OUTLINE = 3;
/** Columns beyond each edge: the window moves only when scrolling comes near its end. */
const SPARE = 5;

const [NARROWEST, WIDEST, PADDING, HEAD_COLUMN] = [52, 96, 15, 50];
/** The width of one monospaced character at 12 px. */
const ADVANCE = 7.23;

/** As wide as the longer of the two tokens, within bounds. */
export function tracksOf(sweep: Sweep, over: "pos" | "head" = sweep.over): Tracks {
  if (over === "head") return new Tracks(new Array<number>(sweep.columns).fill(HEAD_COLUMN));
  const wide = (id: number | undefined): number => tokenWidth(sweep.piece(id ?? null));
  const widths = Array.from(sweep.clean, (id, pos) => Math.ceil(Math.max(wide(id), wide(sweep.corrupt[pos])) * ADVANCE + PADDING));
  return new Tracks(widths.map((width) => Math.min(WIDEST, Math.max(NARROWEST, width))));
}

interface Line {
  readonly element: HTMLElement;
  readonly number: HTMLElement;
}

export class Grid {
  readonly element = make("div", "lk-pg-grid");
  tracks = new Tracks();
  readonly #painting = new Painting();
  readonly #top = make("div", "lk-pg-top");
  readonly #pair = new Pair(true);
  readonly #heads = make("div", "lk-pg-line lk-pg-heads");
  readonly #corner = make("div", "lk-pg-gutter", "layer");
  readonly #region = make("div", "lk-pg-region");
  readonly #cells = new WeakMap<Element, Cell>();
  readonly #id = uniqueId("cell");
  #lines: Line[] = [];
  /** The elements in the window, by row and then by column. */
  #shown: HTMLElement[][] = [];
  #sweep: Sweep | null = null;
  #paint: Paint | null = null;
  #window: [number, number] = [0, 0];
  #stale = true;
  #active: Cell | null = null;
  #chosen: Region | null = null;

  constructor(label: string) {
    set(this.element, { role: "grid", "aria-label": label, "aria-multiselectable": "true", tabindex: 0 });
    set(this.#heads, { role: "row", "aria-rowindex": 1 });
    set(this.#corner, { role: "columnheader", "aria-colindex": 1 });
    this.#region.setAttribute("aria-hidden", "true");
    this.#region.hidden = true;
    this.element.append(this.#top, this.#painting.canvas, this.#region);
  }

  get topHeight(): number {
    return this.#sweep?.over === "head" ? HEADS : PAIR;
  }

  /** Before the first sweep: room, so that nothing jumps when it comes. */
  reserve(layers: number): void {
    if (!this.#sweep) this.element.style.minHeight = `${PAIR + layers * ROW}px`;
  }

  show(sweep: Sweep): void {
    const first = this.#sweep === null;
    if (first || sweep.over !== this.#sweep?.over) {
      this.#top.replaceChildren(sweep.over === "pos" ? this.#pair.element : this.#heads);
    }
    this.#sweep = sweep;
    this.tracks = tracksOf(sweep);
    if (this.#lines.length !== sweep.rows) this.#makeLines(sweep.rows);
    this.#numberLines(sweep);
    set(this.element, { "aria-rowcount": sweep.rows + (sweep.over === "pos" ? 2 : 1), "aria-colcount": sweep.columns + 1 });
    this.element.style.minHeight = "";
    this.element.style.width = `${GUTTER + this.tracks.total + OUTLINE}px`;
    this.#painting.canvas.style.top = `${this.topHeight}px`;
    this.#stale = true;
  }

  set paint(paint: Paint) {
    this.#paint = paint;
    this.repaint();
  }

  /** Other values in the same cells. */
  repaint(): void {
    if (this.#stale || !this.#sweep || !this.#paint) return;
    this.#painting.draw(this.#sweep, this.#paint, this.tracks, this.#window);
    this.#nameCells();
  }

  #makeLines(rows: number): void {
    for (const line of this.#lines) line.element.remove();
    this.#lines = Array.from({ length: rows }, () => {
      const number = make("div", "lk-pg-gutter");
      set(number, { role: "rowheader", "aria-colindex": 1 });
      const element = make("div", "lk-pg-row", number);
      element.setAttribute("role", "row");
      return { element, number };
    });
    // From the top down: the last layer first.
    this.element.append(...this.#lines.map((line) => line.element).reverse());
  }

  #numberLines(sweep: Sweep): void {
    const above = sweep.over === "pos" ? 2 : 1;
    this.#lines.forEach(({ element, number }, row) => {
      const layer = sweep.header.layers[row] as number;
      // Every third number is enough to count by, from the last layer down.
      number.classList.toggle("lk-pg-quiet", (sweep.rows - 1 - row) % 3 !== 0 && sweep.rows >= 8);
      number.textContent = String(layer);
      number.setAttribute("aria-label", `layer ${layer}`);
      element.setAttribute("aria-rowindex", String(sweep.rows - row + above));
    });
  }

  /** Makes everything be drawn again: another font, another screen. */
  forget(): void {
    this.#stale = true;
  }

  /** Draws what a stretch of the sheet shows, where it is not there already. */
  draw(from: number, to: number): void {
    const [sweep, paint] = [this.#sweep, this.#paint];
    if (!sweep || !paint) return;
    const [first, end] = this.tracks.within(from, to);
    if (this.#stale || first < this.#window[0] || end > this.#window[1]) this.#drawColumns(sweep, paint, first, end);
    if (sweep.over === "pos") this.#pair.cover(this.tracks, from);
  }

  #drawColumns(sweep: Sweep, paint: Paint, first: number, end: number): void {
    const window: [number, number] = [Math.max(0, first - SPARE), Math.min(sweep.columns, end + SPARE)];
    [this.#window, this.#stale] = [window, false];
    this.#painting.canvas.style.left = `${GUTTER + this.tracks.left(window[0])}px`;
    this.#painting.draw(sweep, paint, this.tracks, window);
    if (sweep.over === "pos") this.#pair.draw(sweep, this.tracks, window, GUTTER);
    else this.#drawHeads(window);
    this.#shown = this.#lines.map((line, row) => {
      const cells: HTMLElement[] = [];
      for (let column = window[0]; column < window[1]; column++) cells.push(this.#cell({ row, column }));
      line.element.replaceChildren(line.number, ...cells);
      return cells;
    });
    this.#nameCells();
    this.mark(this.#active, this.#chosen);
  }

  #drawHeads([first, end]: readonly [number, number]): void {
    const heads: HTMLElement[] = [this.#corner];
    this.#corner.textContent = "head";
    for (let column = first; column < end; column++) {
      const head = make("div", "lk-pg-token lk-pg-head", String(column));
      set(head, { role: "columnheader", "aria-colindex": column + 2, "aria-label": `head ${column}` });
      this.#place(head, column);
      heads.push(head);
    }
    this.#heads.replaceChildren(...heads);
  }

  #place(element: HTMLElement, column: number): void {
    element.style.left = `${GUTTER + this.tracks.left(column)}px`;
    element.style.width = `${this.tracks.width(column) - 1}px`;
  }

  #cell(cell: Cell): HTMLElement {
    const element = make("div", "lk-pg-cell");
    set(element, { role: "gridcell", "aria-colindex": cell.column + 2 });
    this.#place(element, cell.column);
    this.#cells.set(element, cell);
    return element;
  }

  #nameCells(): void {
    const sweep = this.#sweep as Sweep;
    this.#shown.forEach((cells, row) => {
      const layer = sweep.header.layers[row] as number;
      cells.forEach((element, i) => {
        const column = this.#window[0] + i;
        const where = sweep.over === "head" ? `head ${column}` : `position ${column} ${tokenText(sweep.piece(sweep.clean[column] as number))}`;
        const name = `layer ${layer}, ${where}: ${effectInWords(sweep, row, column)}`;
        if (element.ariaLabel !== name) element.setAttribute("aria-label", name);
      });
    });
  }

  /** Marks the cell that is looked at, and the chosen region. */
  mark(active: Cell | null, chosen: Region | null): void {
    [this.#active, this.#chosen] = [active, chosen];
    let pointed = false;
    this.#shown.forEach((cells, row) => {
      const within = chosen !== null && row >= chosen.rows[0] && row <= chosen.rows[1];
      cells.forEach((element, i) => {
        const column = this.#window[0] + i;
        const here = sameCell(active, { row, column });
        pointed ||= here;
        const selected = within && column >= chosen.columns[0] && column <= chosen.columns[1];
        element.classList.toggle("lk-pg-active", here);
        if (here) element.id = this.#id;
        else if (element.id) element.removeAttribute("id");
        if (element.ariaSelected !== String(selected)) element.setAttribute("aria-selected", String(selected));
      });
    });
    if (pointed) this.element.setAttribute("aria-activedescendant", this.#id);
    else this.element.removeAttribute("aria-activedescendant");
    this.#lines.forEach(({ number }, row) => {
      number.classList.toggle("lk-pg-at", row === active?.row);
      // The numbers above and below make way for the one that is looked at.
      number.classList.toggle("lk-pg-beside", Math.abs(row - (active?.row ?? -9)) === 1 && this.#lines.length >= 8);
    });
    this.#pair.mark(active?.column ?? null);
    this.#outline(chosen);
  }

  #outline(region: Region | null): void {
    this.#region.hidden = region === null || this.#sweep === null || region.columns[1] >= this.tracks.count;
    if (this.#region.hidden || !region) return;
    const { style } = this.#region;
    const [left, right] = [this.tracks.left(region.columns[0]), this.tracks.left(region.columns[1] + 1)];
    style.left = `${GUTTER + left}px`;
    style.width = `${right - left - 1}px`;
    style.top = `${this.topHeight + (this.#lines.length - 1 - region.rows[1]) * ROW}px`;
    style.height = `${(region.rows[1] - region.rows[0] + 1) * ROW - 1}px`;
  }

  cellAt(target: EventTarget | null): Cell | null {
    return target instanceof Element ? (this.#cells.get(target) ?? null) : null;
  }
}
