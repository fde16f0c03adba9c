// Influence and pruning, as lenskit/circuits/influence.py and pruning.py have them, so that a slider need not ask.
import type { Network } from "./network.ts";

const [EMBED, FEATURE, LOGIT] = [0, 1, 3];
type Column = ArrayLike<number>;

/** Of each edge which part it is of all that reaches its target; `size` is 0 or NaN where nothing does. */
export function shares(source: Column, target: Column, weight: Column, size: Column): Float64Array {
  const found = new Float64Array(source.length);
  for (let edge = 0; edge < found.length; edge++) {
    const all = size[target[edge] as number] as number;
    if (all > 0) found[edge] = Math.abs(weight[edge] as number) / all;
  }
  return found;
}

/** What of the targets' weight, `start`, comes to each node along all ways. Edges are ordered by target. */
export function influence(source: Column, target: Column, share: Column, start: Column): Float64Array {
  const found = Float64Array.from(start);
  // From the last target back: all that a node hands on has come to it before.
  for (let edge = source.length - 1; edge >= 0; edge--) {
    const at = source[edge] as number;
    found[at] = (found[at] as number) + (share[edge] as number) * (found[target[edge] as number] as number);
  }
  return found;
}

/** Which of the scores, the largest first, together make up this part of their sum: as few as do. */
export function mostOf(scores: ArrayLike<number>, part: number): Uint8Array {
  const chosen = new Uint8Array(scores.length);
  const order = Array.from(chosen, (_, i) => i).sort((a, b) => (scores[b] as number) - (scores[a] as number));
  let total = 0;
  for (const i of order) total += scores[i] as number;
  const wanted = part * total * (1 - 1e-12);
  let reached = 0;
  if (total <= 0) return chosen;
  for (const i of order) {
    if (!((scores[i] as number) > 0)) break;
    chosen[i] = 1;
    reached += scores[i] as number;
    if (reached >= wanted) break;
  }
  return chosen;
}

/** Which nodes and edges are left, 1 or 0 of each. */
export interface Kept {
  readonly nodes: Uint8Array;
  readonly edges: Uint8Array;
}

/** The smallest graph that keeps these parts of the influence: of the nodes', then of the edges' between them. */
export function pruned(network: Network, nodes: number, edges: number): Kept {
  const { kind, source, target, count } = network;
  const scores = Float64Array.from(network.influence, (found, node) => (kind[node] === LOGIT ? 0 : found));
  const kept = mostOf(scores, nodes);
  const stays = (node: number): boolean => kind[node] === EMBED || kind[node] === LOGIT;
  for (let node = 0; node < count; node++) if (stays(node)) kept[node] = 1;
  const chosen = chosenOf(network, kept, edges);
  const on = (edge: number): boolean => chosen[edge] === 1 && kept[source[edge] as number] === 1 && kept[target[edge] as number] === 1;
  for (let gone = true; gone; ) {
    gone = false;
    const [reaching, reached] = [new Uint8Array(count), new Uint8Array(count)];
    for (let edge = 0; edge < chosen.length; edge++) {
      if (!on(edge)) continue;
      reaching[source[edge] as number] = 1;
      reached[target[edge] as number] = 1;
    }
    for (let node = 0; node < count; node++) {
      if (!kept[node] || stays(node) || (reaching[node] && (reached[node] || kind[node] !== FEATURE))) continue;
      kept[node] = 0;
      gone = true;
    }
  }
  for (let edge = 0; edge < chosen.length; edge++) if (!on(edge)) chosen[edge] = 0;
  return { nodes: kept, edges: chosen };
}

/** The edges between the nodes that are left along which most of the influence goes, as if there were no others. */
function chosenOf({ source, target, weight, weights, count }: Network, kept: Uint8Array, part: number): Uint8Array {
  const between: number[] = [];
  for (let edge = 0; edge < source.length; edge++) if (kept[source[edge] as number] && kept[target[edge] as number]) between.push(edge);
  const of = (column: Column): Float64Array => Float64Array.from(between, (edge) => column[edge] as number);
  const [sources, targets, weighs] = [of(source), of(target), of(weight)];
  const size = new Float64Array(count);
  for (let i = 0; i < between.length; i++) {
    const at = targets[i] as number;
    size[at] = (size[at] as number) + Math.abs(weighs[i] as number);
  }
  const share = shares(sources, targets, weighs, size);
  const found = influence(sources, targets, share, weights);
  const most = mostOf(share.map((each, i) => each * (found[targets[i] as number] as number)), part);
  const chosen = new Uint8Array(source.length);
  between.forEach((edge, i) => (chosen[edge] = most[i] as number));
  return chosen;
}
