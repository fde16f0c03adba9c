// The spec and the facts of the feature browser, as WIRE.md has them.
import { whole } from "../shared/numbers.ts";

/** What the list is ordered by: `prompt` is the share of a feature's maximum that it reaches on the prompt, `token` at the chosen token. */
export type Sort = "number" | "density" | "max" | "peakedness" | "prompt" | "token";
export type Order = "down" | "up";
/** Which of a feature's tokens must hold what is looked for: those that it promotes, or those on which it fires. */
export type FindBy = "promotes" | "fires";
export type Only = "all" | "pinned";
export type SteerBy = "scale" | "add";

export interface Selection {
  readonly feature: number;
  /** A token of the prompt, or null. */
  readonly pos: number | null;
}

/** `scale` multiplies what the feature is on the prompt; `add` adds a share of its maximum, at the chosen token or at the last. */
export interface Steer {
  readonly by: SteerBy;
  readonly amount: number;
}

export interface Spec {
  readonly v: 1;
  readonly prompt: string;
  readonly find: string;
  readonly by: FindBy;
  readonly only: Only;
  readonly sort: Sort;
  readonly order: Order;
  readonly selection: Selection | null;
  /** A band of activations, counted from the lowest, or null for the top examples. */
  readonly band: number | null;
  /** So many tokens on either side of an example's peak, or null for all that are kept. */
  readonly window: number | null;
  /** Whether the colours of the prompt end at its own strongest token, and not at the feature's maximum. */
  readonly fit: boolean;
  readonly steer: Steer;
  readonly pinned: readonly number[];
  /** By feature. */
  readonly notes: Readonly<Record<string, string>>;
}

export interface Facts {
  readonly v: 1;
  readonly live: boolean;
  readonly title: string;
  /** The model that answers for a prompt, or null where none was given. */
  readonly model: string | null;
  /** What is looked at, such as `mlp_post.20`. */
  readonly about: string;
  readonly unit: "neuron" | "feature";
  /** Before a feature's number, such as `20.`. */
  readonly prefix: string;
  readonly features: number;
  /** How many tokens the index has seen. */
  readonly tokens: number;
  readonly dtype: string;
  readonly device: string;
}

export const STEER: Steer = { by: "scale", amount: 1 };

const DEFAULT: Spec = {
  v: 1,
  prompt: "",
  find: "",
  by: "promotes",
  only: "all",
  sort: "peakedness",
  order: "down",
  selection: null,
  band: null,
  window: 8,
  fit: false,
  steer: STEER,
  pinned: [],
  notes: {},
};

/** A spec that a person may have written by hand: what is left out takes its default. */
export function readSpec(raw: Partial<Spec> | null | undefined): Spec {
  return { ...DEFAULT, ...raw };
}

export function changedFields(a: Spec, b: Spec): (keyof Spec)[] {
  return (Object.keys(DEFAULT) as (keyof Spec)[]).filter((key) => JSON.stringify(a[key]) !== JSON.stringify(b[key]));
}

/** Whether nothing is changed in the model. */
export const isNeutral = ({ by, amount }: Steer): boolean => amount === neutral(by);
export const neutral = (by: SteerBy): number => (by === "scale" ? 1 : 0);

/** The token at which something is added, or null: at the last, or, scaled, wherever it fires. */
export const steeredAt = ({ steer, selection }: Spec): number | null => (steer.by === "add" ? (selection?.pos ?? null) : null);

export const nameOf = (facts: Facts, feature: number): string => `${facts.prefix}${feature}`;

/** What is looked at, such as `SmolLM2 · mlp_post.20 · 1,536 neurons · 20,320 tokens`. */
export function aboutOf({ model, about, features, unit, tokens }: Facts): string {
  return [...(model === null ? [] : [model]), about, `${whole(features)} ${unit}s`, `${whole(tokens)} tokens`].join(" · ");
}

/** The feature that a text names by its number, such as `1144` or `20.1144`. */
export function numbered(facts: Facts, text: string): number | null {
  const given = text.trim();
  const bare = facts.prefix && given.startsWith(facts.prefix) ? given.slice(facts.prefix.length) : given;
  const number = /^\d{1,9}$/.test(bare) ? Number(bare) : Number.NaN;
  return number < facts.features ? number : null;
}

/** A pin or its absence. */
export const toggled = (pinned: readonly number[], feature: number): number[] =>
  pinned.includes(feature) ? pinned.filter((other) => other !== feature) : [...pinned, feature];

/** Notes with one changed; an empty one is none. */
export function noted(notes: Spec["notes"], feature: number, text: string): Record<string, string> {
  const { [String(feature)]: _, ...rest } = notes;
  return text.trim() ? { ...rest, [String(feature)]: text } : rest;
}
