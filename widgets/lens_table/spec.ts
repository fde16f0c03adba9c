// The spec and the facts of the lens table, as WIRE.md has them.

export type StatisticName = "probability" | "entropy" | "kl" | "rank";
export type Order = "last-first" | "first-first";

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
  readonly site: string;
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
