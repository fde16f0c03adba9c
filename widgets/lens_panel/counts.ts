// What a lens reads in a region: its tokens by how many cells hold them among their top, with those cells lit on hover.
import { button, make } from "../shared/dom.ts";
import { tokenElement } from "../shared/tokens.ts";
import type { Cell, Region } from "../lens_table/grid.ts";
import { Note } from "../lens_table/note.ts";
import type { Answer } from "../lens_table/source.ts";
import type { Table } from "../lens_table/table.ts";
import { promptOf } from "./code.ts";
import type { Doings, Looked } from "./contract.ts";

/** How many tokens of a cell count. */
const TOP = 8;
const LISTED = 12;

export interface Counted {
  readonly id: number;
  readonly cells: readonly Cell[];
  readonly mass: number;
}

/** The tokens of a region, the most frequent first; between equals, the likelier. */
export function counted(table: Table, { rows, columns }: Region, top = TOP): Counted[] {
  const found = new Map<number, { id: number; cells: Cell[]; mass: number }>();
  const k = Math.min(top, table.k);
  for (let pos = columns[0]; pos <= columns[1]; pos++) {
    for (let row = rows[0]; row <= rows[1]; row++) {
      for (let place = 0; place < k; place++) {
        const id = table.topId(pos, row, place);
        const each = found.get(id) ?? { id, cells: [], mass: 0 };
        each.cells.push({ pos, row });
        each.mass += table.topProb(pos, row, place);
        found.set(id, each);
      }
    }
  }
  return [...found.values()].sort((a, b) => b.cells.length - a.cells.length || b.mass - a.mass || a.id - b.id);
}

export class Counts {
  readonly element = make("div", "lk-section lk-counts");
  readonly #title = make("div", "lk-heading");
  readonly #list = make("ol", "lk-top");
  readonly #rest = make("div", "lk-rest");
  readonly #words: HTMLButtonElement;
  readonly #note: Note;
  #table: Table | null = null;
  #key = "";
  #code = "";

  constructor(private readonly doings: Doings) {
    const { signal, facts } = doings;
    const copy = button("Copy as Python", () => void this.#copy(), signal);
    this.#words = button("Words only", () => doings.change({ cells: "words" }), signal);
    const close = button("Close", () => doings.change({ to: null }), signal);
    this.#note = new Note(signal);
    const actions = make("div", "lk-actions", ...(facts.live && facts.words ? [this.#words] : []), copy, close);
    this.element.append(this.#title, this.#list, this.#rest, actions, this.#note.element);
    this.element.hidden = true;
    for (const event of ["pointerleave", "focusout"]) this.#list.addEventListener(event, () => doings.light([]), { signal });
  }

  show({ answer, region, spec, two }: Looked): void {
    const table = (two && answer.second) || answer.first;
    const key = region ? JSON.stringify(region) : "";
    this.element.hidden = !region;
    this.#words.hidden = spec.cells === "words";
    if (table === this.#table && key === this.#key) return;
    if (this.#key && !region) this.doings.light([]);
    [this.#table, this.#key] = [table, key];
    if (region) this.#fill(answer, table, region);
  }

  #fill(answer: Answer, table: Table, region: Region): void {
    const found = counted(table, region);
    const { rows, columns } = region;
    const [height, width] = [rows, columns].map(([a, b]) => b - a + 1) as [number, number];
    const [low, high] = rows.map((row) => table.layers[row]);
    const where = `${height} × ${width} cells, layer ${low === high ? low : `${low} to ${high}`}`;
    this.#title.replaceChildren(answer.message.words ? "Words held here" : "Tokens held here", make("span", "lk-state", where));
    const most = found[0]?.cells.length ?? 1;
    const lines = found.slice(0, LISTED).map((each) => this.#line(table, each, most, height * width));
    this.#list.replaceChildren(...lines);
    const left = found.length - lines.length;
    this.#rest.textContent = `${left > 0 ? `and ${left} more · ` : ""}cells with it in the top ${Math.min(TOP, table.k)}`;
    const words = answer.message.words ? ", words=True" : "";
    const slice = ([a, b]: readonly [number, number]): string => `slice(${a}, ${b + 1})`;
    this.#code = `lens.read(${promptOf(answer)}${words}).counts(layers=${slice(rows)}, pos=${slice(columns)})`;
  }

  #line(table: Table, { id, cells }: Counted, most: number, all: number): HTMLElement {
    const { doings } = this;
    const bar = make("span", "lk-bar");
    bar.style.width = `${(cells.length / most) * 100}%`;
    const parts = [tokenElement(table.piece(id)), make("span", "lk-track", bar), make("span", "lk-number", String(cells.length))];
    const line = make("button", "lk-top-line", ...parts);
    line.type = "button";
    line.title = `in ${cells.length} of ${all} cells${doings.facts.live ? "; make it the target" : ""}`;
    for (const event of ["pointerenter", "focus"]) line.addEventListener(event, () => doings.light(cells), { signal: doings.signal });
    if (doings.facts.live) line.addEventListener("click", () => doings.makeTarget(id), { signal: doings.signal });
    return make("li", "", line);
  }

  async #copy(): Promise<void> {
    if (await this.doings.copyText(this.#code)) this.#note.say("Copied.");
    else this.#note.say("To be copied by hand:", this.#code);
  }
}
