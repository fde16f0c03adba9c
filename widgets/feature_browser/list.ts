// The list: an ARIA grid of which only the rows in view exist, each with what it promotes and its histogram.
import { make, set, uniqueId } from "../shared/dom.ts";
import { tokenElement, tokenText } from "../shared/tokens.ts";
import { activation, SmallHistogram } from "./histogram.ts";
import type { Rows } from "./rows.ts";
import { nameOf, type Facts, type Order, type Sort } from "./spec.ts";
import type { Row, Words } from "./values.ts";

export const ROW = 28;
/** Rows beyond each edge. */
const SPARE = 8;
const TOKENS = 4;

export interface ListEvents {
  chosen(feature: number): void;
  /** These rows are in view. */
  seen(first: number, end: number): void;
  /** A column's head: sort by it, or turn it round. */
  sorted(sort: Sort): void;
  pressed(event: KeyboardEvent): void;
}

export interface Listed {
  readonly sort: Sort;
  readonly order: Order;
  readonly chosen: number | null;
  readonly pinned: readonly number[];
  readonly notes: Readonly<Record<string, string>>;
}

interface Line {
  readonly element: HTMLElement;
  readonly id: HTMLElement;
  readonly tokens: HTMLElement;
  readonly bars: SmallHistogram;
  readonly value: HTMLElement;
  row: Row | undefined;
  marked: string;
}

export const percent = (share: number): string => {
  const p = share * 100;
  if (p === 0) return "0 %";
  return p >= 10 ? `${p.toFixed(0)} %` : p >= 0.1 ? `${p.toFixed(2)} %` : p >= 0.01 ? `${p.toFixed(3)} %` : "<.01 %";
};

const VALUES: Record<Sort, { readonly head: string; readonly say: (value: number, row: Row) => string }> = {
  number: { head: "density", say: (_, row) => percent(row.density) },
  density: { head: "density", say: (_, row) => percent(row.density) },
  max: { head: "max", say: (_, row) => activation(row.max) },
  peakedness: { head: "max / mean", say: (value) => `${activation(value)}×` },
  prompt: { head: "on prompt", say: (value) => percent(value) },
  token: { head: "at token", say: (value) => percent(value) },
};

export class List {
  readonly element = make("div", "lk-f-list");
  readonly grid = make("div", "lk-f-grid");
  readonly #head = make("div", "lk-f-headrow");
  readonly #heads: Record<"id" | "value", HTMLButtonElement>;
  /** What the tokens in a row are. */
  readonly #tells = make("span");
  readonly #sheet = make("div", "lk-f-sheet");
  readonly #empty = make("div", "lk-f-empty");
  readonly #lines = new Map<number, Line>();
  readonly #id = uniqueId("feature");
  /** Where the window of rows was last. */
  #scrolled = 0;
  #rows: Rows | null = null;
  #listed: Listed | null = null;

