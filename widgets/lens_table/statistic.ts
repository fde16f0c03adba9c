// The four statistics that can colour the cells: where a value lies on its scale, and how it reads.
import { nats, probability, whole } from "../shared/numbers.ts";
import type { Facts, Spec, StatisticName } from "./spec.ts";
import type { Table } from "./table.ts";

export type Ends = readonly [low: number, high: number];

export interface Statistic {
  readonly name: StatisticName;
  /** On the switch. */
  readonly label: string;
  /** Beside the scale, and in the chart. */
  readonly title: string;
  readonly unit: string;
  /** The small number is the strong colour: rank 0 is the best there is. */
  readonly smallIsStrong: boolean;
  /** Fixed ends, so that the picture does not change its meaning while one types. */
  ends(facts: Facts): Ends;
  value(table: Table, pos: number, row: number): number;
  /** Where a value lies on a scale: 0 is the colour of the page, 1 the strongest. */
  place(value: number, ends: Ends): number;
  show(value: number): string;
}

/** Twenty nats are a factor of e^20 between the two distributions: what is further away is all the same. */
const KL_END = 20;

const between = (value: number, [low, high]: Ends): number => (value - low) / (high - low);

export const STATISTICS: readonly Statistic[] = [
  {
    name: "probability",
    label: "probability",
    title: "probability of the top token",
    unit: "",
    smallIsStrong: false,
    ends: () => [0, 1],
    value: (table, pos, row) => table.topProb(pos, row),
    place: between,
    show: probability,
  },
  {
    name: "entropy",
    label: "entropy",
    title: "entropy",
    unit: "nats",
    smallIsStrong: false,
    ends: (facts) => [0, Math.log(facts.vocab)],
    value: (table, pos, row) => table.entropy(pos, row),
    place: between,
    show: nats,
  },
  {
    name: "kl",
    label: "KL to final",
    title: "KL to the final prediction",
    unit: "nats",
    smallIsStrong: false,
    ends: () => [0, KL_END],
    value: (table, pos, row) => table.kl(pos, row),
    place: between,
    show: nats,
  },
  {
    name: "rank",
    label: "rank of target",
    title: "rank of the target, log scale",
    unit: "",
    smallIsStrong: true,
    ends: (facts) => [0, facts.vocab - 1],
    value: (table, pos, row) => table.targetRank(pos, row),
    place: (value, [low, high]) => 1 - between(Math.log1p(value), [Math.log1p(low), Math.log1p(high)]),
    show: whole,
  },
];

export function statisticOf(name: StatisticName): Statistic {
  return STATISTICS.find((s) => s.name === name) ?? (STATISTICS[0] as Statistic);
}

export function endsOf(spec: Spec, facts: Facts): Ends {
  return spec.scale ?? statisticOf(spec.statistic).ends(facts);
}

/** The ends that the data of a table has, for the button that fits the scale to it. */
export function fittedEnds(table: Table, statistic: Statistic): Ends {
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  for (let pos = 0; pos < table.positions; pos++) {
    for (let row = 0; row < table.rows; row++) {
      const value = statistic.value(table, pos, row);
      if (!Number.isFinite(value)) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  // One value alone has no width to colour.
  return low < high ? [low, high] : [Math.min(low, 0), Math.max(high, 0) || 1];
}
