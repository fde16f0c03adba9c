// What a spec asks for: the question to Python, and which rows its answer has.
import type { Facts, Selection, Spec, View } from "./spec.ts";
import type { Question } from "./source.ts";
import { needsVersus } from "./statistic.ts";

export const compares = (spec: Spec): boolean => spec.view !== "one" && (spec.second !== null || spec.other !== null);

export function questionOf(spec: Spec): Question {
  const { prompt, target, versus, lens, written } = spec;
  const beside = compares(spec) ? { second: spec.second, other: spec.other } : { second: null, other: null };
  return { prompt, target, versus, lens, written, words: spec.cells === "words", ...beside };
}

/** What is read: the lens's own site; for two lenses whose sites differ `resid_pre`, so that rows hold the same states. */
export function siteOf(spec: Spec, facts: Facts): string {
  const own = facts.sites[spec.lens] ?? "resid_post";
  const second = compares(spec) && spec.second !== null ? facts.sites[spec.second] : own;
  return own === second ? own : "resid_pre";
}

/** The model's own prediction is the last layer's row for `resid_post`, and one more row for every other site. */
const rowsOf = (site: string, facts: Facts): number => facts.layers + (site === "resid_post" ? 0 : 1);

/** The number that a chosen layer has where another site is read: rows are counted from the last, which is the same. */
export function carried(selection: Selection, from: string, to: string, facts: Facts): Selection {
  return { ...selection, layer: Math.max(0, selection.layer + rowsOf(to, facts) - rowsOf(from, facts)) };
}

/** Another spec, with its chosen cell on the same state as before. */
export function keepingItsCell(before: Spec, after: Spec, facts: Facts): Spec {
  const [from, to] = [siteOf(before, facts), siteOf(after, facts)];
  if (from === to || after.selection !== before.selection) return after;
  const there = (cell: Selection | null): Selection | null => cell && carried(cell, from, to, facts);
  return { ...after, selection: there(after.selection), to: there(after.to) };
}

/** What the two sides are called. */
export function sideNames({ lens, second, other }: Pick<Question, "lens" | "second" | "other">): readonly [string, string] {
  return other === null ? [lens, second ?? lens] : ["first", "second"];
}

// What a choice changes

/** The lens that was beside it changes places with it. */
export const withLens = (spec: Spec, lens: string): Partial<Spec> => ({ lens, second: spec.second === lens ? spec.lens : spec.second });

/** A comparison of nothing yet begins with another lens; where there is one only, with the prompt itself, to be edited. */
export function withView({ lens, second, other, prompt, scale, view: before }: Spec, view: View, lenses: readonly string[]): Partial<Spec> {
  const patch = { view, scale: (view === "difference") === (before === "difference") ? scale : null };
  if (view === "one" || second !== null || other !== null) return patch;
  const another = lenses.find((name) => name !== lens);
  return another === undefined ? { ...patch, other: prompt } : { ...patch, second: another };
}

export function withoutTargets({ statistic }: Spec): Partial<Spec> {
  return { target: null, versus: null, ...(needsVersus(statistic) ? { statistic: "probability", scale: null } : {}) };
}
