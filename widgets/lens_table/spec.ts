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
/** What stands in a cell: its top token, its top word, or the number that colours it. */
export type CellText = "tokens" | "words" | "numbers";
/** One reading, two side by side, or the second less the first. */
export type View = "one" | "side" | "difference";

export interface Selection {
  /** The layer's number, not its row. */
  readonly layer: number;
  readonly pos: number;
}

/** What is done along a token's direction in the lens; a token is an id, or a text that Python is to look up. */
export interface Act {
  readonly how: "steer" | "swap" | "ablate";
  readonly token: number | string;
  readonly with: number | string | null;
  readonly strength: number;
  /** The first and the last layer. */
  readonly layers: readonly [number, number];
  /** From which position on. */
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
  /** The opposite corner of a region. */
  readonly to: Selection | null;
  readonly cells: CellText;
  /** Tokens after the prompt that the model has written. */
  readonly written: readonly number[];
  readonly act: Act | null;
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
  /** The tokens that end a text. */
  readonly ends: readonly number[];
  /** Whether tokens are told from words: without a tokenizer nobody can. */
  readonly words: boolean;
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
  to: null,
  cells: "tokens",
  written: [],
  act: null,
  scale: null,
};

/** A spec that a person may have written by hand: what is left out takes its default. */
export function readSpec(raw: Partial<Spec> | null | undefined): Spec {
  return { ...DEFAULT, ...raw };
}

export function changedFields(a: Spec, b: Spec): (keyof Spec)[] {
  return (Object.keys(DEFAULT) as (keyof Spec)[]).filter((key) => JSON.stringify(a[key]) !== JSON.stringify(b[key]));
}
