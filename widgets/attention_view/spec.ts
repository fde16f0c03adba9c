// The spec and the facts of the attention view, as WIRE.md has them.

export type Show = "pattern" | "value-weighted";
export type Kind = "previous" | "induction" | "duplicate";
export type Pick = "all" | Kind;
export type By = "zero" | "mean";
/** A layer's number and a head's. */
export type Head = readonly [layer: number, head: number];

export interface Selection {
  readonly layer: number;
  readonly head: number;
  /** The query's position, and the key's; null where no cell is chosen. */
  readonly pos: number | null;
  readonly key: number | null;
}

export interface Spec {
  readonly v: 1;
  readonly prompt: string;
  readonly show: Show;
  readonly hide_first: boolean;
  readonly pick: Pick;
  readonly by: By;
  readonly selection: Selection | null;
  readonly ablated: readonly Head[];
}

export interface Facts {
  readonly v: 1;
  readonly live: boolean;
  readonly title: string;
  readonly model: string;
  readonly layers: readonly number[];
  readonly heads: number;
  /** Why there are no patterns, or null. */
  readonly why: string | null;
  readonly vocab: number;
  readonly context: number | null;
  readonly dtype: string;
  readonly device: string;
}

const DEFAULT: Spec = {
  v: 1,
  prompt: "",
  show: "pattern",
  hide_first: false,
  pick: "all",
  by: "zero",
  selection: null,
  ablated: [],
};

/** A spec that a person may have written by hand: what is left out takes its default. */
export function readSpec(raw: Partial<Spec> | null | undefined): Spec {
  return { ...DEFAULT, ...raw };
}

export function changedFields(a: Spec, b: Spec): (keyof Spec)[] {
  return (Object.keys(DEFAULT) as (keyof Spec)[]).filter((key) => JSON.stringify(a[key]) !== JSON.stringify(b[key]));
}

/** The name of one way to show the patterns, as on the wire. */
export function modeOf({ show, hide_first }: { readonly show: Show; readonly hide_first: boolean }): string {
  return `${show}/${hide_first ? "hidden" : "shown"}`;
}

export const nameOf = ([layer, head]: Head): string => `${layer}.${head}`;
export const sameHead = (a: Head | null, b: Head | null): boolean => a?.[0] === b?.[0] && a?.[1] === b?.[1];