  constructor(
    private readonly facts: Facts,
    private readonly words: Words,
    private readonly events: ListEvents,
    signal: AbortSignal,
  ) {
    const head = (name: string, sort: () => Sort): HTMLButtonElement => {
      const made = make("button", "lk-button lk-f-sort", name);
      made.type = "button";
      made.tabIndex = -1;
      made.addEventListener("click", () => events.sorted(sort()), { signal });
      return made;
    };
    this.#heads = { id: head(facts.unit, () => "number"), value: head("density", () => this.#sortOfValue()) };
    const columns = [this.#heads.id, this.#tells, "activations", this.#heads.value].map((label) => {
      const column = make("div", "lk-f-column", label);
      column.setAttribute("role", "columnheader");
      return column;
    });
    this.#head.append(...columns);
    set(this.#head, { role: "row", "aria-rowindex": 1 });
    set(this.grid, { role: "grid", tabindex: 0, "aria-label": `${facts.unit}s`, "aria-colcount": 4 });
    set(this.#sheet, { role: "rowgroup" });
    this.grid.append(this.#head, this.#sheet);
    this.#empty.hidden = true;
    this.element.append(this.grid, this.#empty);
    this.grid.addEventListener("scroll", () => this.#window(), { signal, passive: true });
    this.#watch(signal);
    this.grid.addEventListener("keydown", (event) => events.pressed(event), { signal });
    this.#sheet.addEventListener("click", (event) => this.#clicked(event), { signal });
  }

  /**
   * A host that takes the view out of the page and puts it back (a notebook does, with cells out of sight) sets the grid
   * back to its top, and says nothing: whoever comes back to it finds the rows that were in view.
   */
  #watch(signal: AbortSignal): void {
    const back = (): void => {
      if (this.grid.clientHeight === 0 || !this.#rows) return;
      if (this.grid.scrollTop !== this.#scrolled) this.grid.scrollTop = this.#scrolled;
      this.#window();
    };
    const shown = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && back());
    shown.observe(this.grid);
    signal.addEventListener("abort", () => shown.disconnect());
    for (const event of ["pointerenter", "focusin"]) this.element.addEventListener(event, back, { signal });
  }

  /** How many rows fit a screen of it. */
  get screen(): number {
    return Math.max(1, Math.floor((this.grid.clientHeight - ROW) / ROW) || 14);
  }

  get top(): number {
    return Math.floor(this.grid.scrollTop / ROW);
  }

  show(rows: Rows, listed: Listed): void {
    const fresh = rows !== this.#rows;
    if (fresh) {
      for (const line of this.#lines.values()) line.element.remove();
      this.#lines.clear();
      this.grid.scrollTop = 0;
    }
    [this.#rows, this.#listed] = [rows, listed];
    this.#sheet.style.height = `${rows.total * ROW}px`;
    this.grid.setAttribute("aria-rowcount", String(rows.total + 1));
    this.#empty.hidden = rows.total > 0;
    this.#empty.textContent = rows.total ? "" : emptiness(rows, this.facts);
    this.#showHeads(rows, listed);
    this.#window();
  }

  get #verb(): string {
    const question = this.#rows?.question;
    return question?.find && question.by === "fires" ? "fires on" : "promotes";
  }

  #sortOfValue(): Sort {
    const sort = this.#listed?.sort ?? "density";
    return sort === "number" ? "density" : sort;
  }

  #showHeads(rows: Rows, { sort, order }: Listed): void {
    const arrow = order === "down" ? " ↓" : " ↑";
    const direction = order === "down" ? "descending" : "ascending";
    const mark = (head: HTMLButtonElement, name: string, sorted: boolean): void => {
      head.textContent = name + (sorted ? arrow : "");
      head.parentElement?.setAttribute("aria-sort", sorted ? direction : "none");
    };
    this.#tells.textContent = this.#verb;
    mark(this.#heads.id, this.facts.unit, sort === "number");
    mark(this.#heads.value, VALUES[rows.question.sort].head, sort !== "number");
  }

  /** The rows in view, and no others. */
  #window(): void {
    const rows = this.#rows;
    if (!rows) return;
    const height = this.grid.clientHeight || 15 * ROW;
    this.#scrolled = this.grid.scrollTop;
    const first = Math.max(0, Math.floor(this.grid.scrollTop / ROW) - SPARE);
    const end = Math.min(rows.total, Math.ceil((this.grid.scrollTop + height) / ROW) + SPARE);
    for (const [index, line] of this.#lines) {
      if (index < first || index >= end) {
        line.element.remove();
        this.#lines.delete(index);
      }
    }
    for (let index = first; index < end; index++) this.#fill(index, rows);
    this.#activate();
    this.events.seen(first, end);
  }

  #fill(index: number, rows: Rows): void {
    const line = this.#lines.get(index) ?? this.#line(index);
    const row = rows.row(index);
    if (row && row !== line.row) this.#write(line, row);
    if (row) this.#mark(line, row);
  }

  #line(index: number): Line {
    const cell = (className: string, ...children: (Node | string)[]): HTMLElement => {
      const made = make("div", className, ...children);
      made.setAttribute("role", "gridcell");
      return made;
    };
    const bars = new SmallHistogram();
    const line: Line = {
      element: make("div", "lk-f-row"),
      id: cell("lk-f-id", "…"),
      tokens: cell("lk-f-promotes"),
      bars,
      value: cell("lk-f-value"),
      row: undefined,
      marked: "",
    };
    line.element.append(line.id, line.tokens, cell("lk-f-small", bars.element), line.value);
    set(line.element, { role: "row", "aria-rowindex": index + 2, id: `${this.#id}-${index}` });
    line.element.style.top = `${index * ROW}px`;
    line.element.dataset["index"] = String(index);
    this.#lines.set(index, line);
    this.#sheet.append(line.element);
    return line;
  }

  #write(line: Line, row: Row): void {
    line.row = row;
    line.marked = "";
    const told = row.tokens.slice(0, TOKENS).map((id) => this.words.piece(id));
    line.tokens.replaceChildren(...told.flatMap((piece, i) => [tokenElement(piece, i < row.matches ? "lk-f-match" : ""), " "]));
    line.bars.heights = row.bars;
    const sort = this.#rows?.question.sort ?? "density";
    line.value.textContent = VALUES[sort].say(row.value, row);
    const says = told.map(tokenText).join(" ");
    line.tokens.setAttribute("aria-label", `${this.#verb} ${says || "nothing"}`);
  }

  #mark(line: Line, row: Row): void {
    const { chosen, pinned, notes } = this.#listed as Listed;
    const note = notes[String(row.feature)] ?? "";
    const marked = `${row.feature === chosen}${pinned.includes(row.feature)}${note}`;
    if (marked === line.marked) return;
    line.marked = marked;
    const { element, id } = line;
    element.setAttribute("aria-selected", String(row.feature === chosen));
    element.classList.toggle("lk-f-chosen", row.feature === chosen);
    element.classList.toggle("lk-f-pinned", pinned.includes(row.feature));
    id.textContent = String(row.feature);
    id.setAttribute("aria-label", `${this.facts.unit} ${nameOf(this.facts, row.feature)}${pinned.includes(row.feature) ? ", pinned" : ""}${note ? `, noted: ${note}` : ""}`);
    element.title = note;
  }

