// The spec and the facts of the circuit graph, as WIRE.md has them.

export interface Selection {
  readonly node: string;
  readonly kind: string;
  readonly layer: number;
  readonly pos: number;
  readonly feature: number;
}

export type Groups = Readonly<Record<string, readonly string[]>>;

export interface Spec {
  readonly v: 1;
  /** The shares of the influence that pruning keeps: of the nodes', then of the edges' between them. */
  readonly nodes: number;
  readonly edges: number;
  readonly selection: Selection | null;
  /** Drawn whatever the thresholds say. */
  readonly pinned: readonly string[];
  /** Supernodes: a name, and the nodes that it stands for. */
  readonly groups: Groups;
  /** The groups that are drawn as one node. */
  readonly folded: readonly string[];
  /** The features that are taken away, together. */
  readonly ablated: readonly string[];
  readonly placebo: boolean;
}

export interface Facts {
  readonly v: 1;
  readonly live: boolean;
  readonly title: string;
  /** The model that is ablated, or null where none was given. */
  readonly model: string | null;
  readonly prompt: string;
  readonly about: string;
  /** What of a larger graph is here, in words, or null. */
  readonly cut: string | null;
  readonly dtype: string;
  readonly device: string;
}

const DEFAULT: Spec = { v: 1, nodes: 0.8, edges: 0.98, selection: null, pinned: [], groups: {}, folded: [], ablated: [], placebo: true };

/** A spec that a person may have written by hand: what is left out takes its default. */
export function readSpec(raw: Partial<Spec> | null | undefined): Spec {
  return { ...DEFAULT, ...raw };
}

export function changedFields(a: Spec, b: Spec): (keyof Spec)[] {
  return (Object.keys(DEFAULT) as (keyof Spec)[]).filter((key) => JSON.stringify(a[key]) !== JSON.stringify(b[key]));
}

/** All of them pinned or, where they all are, none of them. */
export function toggled(pinned: readonly string[], nodes: readonly string[]): string[] {
  const all = nodes.every((node) => pinned.includes(node));
  const others = pinned.filter((node) => !nodes.includes(node));
  return all ? others : [...others, ...nodes];
}

type Grouping = Pick<Spec, "groups" | "folded">;

/** Some nodes under a name, drawn as one; a node leaves the group in which it was, and a group without nodes goes. */
export function grouped({ groups, folded }: Grouping, name: string, nodes: readonly string[]): Grouping {
  const others = Object.entries(groups)
    .filter(([other]) => other !== name)
    .map(([other, of]) => [other, of.filter((node) => !nodes.includes(node))] as const)
    .filter(([, of]) => of.length > 0);
  const made = Object.fromEntries([...others, [name, [...nodes]]]);
  return { groups: made, folded: [...folded.filter((other) => other in made && other !== name), name] };
}

export function ungrouped({ groups, folded }: Grouping, name: string): Grouping {
  const { [name]: _, ...rest } = groups;
  return { groups: rest, folded: folded.filter((other) => other !== name) };
}

export function renamed({ groups, folded }: Grouping, from: string, to: string): Grouping {
  if (from === to || !to || to in groups || !(from in groups)) return { groups, folded };
  const entries = Object.entries(groups).map(([name, of]) => [name === from ? to : name, of] as const);
  return { groups: Object.fromEntries(entries), folded: folded.map((name) => (name === from ? to : name)) };
}

export const foldedAgain = ({ groups, folded }: Grouping, name: string): Grouping => ({
  groups,
  folded: folded.includes(name) ? folded.filter((other) => other !== name) : [...folded, name],
});

/** A name that no group has yet, as a proposal. */
export function freshName(groups: Groups): string {
  let count = Object.keys(groups).length + 1;
  while (`group ${count}` in groups) count++;
  return `group ${count}`;
}

/** What is looked at, such as `SmolLM2 · 1,321 nodes, 9,204 edges`. */
export const aboutOf = ({ model, about }: Facts): string => (model === null ? about : `${model} · ${about}`);

/** What the foot says: where it is computed, and what of a larger graph is here. */
export const footOf = ({ model, cut, dtype, device }: Facts): string =>
  [cut && `the most influential ${cut}`, dtype, device, model === null && "give it a model to ablate"].filter(Boolean).join(" · ");
