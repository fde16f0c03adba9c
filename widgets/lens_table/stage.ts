// The picture: the grid and its profile in one scroller, the hovered token in full, the legend below.
import { make, set } from "../shared/dom.ts";
import { tokenNodes } from "../shared/tokens.ts";
import { GUTTER, Grid, HEAD, sameCell, type Cell } from "./grid.ts";
import { ROW } from "./painting.ts";
import { Profile } from "./profile.ts";
import type { Cells } from "./cells.ts";

/** Taller pictures scroll inside themselves. */
const TALLEST = 40;

export interface StageEvents {
  hovered(cell: Cell | null): void;
  /** A click; a head or a layer's number leaves the other coordinate open. */
  clicked(at: { row: number | null; pos: number | null }): void;
  /** A region is drawn, from one cell to another. */
  dragged(from: Cell, to: Cell): void;
  pressed(event: KeyboardEvent): void;
  left(): void;
}

interface ScrollEvents {
  /** A person scrolled it. */
  scrolled(left: number, top: number): void;
}

export class Stage<C extends Cells> {
  readonly element = make("div", "lk-stage");
  readonly #name = make("div", "lk-side-name");
  readonly scroller = make("div", "lk-scroller");
  readonly grid: Grid<C>;
  readonly profile = new Profile();
  readonly #peek = make("div", "lk-peek");
  #table: C | null = null;
  /** The scroller's width when it was last laid out. */
  #width = 0;
  /** Where the scroller stands; asking it would force a layout in the middle of a change. */
  #scroll = 0;
  #stick = false;
  #hovered: Cell | null = null;
  /** Where it was last put from here: an event about that is no news, and must not undo what a person does meanwhile. */
  #put: readonly [left: number, top: number] = [0, 0];

  constructor(
    private readonly label: string,
    events: StageEvents & ScrollEvents,
    signal: AbortSignal,
  ) {
    this.grid = new Grid<C>(label);
    this.#name.hidden = true;
    this.element.append(this.#name, this.scroller);
    set(this.#peek, { "aria-hidden": "true", dir: "auto" });
    this.#peek.hidden = true;
    this.scroller.append(make("div", "lk-sheet", this.grid.element, this.profile.element));
    this.grid.element.append(this.#peek);
    const grid = this.grid.element;
    this.scroller.addEventListener(
      "scroll",
      () => {
        this.#scrolled();
        const [left, top] = this.#put;
        this.#noted();
        if (this.#put[0] !== left || this.#put[1] !== top) events.scrolled(...this.#put);
      },
      { signal, passive: true },
    );
    const sizes = new ResizeObserver(() => this.#settle());
    sizes.observe(grid);
    sizes.observe(this.scroller);
    signal.addEventListener("abort", () => sizes.disconnect());
    grid.addEventListener(
      "pointerover",
      (event) => {
        const at = this.grid.cellAt(event.target);
        const cell = at?.row != null && at.pos != null ? { row: at.row, pos: at.pos } : null;
        if (event.pointerType === "touch" || sameCell(cell, this.#hovered)) return;
        this.#hovered = cell;
        if (event.buttons & 1 && from && cell) events.dragged(from, cell);
        else events.hovered(cell);
      },
      { signal },
    );
    // A drag with the mouse or a pen; a finger scrolls.
    let from: Cell | null = null;
    grid.addEventListener("pointerdown", () => (from = this.#hovered), { signal });
    grid.addEventListener(
      "pointerleave",
      () => {
        this.#hovered = null;
        events.hovered(null);
      },
      { signal },
    );
    grid.addEventListener(
      "click",
      (event) => {
        const at = this.grid.cellAt(event.target);
        if (at) events.clicked(at);
      },
      { signal },
    );
    grid.addEventListener("keydown", events.pressed, { signal });
    grid.addEventListener("blur", events.left, { signal });
  }

  /** What this side is called; nothing where it stands alone. */
  set name(name: string) {
    this.#name.hidden = name === "";
    this.#name.textContent = name;
    this.grid.element.setAttribute("aria-label", name ? `${name}: ${this.label}` : this.label);
  }

  /** Goes along with another grid. */
  follow(left: number, top: number): void {
    const { scroller } = this;
    [scroller.scrollLeft, scroller.scrollTop] = [left, top];
    this.#noted();
  }

  #noted(): void {
    this.#put = [this.scroller.scrollLeft, this.scroller.scrollTop];
  }

  show(table: C, from: number, beside: C | null = null): void {
    const { scroller } = this;
    // Typing happens at the end: who looks at it goes on looking at it, once the new columns have been laid out.
    this.#stick = this.#table === null || scroller.scrollLeft + scroller.clientWidth >= scroller.scrollWidth - 4;
    this.#table = table;
    scroller.classList.toggle("lk-tall", table.rows > TALLEST);
    scroller.style.maxHeight = table.rows > TALLEST ? `${HEAD + TALLEST * ROW}px` : "";
    this.grid.show(table, from, beside);
    this.draw();
  }

  /** The sheet has another width, and is laid out. */
  #settle(): void {
    if (this.#stick && this.scroller.scrollWidth > this.scroller.clientWidth) this.scroller.scrollLeft = this.scroller.scrollWidth;
    if (this.#stick) this.#noted();
    this.#stick = false;
    this.#width = this.scroller.clientWidth;
    this.#scrolled();
  }

  #scrolled(): void {
    this.#scroll = this.scroller.scrollLeft;
    this.draw();
  }

  /** Draws the columns in view. */
  draw(): void {
    this.grid.draw(this.#scroll, this.#scroll + Math.max(this.#width, 320));
  }

  /** The widget was attached or has another width. */
  resized(): void {
    this.grid.measure();
    this.draw();
  }

  /** The width in which columns are seen whole. */
  #room(): number {
    return this.scroller.clientWidth - GUTTER - this.profile.element.offsetWidth;
  }

  /** Scrolls so that a cell is seen. */
  reveal({ row, pos }: Cell): void {
    const { scroller, grid } = this;
    const [left, right] = [grid.columns.left(pos), grid.columns.left(pos) + grid.columns.width(pos)];
    const room = this.#room();
    if (left < scroller.scrollLeft) scroller.scrollLeft = left;
    else if (right > scroller.scrollLeft + room) scroller.scrollLeft = right - room;
    const top = grid.lineOf(row) * ROW;
    const height = scroller.clientHeight - HEAD;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + ROW > scroller.scrollTop + height) scroller.scrollTop = top + ROW - height;
    this.#stick = false;
    this.#scrolled();
  }

  /** Shows a token that its cell cuts off in full, over its neighbours: no column moves. */
  peek(cell: Cell | null): void {
    const colours = cell && this.grid.cutCell(cell);
    this.#peek.hidden = true;
    if (!cell || !colours || !this.#table) return;
    this.#peek.replaceChildren(...tokenNodes(this.#table.piece(this.#table.topId(cell.pos, cell.row)), 60));
    const { style } = this.#peek;
    style.backgroundColor = colours.fill;
    style.color = colours.ink;
    style.top = `${HEAD + this.grid.lineOf(cell.row) * ROW}px`;
    this.#peek.hidden = false;
    const { columns } = this.grid;
    const middle = GUTTER + columns.left(cell.pos) + columns.width(cell.pos) / 2;
    const edge = this.scroller.scrollLeft + this.scroller.clientWidth - this.profile.element.offsetWidth;
    const width = this.#peek.offsetWidth;
    const left = Math.min(middle - width / 2, edge - width);
    style.left = `${Math.max(left, this.scroller.scrollLeft + GUTTER)}px`;
  }
}
