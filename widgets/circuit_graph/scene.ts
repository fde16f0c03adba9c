// What is drawn of the graph: what pruning leaves and what is pinned, with each folded group as one item.
import { pruned, type Kept } from "./influence.ts";
import type { Network } from "./network.ts";
import type { Spec } from "./spec.ts";

export interface Item {
  /** The group that it stands for, or null of a single node. */
  readonly group: string | null;
  /** The nodes that it stands for, as far as they are drawn. */
  readonly nodes: readonly number[];
  /** The most influential of them. */
  readonly lead: number;
  readonly influence: number;
}

export interface Link {
  /** The items at its ends. */
  readonly source: number;
  readonly target: number;
  /** How many edges it stands for. */
  readonly edges: number;
  /** The sum of their effects, which has a unit only where the target is a single node. */
  readonly weight: number;
  /** Which part it is of all that reaches its target, with its sign. */
  readonly share: number;
  /** How much of the influence goes along it. */
  readonly flow: number;
}

export class Scene {
  readonly items: readonly Item[];
  readonly links: readonly Link[];
  /** Of each node the item that stands for it, or −1. */
  readonly itemOf: Int32Array;
  /** Of each item the numbers of its links, the largest flow first. */
  readonly into: readonly (readonly number[])[];
  readonly outOf: readonly (readonly number[])[];
  /** The groups that are open, and the items in each. */
  readonly open: readonly (readonly [name: string, items: readonly number[]])[];

  constructor(
    readonly network: Network,
    readonly kept: Kept,
    spec: Pick<Spec, "groups" | "folded">,
  ) {
    this.itemOf = new Int32Array(network.count).fill(-1);
    this.items = itemsOf(network, kept, spec, this.itemOf);
    this.links = linksOf(network, kept, this.items, this.itemOf);
    const [into, outOf] = [this.items.map((): number[] => []), this.items.map((): number[] => [])];
    const order = this.links.map((_, i) => i).sort((a, b) => (this.links[b] as Link).flow - (this.links[a] as Link).flow);
    for (const at of order) {
      const { source, target } = this.links[at] as Link;
      (into[target] as number[]).push(at);
      (outOf[source] as number[]).push(at);
    }
    [this.into, this.outOf] = [into, outOf];
    this.open = Object.entries(spec.groups)
      .map(([name, of]) => [name, of.map((node) => this.of(network.number(node))).filter((at) => at !== null)] as const)
      .filter(([, items]) => items.some((at) => this.item(at).group === null));
  }

  get nodes(): number {
    return count(this.kept.nodes);
  }
  get edges(): number {
    return count(this.kept.edges);
  }

  link(at: number): Link {
    return this.links[at] as Link;
  }
  item(at: number): Item {
    return this.items[at] as Item;
  }

  /** The item that stands for a node, or null where it is not drawn. */
  of(node: number | undefined): number | null {
    const at = node === undefined ? -1 : (this.itemOf[node] as number);
    return at < 0 ? null : at;
  }

  /** The most influential node that is drawn at a layer and position, or undefined. */
  at(layer: number | undefined, pos: number | undefined): number | undefined {
    const { network } = this;
    const there = this.items.flatMap(({ nodes }) => nodes).filter((node) => network.layer[node] === layer && network.pos[node] === pos);
    return there.sort((a, b) => (network.influence[b] as number) - (network.influence[a] as number))[0];
  }
}

const count = (flags: Uint8Array): number => flags.reduce((sum, flag) => sum + flag, 0);

/** What pruning leaves, and what is pinned with all its edges to what is drawn. */
export function shown(network: Network, { nodes, edges, pinned }: Pick<Spec, "nodes" | "edges" | "pinned">): Kept {
  const kept = pruned(network, nodes, edges);
  const pins = pinned.map((name) => network.number(name)).filter((node) => node !== undefined);
  for (const node of pins) kept.nodes[node] = 1;
  for (const node of pins) {
    for (const edge of [...network.into(node), ...network.outOf(node)]) {
      if (kept.nodes[network.source[edge] as number] && kept.nodes[network.target[edge] as number]) kept.edges[edge] = 1;
    }
  }
  return kept;
}

function itemsOf(network: Network, kept: Kept, { groups, folded }: Pick<Spec, "groups" | "folded">, itemOf: Int32Array): Item[] {
  const items: Item[] = [];
  const { influence } = network;
  for (const name of folded) {
    const nodes = (groups[name] ?? []).map((node) => network.number(node)).filter((node) => node !== undefined && kept.nodes[node] === 1) as number[];
    if (!nodes.length) continue;
    const lead = nodes.reduce((best, node) => ((influence[node] as number) > (influence[best] as number) ? node : best));
    for (const node of nodes) itemOf[node] = items.length;
    items.push({ group: name, nodes, lead, influence: nodes.reduce((sum, node) => sum + (influence[node] as number), 0) });
  }
  for (let node = 0; node < network.count; node++) {
    if (!kept.nodes[node] || (itemOf[node] as number) >= 0) continue;
    itemOf[node] = items.length;
    items.push({ group: null, nodes: [node], lead: node, influence: influence[node] as number });
  }
  return items;
}

/** Edges between the same two items are one link; those within a folded group are none. */
function linksOf(network: Network, kept: Kept, items: readonly Item[], itemOf: Int32Array): Link[] {
  const { source, target, weight, share, influence } = network;
  const links: { -readonly [K in keyof Link]: Link[K] }[] = [];
  const known = new Map<number, number>();
  for (let edge = 0; edge < weight.length; edge++) {
    if (!kept.edges[edge]) continue;
    const [from, to] = [itemOf[source[edge] as number] as number, itemOf[target[edge] as number] as number];
    if (from === to) continue;
    const key = from * items.length + to;
    const flow = (share[edge] as number) * (influence[target[edge] as number] as number);
    // Of a group each member counts as it matters.
    const part = (items[to] as Item).nodes.length === 1 ? (share[edge] as number) : flow / ((items[to] as Item).influence || 1);
    const signed = (weight[edge] as number) < 0 ? -part : part;
    const at = known.get(key);
    if (at === undefined) {
      known.set(key, links.length);
      links.push({ source: from, target: to, edges: 1, weight: weight[edge] as number, share: signed, flow });
      continue;
    }
    const link = links[at] as (typeof links)[number];
    link.edges += 1;
    link.weight += weight[edge] as number;
    link.share += signed;
    link.flow += flow;
  }
  return links;
}
