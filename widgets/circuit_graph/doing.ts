// What one can do with the nodes that are chosen or gathered: each as a change of the spec, or null where it does nothing.
import type { Network } from "./network.ts";
import { foldedAgain, grouped, renamed, toggled, ungrouped, type Spec } from "./spec.ts";

type Change = Partial<Spec> | null;

/** The group in which all of these nodes are, or null. */
export function groupOf({ groups }: Pick<Spec, "groups">, names: readonly string[]): string | null {
  return Object.entries(groups).find(([, of]) => names.length > 0 && names.every((name) => of.includes(name)))?.[0] ?? null;
}

export const pinning = (spec: Spec, names: readonly string[]): Change => (names.length ? { pinned: toggled(spec.pinned, names) } : null);

/** Makes a group of what is gathered and chooses it, or gives the chosen one another name. */
export function naming(network: Network, spec: Spec, gathered: readonly number[], names: readonly string[], name: string): Change {
  const old = groupOf(spec, names);
  if (!gathered.length) return old === null ? null : renamed(spec, old, name);
  const lead = gathered.reduce((most, node) => ((network.influence[node] as number) > (network.influence[most] as number) ? node : most));
  return { ...grouped(spec, name, gathered.map((node) => network.names[node] as string)), selection: network.selection(lead) };
}

export function folding(spec: Spec, names: readonly string[]): Change {
  const group = groupOf(spec, names);
  return group === null ? null : foldedAgain(spec, group);
}

export function ungrouping(spec: Spec, names: readonly string[]): Change {
  const group = groupOf(spec, names);
  return group === null ? null : ungrouped(spec, group);
}

/** Takes the features among them away, together, or gives them back; of a folded group also those that are not drawn. */
export function ablating(network: Network, spec: Spec, names: readonly string[]): Change {
  const { ablated, folded, groups } = spec;
  const group = groupOf(spec, names);
  const all = group !== null && folded.includes(group) ? (groups[group] as readonly string[]) : names;
  const features = all.filter((name) => network.isFeature(network.number(name) ?? -1));
  if (!features.length) return null;
  const same = features.length === ablated.length && features.every((name) => ablated.includes(name));
  return { ablated: same ? [] : features };
}
