// The choices in the title row: which lens, shown how, beside what, coloured by what, in which order.
import { Menu } from "../shared/menu.ts";
import { Segmented } from "../shared/segmented.ts";
import { compares } from "./asking.ts";
import { DIFFERENCES } from "./differences.ts";
import type { DifferenceName, Facts, Order, Spec, StatisticName, View } from "./spec.ts";
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
    const differences = DIFFERENCES.map(({ name, label }) => ({ value: name, label }));
    this.#differences = new Menu("colour", differences, signal, (difference) => events.changed({ difference, scale: null }));
    const orders = [
      { value: "last-first", label: "last on top" },
      { value: "first-first", label: "first on top" },
    ] as const;
    this.#orders = new Segmented<Order>("order", orders, signal, (order) => events.changed({ order }));
    const several = lenses.length > 1;
    this.elements = [
      ...(several ? [this.#lenses.element] : []),
      // Nobody can ask for another side of a frozen page that holds one.
      ...(live || compares(spec) ? [this.#views.element] : []),
      ...(live && several ? [this.#beside.element] : []),
      this.#statistics.element,
      this.#differences.element,
      this.#orders.element,
    ];
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
  }
}
