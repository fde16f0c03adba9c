// The panel: its parts, each shown where there is something for it, and what a key or a button begins.
import { make } from "../shared/dom.ts";
import type { DifferenceStatistic, Difference, BetweenMessage } from "../lens_table/compared.ts";
import type { Doing } from "../lens_table/hands.ts";
import type { Act, Spec } from "../lens_table/spec.ts";
import type { Table } from "../lens_table/table.ts";
import { Acting } from "./acting.ts";
import type { Doings, Looked, Panel } from "./contract.ts";
import { Counts } from "./counts.ts";
import { Apart } from "./difference.ts";
import { DIFFERENCES } from "./differences.ts";
import { PairDetail } from "./pair.ts";
import { Writing } from "./writing.ts";

/** Where acting along a direction does most, as shares of the depth, unless a region says where. */
const BAND = [0.4, 0.77] as const;
const STRENGTHS: Readonly<Record<Act["how"], number>> = { steer: 0.05, swap: 1, ablate: 1 };
const HOWS: Readonly<Record<string, Act["how"]>> = { s: "steer", w: "swap", a: "ablate" };

export class LensPanel implements Panel {
  readonly element = make("div", "lk-panel");
  readonly strip: HTMLElement;
  readonly differences: readonly DifferenceStatistic[] = DIFFERENCES;
  readonly #pair: PairDetail;
  readonly #counts: Counts;
  readonly #acting: Acting;
  readonly #writing: Writing;
  #looked: Looked | null = null;

  constructor(private readonly doings: Doings) {
    this.#pair = new PairDetail(doings);
    this.#counts = new Counts(doings);
    this.#acting = new Acting(doings);
    this.#writing = new Writing(doings);
    this.strip = this.#writing.element;
    this.element.append(this.#pair.element, this.#acting.element, this.#counts.element);
  }

  differenceOf(first: Table, second: Table, message: BetweenMessage, buffers: readonly DataView[]): Difference {
    return Apart.of(first, second, message, buffers);
  }

  show(looked: Looked): void {
    this.#looked = looked;
    this.#pair.show(looked);
    this.#counts.show(looked);
    this.#writing.show(looked);
    this.#acting.show(looked, this.#writing.busy);
  }

  do(what: Doing): void {
    const looked = this.#looked;
    if (!looked) return;
    const how = HOWS[what];
    if (what === "g") this.#writing.toggle();
    else if (what === "r") this.doings.change(rankOf(looked));
    else if (how) {
      this.doings.change({ act: actOf(looked, how, this.doings.facts.layers) });
      this.#acting.focus();
    }
  }

  /** Esc: first what is being written, then what is done. */
  stop(): boolean {
    if (this.#writing.stop()) return true;
    if (!this.#looked?.spec.act || !this.doings.facts.live) return false;
    this.doings.change({ act: null });
    return true;
  }

  note(message: string, text = ""): void {
    this.#pair.note(message, text);
  }
}

const topOf = ({ answer, active, two }: Looked): number => ((two && answer.second) || answer.first).topId(active.pos, active.row);

/** Follows the token of the cell over the whole grid, and ends that where it is done already. */
function rankOf(looked: Looked): Partial<Spec> {
  const [target, { spec }] = [topOf(looked), looked];
  const there = spec.target === target && spec.statistic === "rank" && spec.cells === "numbers";
  return there
    ? { target: null, statistic: "probability", cells: "tokens", scale: null }
    : { target, statistic: "rank", cells: "numbers", scale: null };
}

/** Acting along the token of the cell: in the region that is chosen, or at middle layers from the cell's position on. */
function actOf(looked: Looked, how: Act["how"], depth: number): Act {
  const { region, active, answer } = looked;
  const { layers } = answer.first;
  const of = (row: number): number => Math.min(layers[row] as number, depth - 1);
  const band = region ? region.rows.map(of) : BAND.map((share) => Math.round(share * depth));
  const pos = region ? region.columns[0] : active.pos;
  return { how, token: topOf(looked), with: null, strength: STRENGTHS[how], layers: [band[0] as number, band[1] as number], pos };
}
