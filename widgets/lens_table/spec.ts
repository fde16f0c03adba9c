// The spec and the facts of the lens table, as WIRE.md has them.

export type StatisticName =
  | "probability"
  | "entropy"
  | "kl"
  | "rank"
  | "target_probability"
  | "cross_entropy"
  | "log_prob_difference"
  | "log_prob_difference_change";
export type DifferenceName =
  | "js"
  | "kl"
  | "total_variation"
  | "largest_change"
  | "target_probability"
  | "target_log_prob"
  | "entropy"
  | "rank";
export type Order = "last-first" | "first-first";
/** One reading, two side by side, or the second less the first. */
export type View = "one" | "side" | "difference";

export interface Selection {
  /** The layer's number, not its row. */
  readonly layer: number;
  readonly pos: number;
}

export interface Spec {
  readonly v: 1;
  readonly prompt: string;
  readonly lens: string;
  readonly statistic: StatisticName;
  readonly target: number | null;
  /** A second target. */
  readonly versus: number | null;
  /** The lens that reads the same prompt beside the first. */
  readonly second: string | null;
  /** The prompt that the same lens reads beside the first. */
  readonly other: string | null;
  readonly view: View;
  readonly difference: DifferenceName;
  readonly order: Order;
  readonly selection: Selection | null;
  readonly scale: readonly [number, number] | null;
}

export interface Facts {
  readonly v: 1;
  readonly live: boolean;
  readonly title: string;
  readonly model: string;
  readonly lenses: readonly string[];
  /** The site that each lens reads. */
  readonly sites: Readonly<Record<string, string>>;
  readonly layers: number;
  readonly vocab: number;
  readonly context: number;
  readonly dtype: string;
  readonly device: string;
}

const DEFAULT: Spec = {
  v: 1,
  prompt: "",
  lens: "logit",
  statistic: "probability",
  target: null,
  versus: null,
  second: null,
  other: null,
  view: "one",
  difference: "js",
  order: "last-first",
  selection: null,
  scale: null,
};

/** A spec that a person may have written by hand: what is left out takes its default. */
export function readSpec(raw: Partial<Spec> | null | undefined): Spec {
  return { ...DEFAULT, ...raw };
}

export function changedFields(a: Spec, b: Spec): (keyof Spec)[] {
  return (Object.keys(DEFAULT) as (keyof Spec)[]).filter((key) => JSON.stringify(a[key]) !== JSON.stringify(b[key]));
}
