// What is measured and what came of it, in words.
import { milliseconds, nats, signed, whole } from "../shared/numbers.ts";
import { tokenText } from "../shared/tokens.ts";
import { metricLabel, metricUnit, siteLabel, type Facts, type MetricName, type Question } from "./spec.ts";
import { sizeOf, type Region } from "./region.ts";
import type { Sweep } from "./sweep.ts";

export const ofTheDifference = (sweep: Sweep): string =>
  sweep.header.direction === "denoise" ? "of the difference restored" : "of the difference removed";

/** A value of the metric, as it is read: ranks are whole, probabilities have no sign. */
export function metricValue(metric: MetricName, value: number): string {
  if (metric === "rank") return whole(value);
  if (metric === "prob") return value.toFixed(3);
  return metric === "kl" ? nats(value) : signed(value);
}

export function effectInWords(sweep: Sweep, row: number, column: number): string {
  const value = sweep.effect(row, column);
  if (Number.isNaN(value)) return "not known yet";
  const state = sweep.isExact(row, column) ? "exact" : "estimate";
  return `${nats(value)} ${sweep.hasShare ? ofTheDifference(sweep) : "change"}, ${state}`;
}

/** What is measured, such as `logit difference ·Mary − ·John`. */
export function measured(question: Question, sweep: Sweep | null): string {
  const name = (id: number | null): string => (id === null ? "" : sweep?.piece(id) === undefined ? `#${id}` : tokenText(sweep.piece(id)));
  const { metric, answer, against } = question;
  if (metric === "logit_diff") return `${metricLabel(metric)} ${name(answer)} − ${name(against)}`;
  return metric === "kl" || metric === "given" ? metricLabel(metric) : `${metricLabel(metric)} of ${name(answer)}`;
}

/** The scale's title: what 1 is, in the metric's own unit. */
export function scaleTitle(sweep: Sweep): string {
  const { base, target, metric } = sweep.header;
  const unit = metricUnit(metric);
  if (!sweep.hasShare) return `change of the ${metricLabel(metric)}${unit ? `, ${unit}` : ""}`;
  const size = Math.abs(target - base);
  const whole = `${metric === "prob" ? size.toFixed(3) : nats(size)}${unit ? ` ${unit}` : ""}`;
  return `share ${ofTheDifference(sweep)} (1 = ${whole})`;
}

const span = (one: string, many: string, first: number | string, last: number | string): string =>
  first === last ? `${one} ${first}` : `${many} ${first}–${last}`;

/** A region, such as `Layers 24–29`, and how many cells it has. */
export function regionInWords(sweep: Sweep, { rows, columns }: Region): { layers: string; columns: string; cells: string } {
  const { layers } = sweep.header;
  const size = sizeOf({ rows, columns });
  const [first, last] = [layers[rows[0]] as number, layers[rows[1]] as number];
  return {
    layers: span("Layer", "Layers", first, last),
    columns: sweep.over === "head" ? span("head", "heads", ...columns) : span("position", "positions", ...columns),
    cells: size === 1 ? "" : `${whole(size)} cells`,
  };
}

/** How far a sweep is, or how it went. */
export function progressInWords(sweep: Sweep, { dtype, device, live }: Facts): string {
  const { done, total, left, final } = sweep;
  const exact = `${whole(done)} of ${whole(total)} cells exact`;
  if (!final) return left === null ? exact : `${exact} · about ${left < 1 ? "1 s" : `${Math.round(left)} s`} left`;
  const facts = [dtype, device];
  if (final.stopped) return [`stopped: ${exact} · Enter in a prompt goes on`, ...facts].join(" · ");
  const took = live ? ` in ${milliseconds(final.ms)}` : "";
  const engine = final.why ? `${final.engine}: ${final.why}` : final.engine;
  return [...facts, `${whole(done)} cells${took}`, engine].join(" · ");
}

/** What is patched, and what is measured. */
export function sweptInWords(sweep: Sweep): string {
  const { site, direction } = sweep.header;
  const source = direction === "denoise" ? "clean into corrupt" : "corrupt into clean";
  return `${siteLabel(site)} · ${source} · ${measured(sweep.header, sweep)}`;
}
