// The picture: the prompts' tokens and the grid in one scroller, the line of work under it.
import { make } from "../shared/dom.ts";
import { Tracks } from "../shared/tracks.ts";
import { Grid, GUTTER, OUTLINE, tracksOf } from "./grid.ts";
import { ROW } from "./painting.ts";
import { Pair } from "./pair.ts";
import { sameCell, type Cell } from "./region.ts";
import type { Sweep } from "./sweep.ts";

/** Taller pictures scroll inside themselves. */
const TALLEST = 40;

export interface StageEvents {
  hovered(cell: Cell | null): void;
  clicked(cell: Cell): void;
  /** A region is drawn from one cell to another; `over` when the button is let go. */
  dragged(from: Cell, to: Cell, over: boolean): void;
  /** A click on a prompt's tokens. */
  edit(which: "clean" | "corrupt"): void;
  pressed(event: KeyboardEvent): void;
  left(): void;
}

export class Stage {
  readonly element = make("div", "lk-pg-stage");
  readonly grid = new Grid("effect of a patch at each layer and column");
  readonly #scroller = make("div", "lk-pg-scroller");
  readonly #strip = make("div", "lk-pg-strip");
  /** Over heads the prompts have no columns in the grid, and stand above it. */
  readonly #pair = new Pair(false);
  readonly #line = make("div", "lk-progress");
  #pairTracks = new Tracks();
  /** The tokens on the screen: of others the place is looked for where they differ. */
  #prompts = "";
  #sweep: Sweep | null = null;
  #width = 0;
  #hovered: Cell | null = null;
  #drag: { on: Element; from: Cell; to: Cell; moved: boolean } | null = null;

