// The spec and the facts of the patch grid, as WIRE.md has them.
import type { Piece } from "../shared/tokens.ts";

export type Direction = "denoise" | "noise";
export type MetricName = "logit_diff" | "prob" | "log_prob" | "rank" | "kl" | "given";

/** A cell: of a grid over heads `pos` is null, of one over positions `head` is. */
export interface Place {
  /** The layer's number. */
  readonly layer: number;
  readonly pos: number | null;
  readonly head: number | null;
}

/** What a sweep answers. */
export interface Question {
  readonly clean: string;
  readonly corrupt: string;
  readonly site: string;
  readonly direction: Direction;
  readonly metric: MetricName;
  readonly answer: number | null;
  readonly against: number | null;
}

/** One patch that was tried, with what came of it. */
export interface Trial extends Question {
  readonly selection: Place;
  readonly to: Place | null;
  readonly value: number;
  readonly share: number;
}

export interface Spec extends Question {
  readonly v: 1;
  readonly selection: Place | null;
  /** The corner of a region that lies opposite the selection. */
  readonly to: Place | null;
  /** Newest first. */
  readonly tried: readonly Trial[];
  readonly scale: readonly [number, number] | null;
}

export interface Facts {
  readonly v: 1;
  readonly live: boolean;
  readonly title: string;
  readonly model: string;
  readonly layers: number;
  readonly sites: readonly string[];
  /** Those of them that are patched head by head. */
  readonly headed: readonly string[];
  readonly dtype: string;
  readonly device: string;
  /** Of a frozen page: what was patched, with its result, since nobody is there to be asked. */
  readonly patched?: readonly Known[];
}

export interface Known {
  readonly layers: readonly number[];
  readonly columns: readonly number[];
  readonly value: number;
  readonly odds: readonly { readonly id: number; readonly before: number; readonly after: number }[];
  readonly pieces: readonly (readonly [number, Piece])[];
}

const DEFAULT: Spec = {
  v: 1,
  clean: "",
  corrupt: "",
  site: "resid_pre",
  direction: "denoise",
  metric: "logit_diff",
  answer: null,
  against: null,
  selection: null,
  to: null,
  tried: [],
  scale: null,
};

const QUESTION = ["clean", "corrupt", "site", "direction", "metric", "answer", "against"] as const;

/** A spec that a person may have written by hand: what is left out takes its default. */
export function readSpec(raw: Partial<Spec> | null | undefined): Spec {
  return { ...DEFAULT, ...raw };
}

export function changedFields(a: Spec, b: Spec): (keyof Spec)[] {
  return (Object.keys(DEFAULT) as (keyof Spec)[]).filter((key) => JSON.stringify(a[key]) !== JSON.stringify(b[key]));
}

export function questionOf(spec: Question): Question {
  const { clean, corrupt, site, direction, metric, answer, against } = spec;
  return { clean, corrupt, site, direction, metric, answer, against };
}

export function sameQuestion(a: Question | null, b: Question | null): boolean {
  return a !== null && b !== null && QUESTION.every((key) => a[key] === b[key]);
}

export function asksAnew(fields: readonly (keyof Spec)[]): boolean {
  return fields.some((field) => (QUESTION as readonly string[]).includes(field));
}

export const siteLabel = (site: string): string => (site === "z" ? "head z" : site);

const METRIC_LABELS: Record<MetricName, string> = {
  logit_diff: "logit difference",
  prob: "probability",
  log_prob: "log probability",
  rank: "rank",
  kl: "KL divergence",
  given: "the given metric",
};
export const metricLabel = (metric: MetricName): string => METRIC_LABELS[metric];

/** What the metric counts in, after a number. */
export function metricUnit(metric: MetricName): string {
  if (metric === "logit_diff") return "logits";
  return metric === "log_prob" || metric === "kl" ? "nats" : "";
}

/**
 * The spec with another token to measure: alone it is measured by its probability, two of them by the difference of
 * their logits.
 */
export function withToken(spec: Spec, role: "answer" | "against", id: number): Partial<Spec> {
  if (role === "answer") {
    const alone = spec.metric === "kl" || spec.metric === "given";
    // A difference of a token from itself would be nothing everywhere.
    const against = spec.against === id ? spec.answer : spec.against;
    return alone ? { metric: "prob", answer: id, against: null } : { answer: id, against };
  }
  const answer = spec.answer === id ? spec.against : spec.answer;
  return answer === null ? {} : { metric: "logit_diff", answer, against: id };
}
