// The statistics that can colour the cells of a reading: where a value lies on its scale, and how it reads.
import { nats, probability, signed, whole } from "../shared/numbers.ts";
import type { Cells } from "./cells.ts";
import type { Facts, StatisticName } from "./spec.ts";
import type { Table } from "./table.ts";

export type Ends = readonly [low: number, high: number];

export interface Statistic<Name extends string = string, C extends Cells = Cells> {
  readonly name: Name;
  /** In the menu. */
  readonly label: string;
  /** Beside the scale, and in the chart. */
  readonly title: string;
  readonly unit: string;
  /** The small number is the strong colour: rank 0 is the best there is. */
  readonly smallIsStrong: boolean;
  /** Whether the scale runs both ways from nothing. */
  readonly signed: boolean;
  /** Fixed ends, so that the picture does not change its meaning while one types. */
  ends(facts: Facts): Ends;
  value(cells: C, pos: number, row: number): number;
  /** Where a value lies on a scale: 0 is its lower end, 1 its upper. */
  place(value: number, ends: Ends): number;
  show(value: number): string;
}

/** Twenty nats are a factor of e^20 between the two distributions: what is further away is all the same. */
export const KL_END = 20;
const DIFFERENCE_END = 10;
const CHANGE_END = 5;

export const place = (value: number, [low, high]: Ends): number => (value - low) / (high - low);
const plain = { smallIsStrong: false, signed: false, place };

export type TableStatistic = Statistic<StatisticName, Table>;

export const STATISTICS: readonly TableStatistic[] = [
  {
    ...plain,
    name: "probability",
    label: "probability",
    title: "probability of the top token",
    unit: "",
    ends: () => [0, 1],
    value: (table, pos, row) => table.topProb(pos, row),
    show: probability,
  },
  {
    ...plain,
    name: "entropy",
    label: "entropy",
    title: "entropy",
    unit: "nats",
    ends: (facts) => [0, Math.log(facts.vocab)],
    value: (table, pos, row) => table.entropy(pos, row),
    show: nats,
  },
  {
    ...plain,
    name: "kl",
    label: "KL to final",
    title: "KL to the final prediction",
    unit: "nats",
    ends: () => [0, KL_END],
    value: (table, pos, row) => table.kl(pos, row),
    show: nats,
  },
  {
    ...plain,
    name: "rank",
    label: "rank of target",
    title: "rank of the target, log scale",
    unit: "",
    smallIsStrong: true,
    ends: (facts) => [0, facts.vocab - 1],
    value: (table, pos, row) => table.targetRank(pos, row),
    place: (value, [low, high]) => 1 - place(Math.log1p(value), [Math.log1p(low), Math.log1p(high)]),
    show: whole,
  },
  {
    ...plain,
    name: "target_probability",
    label: "p(target)",
    title: "probability of the target",
    unit: "",
    ends: () => [0, 1],
    value: (table, pos, row) => table.targetProb(pos, row),
    show: probability,
  },
  {
    ...plain,
    name: "cross_entropy",
    label: "cross-entropy of target",
    title: "cross-entropy of the target",
    unit: "nats",
    ends: () => [0, KL_END],
    value: (table, pos, row) => -table.targetLogProb(pos, row),
    show: nats,
  },
  {
    ...plain,
    name: "log_prob_difference",
    label: "target against second",
    title: "log-probability of the target less the second's",
    unit: "nats",
    signed: true,
    ends: () => [-DIFFERENCE_END, DIFFERENCE_END],
    value: (table, pos, row) => table.logProbDifference(pos, row),
    show: signed,
  },
  {
    ...plain,
    name: "log_prob_difference_change",
    label: "its change by layer",
    title: "change of that difference from the layer before",
    unit: "nats",
    signed: true,
    ends: () => [-CHANGE_END, CHANGE_END],
    value: (table, pos, row) => (row ? table.logProbDifference(pos, row) - table.logProbDifference(pos, row - 1) : Number.NaN),
    show: signed,
  },
];

/** Those that need a second target. */
export const needsVersus = (name: StatisticName): boolean => name.startsWith("log_prob_difference");

export function statisticOf(name: StatisticName): TableStatistic {
  return STATISTICS.find((s) => s.name === name) ?? (STATISTICS[0] as TableStatistic);
}

/** The ends that the data has, for the button that fits the scale to it; as far to either side where it runs both ways. */
export function fittedEnds<C extends Cells>(sheets: readonly C[], statistic: Statistic<string, C>): Ends {
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  for (const cells of sheets) {
    for (let pos = 0; pos < cells.positions; pos++) {
      for (let row = 0; row < cells.rows; row++) {
        const value = statistic.value(cells, pos, row);
        if (!Number.isFinite(value)) continue;
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
  }
  if (statistic.signed) {
    const most = Math.max(Math.abs(low), Math.abs(high));
    return Number.isFinite(most) && most > 0 ? [-most, most] : [-1, 1];
  }
  // One value alone has no width to colour.
  return low < high ? [low, high] : [Math.min(low, 0), Math.max(high, 0) || 1];
}