  constructor(
    private readonly events: StageEvents,
    signal: AbortSignal,
  ) {
    this.#strip.hidden = true;
    this.#strip.tabIndex = 0;
    this.#strip.setAttribute("role", "group");
    this.#strip.setAttribute("aria-label", "the two prompts");
    this.#strip.append(this.#pair.element);
    this.#scroller.append(this.grid.element);
    this.#line.hidden = true;
    this.element.append(this.#strip, this.#scroller, make("div", "lk-pg-work", this.#line));
    this.#scroller.addEventListener("scroll", () => this.draw(), { signal, passive: true });
    this.#strip.addEventListener("scroll", () => this.#cover(), { signal, passive: true });
    const sizes = new ResizeObserver(() => {
      this.#width = this.#scroller.clientWidth;
      this.draw();
    });
    sizes.observe(this.#scroller);
    signal.addEventListener("abort", () => sizes.disconnect());
    const grid = this.grid.element;
    grid.addEventListener("pointerdown", (event) => this.#press(event), { signal });
    grid.addEventListener("pointerover", (event) => this.#over(event), { signal });
    grid.addEventListener("pointerleave", () => this.#hover(null), { signal });
    document.addEventListener("pointerup", (event) => this.#release(event), { signal });
    document.addEventListener("pointercancel", () => (this.#drag = null), { signal });
    grid.addEventListener("click", (event) => this.#click(event), { signal });
    this.element.addEventListener("click", (event) => this.#clickToken(event), { signal });
    grid.addEventListener("keydown", events.pressed, { signal });
    grid.addEventListener("blur", events.left, { signal });
  }

  #press(event: PointerEvent): void {
    const cell = this.grid.cellAt(event.target);
    if (!cell || event.button !== 0 || event.pointerType === "touch") return;
    this.#drag = { on: event.target as Element, from: cell, to: cell, moved: false };
  }

  #over(event: PointerEvent): void {
    if (event.pointerType === "touch") return;
    const cell = this.grid.cellAt(event.target);
    if (this.#drag && cell) {
      const { on, from } = this.#drag;
      const moved = this.#drag.moved || !sameCell(cell, from);
      this.#drag = { on, from, to: cell, moved };
      if (moved) this.events.dragged(from, cell, false);
    } else if (!this.#drag) {
      this.#hover(cell);
    }
  }

  #hover(cell: Cell | null): void {
    if (sameCell(cell, this.#hovered)) return;
    this.#hovered = cell;
    this.events.hovered(cell);
  }

  #release(event: PointerEvent): void {
    if (!this.#drag) return;
    // A quick hand lets go in a cell that the pointer was never heard to come over.
    this.#over(event);
    const drag = this.#drag;
    if (drag.moved) this.events.dragged(drag.from, drag.to, true);
    // Where the cell's element was made anew meanwhile, as when a scroll bar comes, a browser tells of no click.
    else if (!drag.on.isConnected && sameCell(this.grid.cellAt(event.target), drag.from)) this.events.clicked(drag.from);
    // The click that follows belongs to the drag: it looks at this before it is forgotten.
    setTimeout(() => {
      if (this.#drag === drag) this.#drag = null;
    });
  }

  #click(event: MouseEvent): void {
    const cell = this.grid.cellAt(event.target);
    const dragged = this.#drag?.moved ?? false;
    this.#drag = null;
    if (cell && !dragged) this.events.clicked(cell);
  }

  #clickToken(event: MouseEvent): void {
    const line = event.target instanceof Element ? event.target.closest(".lk-pg-line") : null;
    if (line?.classList.contains("lk-pg-clean")) this.events.edit("clean");
    else if (line?.classList.contains("lk-pg-corrupt")) this.events.edit("corrupt");
  }

  show(sweep: Sweep): void {
    this.#hovered = null;
    this.#drag = null;
    const tall = sweep.rows > TALLEST;
    this.grid.show(sweep);
    this.#scroller.classList.toggle("lk-pg-tall", tall);
    this.#scroller.style.maxHeight = tall ? `${this.grid.topHeight + TALLEST * ROW}px` : "";
    this.#strip.hidden = sweep.over === "pos";
    if (sweep.over === "head") {
      this.#pairTracks = tracksOf(sweep, "pos");
      this.#pair.draw(sweep, this.#pairTracks, [0, sweep.positions], GUTTER);
      this.#cover();
    }
    const prompts = `${sweep.clean}|${sweep.corrupt}`;
    this.#sweep = sweep;
    if (prompts !== this.#prompts) this.#seek();
    this.#prompts = prompts;
    this.draw();
  }

  /** Scrolls to where the two prompts begin to differ, unless it is in sight. */
  #seek(): void {
    if (this.#sweep?.over === "pos") seek(this.#scroller, this.grid.tracks, this.#sweep);
    else if (this.#sweep) seek(this.#strip, this.#pairTracks, this.#sweep);
  }

  #cover(): void {
    this.#pair.cover(this.#pairTracks, this.#strip.scrollLeft);
  }

  /** Draws the columns in view. */
  draw(): void {
    const from = this.#scroller.scrollLeft;
    this.grid.draw(from, from + Math.max(this.#width, 320));
  }

  /** The widget was attached or has another width or font. */
  resized(): void {
    const narrower = this.#scroller.clientWidth < this.#width;
    this.#width = this.#scroller.clientWidth;
    this.grid.forget();
    if (narrower) this.#seek();
    this.draw();
  }

  /** Scrolls so that a cell is seen. */
  reveal({ row, column }: Cell): void {
    const { tracks } = this.grid;
    const scroller = this.#scroller;
    const [left, right] = [tracks.left(column), tracks.left(column) + tracks.width(column)];
    const room = scroller.clientWidth - GUTTER - OUTLINE;
    if (left < scroller.scrollLeft) scroller.scrollLeft = left;
    else if (right > scroller.scrollLeft + room) scroller.scrollLeft = right - room;
    const top = (Number(this.grid.element.getAttribute("aria-rowcount")) - this.#headRows - 1 - row) * ROW;
    const height = scroller.clientHeight - this.grid.topHeight;
    if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + ROW > scroller.scrollTop + height) scroller.scrollTop = top + ROW - height;
    this.draw();
  }

  get #headRows(): number {
    return this.#strip.hidden ? 2 : 1;
  }

  /** Work under way: a share of 1, `null` while its length is unknown, `undefined` when there is none. */
  set progress(share: number | null | undefined) {
    this.#line.hidden = share === undefined;
    this.#line.classList.toggle("lk-unknown", share === null);
    this.#line.style.transform = typeof share === "number" ? `scaleX(${Math.max(0.01, share)})` : "";
    this.grid.element.setAttribute("aria-busy", String(share !== undefined));
  }
}

/** Where two prompts begin to differ is the first place to look: before it no patch changes anything. */
function seek(scroller: HTMLElement, tracks: Tracks, sweep: Sweep): void {
  const first = sweep.clean.findIndex((_, pos) => sweep.differs(pos));
  if (first < 0 || !scroller.clientWidth) return;
  const [left, right] = [tracks.left(first), tracks.left(first + 1)];
  const room = scroller.clientWidth - GUTTER;
  const seen = left >= scroller.scrollLeft && right <= scroller.scrollLeft + room;
  if (!seen) scroller.scrollLeft = tracks.left(Math.max(0, first - 1));
}
