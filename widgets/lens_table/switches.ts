// The choices in the title row: which lens, shown how, beside what, coloured by what, in which order.
import { make } from "../shared/dom.ts";
import { Menu } from "../shared/menu.ts";
import { Segmented } from "../shared/segmented.ts";
import { compares } from "./asking.ts";
import type { Comparing } from "./compared.ts";
import type { CellText, DifferenceName, Facts, Order, Spec, StatisticName, View } from "./spec.ts";
import { needsVersus, STATISTICS } from "./statistic.ts";

export interface SwitchEvents {
  lens(name: string): void;
  view(view: View): void;
  /** `null` is another prompt. */
  beside(lens: string | null): void;
  changed(patch: Partial<Spec>): void;
}

const PROMPT = "prompt";
const named = (lens: string): string => `lens ${lens}`;

export class Switches {
  readonly elements: readonly HTMLElement[];
  readonly #lenses: Segmented<string>;
  readonly #views: Segmented<View>;
  readonly #beside: Menu<string>;
  readonly #statistics: Menu<StatisticName>;
  readonly #differences: Menu<DifferenceName>;
  readonly #orders: Segmented<Order>;
  readonly #cells: Segmented<CellText>;

  constructor(
    private readonly facts: Facts,
    spec: Spec,
    signal: AbortSignal,
    events: SwitchEvents,
  ) {
    const { lenses, live } = facts;
    this.#lenses = new Segmented("lens", lenses.map((lens) => ({ value: lens, label: lens })), signal, (lens) => events.lens(lens));
    const views = [
      { value: "one", label: "one" },
      { value: "side", label: "side by side" },
      { value: "difference", label: "difference" },
    ] as const;
    this.#views = new Segmented<View>("view", views, signal, (view) => events.view(view));
    this.#beside = new Menu("with", [], signal, (value) => events.beside(value === PROMPT ? null : value.slice(named("").length)));
    this.#statistics = new Menu("colour", [], signal, (statistic) => events.changed({ statistic, scale: null }));
    this.#differences = new Menu("colour", [], signal, (difference) => events.changed({ difference, scale: null }));
    const orders = [
      { value: "last-first", label: "last on top" },
      { value: "first-first", label: "first on top" },
    ] as const;
    this.#orders = new Segmented<Order>("order", orders, signal, (order) => events.changed({ order }));
    const texts = (["tokens", "words", "numbers"] as const).filter((value) => value !== "words" || (live && facts.words));
    this.#cells = new Segmented<CellText>("cells", texts.map((value) => ({ value, label: value })), signal, (cells) => events.changed({ cells }));
    const several = lenses.length > 1;
    // What is read, and how it is shown: where they need two lines, each has its own.
    const read = [
      ...(several ? [this.#lenses] : []),
      // Nobody can ask for another side of a frozen page that holds one.
      ...(live || compares(spec) ? [this.#views] : []),
      ...(live && several ? [this.#beside] : []),
    ];
    const shown = [this.#statistics, this.#differences, this.#cells, this.#orders];
    this.elements = [read, shown].map((group) => make("div", "lk-switch-group", ...group.map(({ element }) => element)));
  }

  set comparing({ differences }: Comparing) {
    this.#differences.choices = differences.map(({ name, label }) => ({ value: name, label }));
  }

  show(spec: Spec): void {
    this.#lenses.value = spec.lens;
    this.#views.value = spec.view;
    const others = this.facts.lenses.filter((lens) => lens !== spec.lens);
    this.#beside.choices = [...others.map((lens) => ({ value: named(lens), label: `${lens} lens` })), { value: PROMPT, label: "another prompt" }];
    this.#beside.value = spec.second === null ? PROMPT : named(spec.second);
    this.#beside.element.hidden = spec.view === "one";
    const there = STATISTICS.filter(({ name }) => spec.versus !== null || !needsVersus(name));
    this.#statistics.choices = there.map(({ name, label }) => ({ value: name, label }));
    this.#statistics.value = spec.statistic;
    this.#statistics.element.hidden = spec.view === "difference";
    this.#differences.value = spec.difference;
    this.#differences.element.hidden = spec.view !== "difference";
    this.#orders.value = spec.order;
    this.#cells.value = spec.cells;
  }
}
