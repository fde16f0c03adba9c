// The pictures: one reading, two side by side, or their difference, with one cursor and one scroll.
import { make } from "../shared/dom.ts";
import { sideNames } from "./asking.ts";
import type { Cells } from "./cells.ts";
import type { Difference } from "./compared.ts";
import { GUTTER, type Cell, type Region } from "./grid.ts";
import type { Paint } from "./painting.ts";
import type { Answer } from "./source.ts";
import type { Order, View } from "./spec.ts";
import { Stage, type StageEvents } from "./stage.ts";
import type { Table } from "./table.ts";

/** The widths of a profile, and of what is between two pictures. */
const PROFILE = 148;
const GAP = 24;
const SAYS = "top token at each layer and position";

export interface Paints {
  readonly table: Paint<Table>;
  readonly difference: Paint<Difference> | null;
}

export class Pictures {
  readonly element = make("div", "lk-stages");
  readonly #first: Stage<Table>;
  /** Made when they are first needed: most tables show one reading. */
  #second: Stage<Table> | null = null;
  #apart: Stage<Difference> | null = null;
  #answer: Answer | null = null;
  #view: View = "one";
  #paints: Paints | null = null;
  #order: Order = "last-first";

  constructor(
    private readonly events: StageEvents,
    private readonly signal: AbortSignal,
    layers: number,
  ) {
    this.#first = this.#make<Table>(SAYS);
    this.#first.grid.reserve(layers);
    this.element.append(this.#first.element);
  }

  #make<C extends Cells>(label: string): Stage<C> {
    const events = { ...this.events, scrolled: (left: number, top: number) => this.#scrolled(stage, left, top) };
    const stage: Stage<C> = new Stage<C>(label, events, this.signal);
    stage.grid.order = this.#order;
    return stage;
  }

  /** Those that are seen, the first first. */
  get #shown(): readonly Stage<never>[] {
    const stages = this.#view === "one" ? [this.#first] : this.#view === "side" ? [this.#first, this.#second] : [this.#apart];
    return stages.filter((stage) => stage !== null) as unknown as Stage<never>[];
  }

  #scrolled(from: object, left: number, top: number): void {
    for (const stage of this.#shown) if ((stage as object) !== from) stage.follow(left, top);
  }

  get view(): View {
    return this.#view;
  }

  /** The stage whose rows and profile count: with two, both have the same rows. */
  get #main(): Stage<never> {
    return this.#shown.at(-1) as Stage<never>;
  }

  /** An arrow, so that it can be handed on. */
  readonly lineOf = (row: number): number => this.#main.grid.lineOf(row);

  focus(): void {
    this.#shown[0]?.grid.element.focus();
  }

  /** Shows an answer of which the columns before `from` are those of the one before, if that was shown in this view. */
  show(answer: Answer, view: View, from: number): void {
    const { first, second, difference } = answer;
    const as = difference && second ? view : "one";
    const again = as === this.#view && (as === "one" || this.#answer?.second != null);
    const start = again ? from : 0;
    [this.#answer, this.#view] = [answer, as];
    const names = sideNames(answer.message);
    for (const stage of [this.#first, this.#second, this.#apart]) if (stage) stage.grid.written = answer.message.written.length;
    if (as === "difference" && difference) {
      const stage = (this.#apart ??= this.#make<Difference>(`difference: what the second says ${SAYS.slice("top token ".length)}`));
      this.#place(stage);
      stage.name = "";
      stage.show(difference, start);
    } else if (as === "side" && second) {
      const stage = (this.#second ??= this.#make<Table>(SAYS));
      this.#place(this.#first, stage);
      [this.#first.name, stage.name] = names;
      this.#first.show(first, start, second);
      stage.show(second, start, first);
    } else {
      this.#place(this.#first);
      this.#first.name = "";
      this.#first.show(first, start);
    }
    this.#first.profile.element.hidden = as === "side";
    this.element.classList.toggle("lk-two-prompts", as !== "one" && answer.message.other !== null);
    this.#paint();
  }

  #place(...stages: Stage<never>[] | Stage<Table>[] | Stage<Difference>[]): void {
    const elements = stages.map((stage) => stage.element);
    const now = [...this.element.children];
    if (now.length === elements.length && elements.every((element, i) => element === now[i])) return;
    this.element.replaceChildren(...elements);
  }

  set paints(paints: Paints) {
    this.#paints = paints;
    for (const stage of [this.#first, this.#second]) if (stage) stage.grid.paint = paints.table;
    if (this.#apart && paints.difference) this.#apart.grid.paint = paints.difference;
    this.draw();
  }

  #paint(): void {
    if (this.#paints) this.paints = this.#paints;
  }

  set order(order: Order) {
    this.#order = order;
    for (const stage of [this.#first, this.#second, this.#apart]) if (stage) stage.grid.order = order;
  }

  draw(): void {
    for (const stage of this.#shown) stage.draw();
  }

  resized(): void {
    for (const stage of this.#shown) stage.resized();
  }

  light(cells: readonly Cell[]): void {
    for (const stage of this.#shown) stage.grid.light(cells);
  }

  /** Stands two readings one upon the other where they do not fit beside each other. */
  fold(room: number): void {
    const wanted = this.#shown.reduce((sum, { grid }) => sum + GUTTER + grid.columns.total + GAP, PROFILE);
    this.element.classList.toggle("lk-stacked", wanted > room);
  }

  reveal(cell: Cell): void {
    for (const stage of this.#shown) stage.reveal(cell);
  }

  /** Brings marks, the token in full and the profile's place in step with the cell that is looked at. */
  mark(active: Cell, pinned: Cell | null, hovered: Cell | null, region: Region | null): void {
    for (const stage of this.#shown) {
      stage.grid.mark(active, pinned, region);
      stage.peek(hovered);
    }
  }

  get profile(): Stage<never>["profile"] {
    return this.#main.profile;
  }
}
