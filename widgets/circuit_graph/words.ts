// What a node, a group or a link is, in words and numbers.
import { activation } from "../feature_browser/histogram.ts";
import { percent } from "../feature_browser/list.ts";
import { make, type Child } from "../shared/dom.ts";
import { nats, probability } from "../shared/numbers.ts";
import { tokenElement } from "../shared/tokens.ts";
import { EMBED, ERROR, LOGIT, type Network } from "./network.ts";
import type { Scene } from "./scene.ts";

const capital = (word: string): string => word.charAt(0).toUpperCase() + word.slice(1);

/** Such as `Feature 20.155 at ·long (7)`. */
export function titleOf(network: Network, node: number): Child[] {
  const kind = network.kind[node];
  const at: Child[] = [tokenElement(network.piece(node)), make("span", "lk-f-quiet", ` (${network.pos[node]})`)];
  if (kind === LOGIT) return ["Target ", tokenElement(network.label(node))];
  if (kind === EMBED) return ["Embedding of ", ...at];
  if (kind === ERROR) return [`Error of layer ${network.layer[node]} at `, ...at];
  return [`${capital(network.unit(node))} ${network.layer[node]}.${network.feature[node]} at `, ...at];
}

/** The same as plain text, to be read out. */
export function titleText(network: Network, node: number): string {
  return titleOf(network, node)
    .map((part) => (typeof part === "string" ? part : (part.textContent ?? "")))
    .join("");
}

/** An item in a line: its name, and the token at which it stands. */
export function lineOf({ network, items }: Scene, at: number): Child[] {
  const { group, lead, nodes } = items[at] as Scene["items"][number];
  if (group !== null) return [make("b", "", group), make("span", "lk-f-quiet", ` ${nodes.length}`)];
  const kind = network.kind[lead];
  if (kind === EMBED) return [tokenElement(network.piece(lead)), make("span", "lk-f-quiet", ` ${network.pos[lead]}`)];
  if (kind === LOGIT) return [tokenElement(network.label(lead)), make("span", "lk-f-quiet", " target")];
  return [`${network.short(lead)} `, tokenElement(network.piece(lead))];
}

export function lineText({ network, items }: Scene, at: number): string {
  const { group, lead, nodes } = items[at] as Scene["items"][number];
  if (group !== null) return `group ${group}, ${nodes.length} nodes`;
  return titleText(network, lead);
}

/** Neurons are active below 0, too. */
const active = (x: number): string => `${x < 0 ? "−" : ""}${activation(Math.abs(x))}`;

/** Numbers of a node: how active, how much it counts. */
export function numbersOf(network: Network, node: number): string {
  const counts = `influence ${percent(network.influence[node] as number)}`;
  const kind = network.kind[node];
  if (kind === LOGIT) return `value ${nats(network.value[node] as number)} · weight ${probability(network.weights[node] as number)}`;
  return kind === EMBED || kind === ERROR ? counts : `activation ${active(network.activation[node] as number)} · ${counts}`;
}

/** What is read out when an item is chosen. */
export function saidOf(scene: Scene, at: number): string {
  const { network } = scene;
  const { group, lead, influence } = scene.item(at);
  const name = lineText(scene, at);
  const says = network.words(lead);
  const numbers = group === null ? `${numbersOf(network, lead)}${says ? `, ${says}` : ""}` : `influence ${percent(influence)}`;
  const strongest = (links: readonly number[] | undefined, end: "source" | "target"): string => {
    const link = links?.[0];
    return link === undefined ? "none" : `${links?.length}, most ${lineText(scene, scene.link(link)[end])}`;
  };
  return `${name}, ${numbers}. Fed by ${strongest(scene.into[at], "source")}. Feeds ${strongest(scene.outOf[at], "target")}.`;
}

/** The parts of which a node's value is the sum, all edges counted, those that are drawn and those that are not. */
export interface Sum {
  readonly value: number;
  readonly bias: number;
  readonly rest: number;
  readonly drawn: number;
  readonly drawnEdges: number;
  readonly hidden: number;
  readonly hiddenEdges: number;
  /** What is missing to the value: only rounding, where the graph is whole. */
  readonly off: number;
}

export function sumOf({ network, kept }: Scene, node: number): Sum | null {
  const value = network.value[node] as number;
  if (!Number.isFinite(value)) return null;
  const [bias, rest] = [network.bias[node] as number, network.rest[node] as number];
  const found = { drawn: 0, drawnEdges: 0, hidden: 0, hiddenEdges: 0 };
  for (const edge of network.into(node)) {
    const which = kept.edges[edge] ? "drawn" : "hidden";
    found[which] += network.weight[edge] as number;
    found[`${which}Edges`] += 1;
  }
  return { value, bias, rest, ...found, off: value - bias - rest - found.drawn - found.hidden };
}

/** A few words beside an item. */
export function tipOf(scene: Scene, at: number): Child[] {
  const { group, lead } = scene.item(at);
  const line = make("div", "", ...lineOf(scene, at));
  if (group !== null) return [line];
  return [line, make("div", "", scene.network.words(lead)), make("div", "lk-f-quiet", numbersOf(scene.network, lead))];
}
