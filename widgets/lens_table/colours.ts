// What the colours of the pictures say, and the legend with them.
import { diverging, sequential, type Scale, type Theme } from "../shared/colour.ts";
import { differenceOf } from "./differences.ts";
import type { Legended } from "./legend.ts";
import type { Paints } from "./pictures.ts";
import type { Answer } from "./source.ts";
import type { Facts, Spec, View } from "./spec.ts";
import { fittedEnds, statisticOf, type Ends } from "./statistic.ts";

/** `view` is the one that is shown: the spec's scale is its. */
export function coloursOf(spec: Spec, facts: Facts, view: View, theme: Theme): { paints: Paints; legend: Legended } {
  const [own, apart] = [statisticOf(spec.statistic), differenceOf(spec.difference)];
  const scaleOf = (signed: boolean): Scale => (signed ? diverging(theme) : sequential(theme));
  const apartIsShown = view === "difference";
  const table = { statistic: own, ends: (!apartIsShown && spec.scale) || own.ends(facts), scale: scaleOf(own.signed) };
  const difference = { statistic: apart, ends: (apartIsShown && spec.scale) || apart.ends(facts), scale: scaleOf(apart.signed) };
  const legend = apartIsShown
    ? { ...difference, corner: "both say the same token" }
    : { ...table, corner: "same token as the final prediction" };
  return { paints: { table, difference }, legend };
}

/** The ends that what is shown has. */
export function fitted(spec: Spec, { first, second, difference }: Answer, view: View): Ends {
  if (view === "difference" && difference) return fittedEnds([difference], differenceOf(spec.difference));
  return fittedEnds(view === "side" && second ? [first, second] : [first], statisticOf(spec.statistic));
}
