// What is looked at: what is hovered, what is chosen, and what is gathered to become a group.
import type { Fields } from "../shared/linked.ts";
import type { Lights } from "./lighting.ts";
import type { Scene } from "./scene.ts";
import type { Selection, Spec } from "./spec.ts";

export class Looking {
  hovered: number | null = null;
  /** Nodes, which stay gathered while thresholds move. */
  gathered: readonly number[] = [];

  forget(): void {
    this.hovered = null;
    this.gathered = [];
  }

  /** The item that is chosen, if it is drawn. */
  chosen(scene: Scene, { selection }: Spec): number | null {
    return scene.of(scene.network.number(selection?.node));
  }

  /** The nodes that buttons and keys act on: those gathered, else those of what is chosen. */
  nodes(scene: Scene, spec: Spec): readonly number[] {
    const chosen = this.chosen(scene, spec);
    return this.gathered.length || chosen === null ? this.gathered : scene.item(chosen).nodes;
  }

  /** Takes an item to those gathered, or away from them; what is chosen is the first of them. */
  gatherOne(scene: Scene, spec: Spec, item: number): void {
    const before = this.chosen(scene, spec) === item ? this.gathered : this.nodes(scene, spec);
    const { nodes } = scene.item(item);
    const has = nodes.every((node) => before.includes(node));
    this.gathered = has ? before.filter((node) => !nodes.includes(node)) : [...before, ...nodes];
  }

  /** All of these, and with `more` those gathered before. Targets are what is explained, and no part of a circuit. */
  gather(scene: Scene, items: readonly number[], more: boolean): void {
    const nodes = items.flatMap((at) => scene.item(at).nodes).filter((node) => scene.network.weights[node] === 0);
    this.gathered = [...new Set([...(more ? this.gathered : []), ...nodes])];
    this.hovered = null;
  }

  lights(scene: Scene, spec: Spec): Omit<Lights, "band"> {
    const items = (nodes: readonly (number | undefined)[]): number[] => [...new Set(nodes.map((node) => scene.of(node)).filter((at) => at !== null))];
    const named = (names: readonly string[]): number[] => items(names.map((name) => scene.network.number(name)));
    const chosen = this.chosen(scene, spec);
    return { focus: this.hovered ?? chosen, chosen, pinned: named(spec.pinned), ablated: named(spec.ablated), gathered: items(this.gathered) };
  }
}

/** The most influential node that is drawn where a linked view chose; of a place that it chose in part, the rest stays. */
export function followed(scene: Scene, before: Selection | null, { layer, pos }: Fields): Selection | null {
  const given = (field: unknown, own: number | undefined): number | undefined => (typeof field === "number" ? field : own);
  const there = [given(layer, before?.layer), given(pos, before?.pos)] as const;
  // It stands there already: an echo does not choose another node of the place.
  if (before && there[0] === before.layer && there[1] === before.pos) return before;
  const best = scene.at(...there);
  return best === undefined ? null : scene.network.selection(best);
}
