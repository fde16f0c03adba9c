// The profile: the target's probability over the layers at one position, drawn on the rows' own axis.
import { make, makeSvg, set } from "../shared/dom.ts";
import { tokenNodes } from "../shared/tokens.ts";
import type { Cell } from "./grid.ts";
import { ROW } from "./painting.ts";
import type { Facts } from "./spec.ts";
import { statisticOf, type Ends, type TableStatistic } from "./statistic.ts";
import type { Table } from "./table.ts";

const WIDTH = 128;
const TINY_WIDTH = 104;
const INSET = 5;
const SHORT: Readonly<Record<string, string>> = {
  kl: "KL",
  rank: "rank",
  cross_entropy: "cross-ent.",
  log_prob_difference: "log diff.",
  log_prob_difference_change: "change",
};

/** Two readings of the same rows: the target's probability in the second is drawn solid, in the first dashed. */
export interface Two {
  readonly first: Table;
  readonly names: readonly [string, string];
}

export class Profile {
  readonly element = make("div", "lk-profile");
  readonly #solidName = make("span", "lk-solid-name");
  readonly #dashedName = make("span", "lk-dashed-name");
  readonly #svg = makeSvg("svg", { role: "img" });
  readonly #grid = makeSvg("path", { class: "lk-axis" });
  readonly #level = makeSvg("path", { class: "lk-level" });
  readonly #dashed = makeSvg("path", { class: "lk-dashed" });
  readonly #solid = makeSvg("path", { class: "lk-solid" });
  readonly #dashedPoint = makeSvg("circle", { class: "lk-dashed-point", r: 2.5 });
  readonly #point = makeSvg("circle", { class: "lk-point", r: 3.5 });
  readonly #low = make("span", "", "0");
  readonly #high = make("span", "lk-high");

  constructor() {
    const head = make("div", "lk-profile-head", this.#solidName, this.#dashedName);
    this.#svg.append(this.#grid, this.#level, this.#dashed, this.#solid, this.#dashedPoint, this.#point);
    this.element.append(head, this.#svg, make("div", "lk-profile-axis", this.#low, this.#high));
    this.element.style.visibility = "hidden";
  }

  show(
    table: Table,
    cell: Cell,
    coloured: TableStatistic,
    facts: Facts,
    lineOf: (row: number) => number,
    tiny: boolean,
    two: Two | null = null,
  ): void {
    const other = coloured.name === "probability" || coloured.name === "target_probability" ? statisticOf("entropy") : coloured;
    const second = two ? statisticOf("target_probability") : other;
    const dashed = two ? two.first : table;
    const ends = second.ends(facts);
    const width = tiny ? TINY_WIDTH : WIDTH;
    const height = table.rows * ROW;
    const x = (place: number): number => INSET + Math.min(1, Math.max(0, place)) * (width - 2 * INSET);
    const y = (row: number): number => (lineOf(row) + 0.5) * ROW;
    // A rank is drawn as a number, small at the left; as a colour small is strong.
    const place = (value: number): number => (second.smallIsStrong ? 1 - second.place(value, ends) : second.place(value, ends));
    // The first row of a change from row to row is no number: the line begins with the second.
    const pathOf = (at: (row: number) => number): string =>
      table.layers
        .map((_, row) => row)
        .filter((row) => !Number.isNaN(at(row)))
        .map((row, i) => `${i ? "L" : "M"}${x(at(row)).toFixed(1)} ${y(row)}`)
        .join("");

    const level = place(second.value(dashed, cell.pos, cell.row));
    set(this.#svg, { width, height, viewBox: `0 0 ${width} ${height}` });
    set(this.#grid, { d: [0, 0.5, 1].map((t) => `M${x(t)} 0V${height}`).join("") });
    set(this.#level, { d: `M${x(0)} ${y(cell.row)}H${x(1)}` });
    set(this.#solid, { d: pathOf((row) => table.targetProb(cell.pos, row)) });
    set(this.#dashed, { d: pathOf((row) => place(second.value(dashed, cell.pos, row))) });
    set(this.#point, { cx: x(table.targetProb(cell.pos, cell.row)), cy: y(cell.row) });
    set(this.#dashedPoint, { cx: Number.isNaN(level) ? -9 : x(level), cy: y(cell.row) });
    if (two) this.#labelTwo(two.names);
    else this.#label(table, cell, second, ends);
    this.element.style.visibility = "";
  }

  #labelTwo([first, second]: readonly [string, string]): void {
    this.#solidName.textContent = `p(target) ${second}`;
    this.#dashedName.textContent = first;
    this.#low.textContent = "0";
    this.#high.replaceChildren(make("span", "lk-solid-name", "1"));
    this.#svg.setAttribute("aria-label", `probability of the target at each layer: ${second}, and dashed ${first}`);
  }

  #label(table: Table, cell: Cell, second: TableStatistic, ends: Ends): void {
    const target = table.piece(table.targetId(cell.pos));
    const token = make("bdi", "lk-token", ...tokenNodes(target, 12));
    token.dir = "auto";
    this.#solidName.replaceChildren("p(", token, ")");
    this.#dashedName.textContent = SHORT[second.name] ?? second.label;
    const low = ends[0] ? ` · ${second.show(ends[0])}` : "";
    this.#low.replaceChildren("0", make("span", "lk-dashed-name", low));
    const high = second.unit ? `${ends[1].toFixed(1).replace(/\.0$/, "")} ${second.unit}` : second.show(ends[1]);
    this.#high.replaceChildren(make("span", "lk-solid-name", "1"), make("span", "lk-dashed-name", ` · ${high}`));
    this.#svg.setAttribute("aria-label", `probability of the target, and ${second.title}, at each layer, position ${cell.pos}`);
  }
}