  #activate(): void {
    const { chosen } = this.#listed ?? { chosen: null };
    const at = chosen === null ? null : (this.#rows?.indexOf(chosen) ?? null);
    if (at !== null && this.#lines.has(at)) this.grid.setAttribute("aria-activedescendant", `${this.#id}-${at}`);
    else this.grid.removeAttribute("aria-activedescendant");
  }

  #clicked(event: MouseEvent): void {
    const row = event.target instanceof Element ? event.target.closest<HTMLElement>(".lk-f-row") : null;
    const chosen = row && this.#lines.get(Number(row.dataset["index"]))?.row;
    if (chosen) this.events.chosen(chosen.feature);
  }

  /** Scrolls as little as needed, or to the middle where the row is far off. */
  reveal(index: number): void {
    const [top, height] = [index * ROW, this.grid.clientHeight - ROW];
    const { scrollTop } = this.grid;
    if (top >= scrollTop && top + ROW <= scrollTop + height) return;
    const far = top < scrollTop - height || top > scrollTop + 2 * height;
    this.grid.scrollTop = far ? top - height / 2 : top < scrollTop ? top : top + ROW - height;
    this.#window();
  }
}

function emptiness({ question }: Rows, { unit }: Facts): string {
  if (question.only === "pinned" && !question.find) return `no ${unit} is pinned: P pins the chosen one`;
  if (question.find) return `no ${unit} here ${question.by === "promotes" ? "promotes" : "fires on"} “${question.find}”`;
  return question.prompt === null ? `there is no ${unit}` : `no ${unit} fires there`;
}
