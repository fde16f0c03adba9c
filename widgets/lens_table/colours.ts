// What the colours of the pictures say, and the legend with them.
import { diverging, sequential, type Theme } from "../shared/colour.ts";
import type { Comparing, DifferenceStatistic } from "./compared.ts";
import type { Legended } from "./legend.ts";
import type { Paints } from "./pictures.ts";
import type { Answer } from "./source.ts";
import type { Facts, Spec, View } from "./spec.ts";
import { fittedEnds, statisticOf, type Ends, type TableStatistic } from "./statistic.ts";

const differenceOf = (spec: Spec, comparing: Comparing | null): DifferenceStatistic | undefined =>
  comparing?.differences.find(({ name }) => name === spec.difference);

/** `view` is the one that is shown: the spec's scale is its. */
export function coloursOf(spec: Spec, facts: Facts, view: View, theme: Theme, comparing: Comparing | null): { paints: Paints; legend: Legended } {
  const apartIsShown = view === "difference";
  const paintOf = <S extends TableStatistic | DifferenceStatistic>(statistic: S, shown: boolean) => ({
    statistic,
    ends: (shown && spec.scale) || statistic.ends(facts),
    scale: statistic.signed ? diverging(theme) : sequential(theme),
    numbers: spec.cells === "numbers",
  });
  const table = paintOf(statisticOf(spec.statistic), !apartIsShown);
  const apart = differenceOf(spec, comparing);
  const difference = apart ? paintOf(apart, apartIsShown) : null;
  const legend = apartIsShown && difference ? { ...difference, corner: "both say the same token" } : { ...table, corner: "same token as the final prediction" };
  return { paints: { table, difference }, legend };
}

/** The ends that what is shown has. */
export function fitted(spec: Spec, { first, second, difference }: Answer, view: View, comparing: Comparing | null): Ends {
  const apart = differenceOf(spec, comparing);
  if (view === "difference" && difference && apart) return fittedEnds([difference], apart);
  return fittedEnds(view === "side" && second ? [first, second] : [first], statisticOf(spec.statistic));
}
