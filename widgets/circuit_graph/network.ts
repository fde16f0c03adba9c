// The graph as it came: nodes and edges as arrays, and which edges a node has.
import { tokenText, type Piece } from "../shared/tokens.ts";
import { decodeAll, type Numbers } from "../shared/wire.ts";
import { shares } from "./influence.ts";
import type { GraphMessage } from "./messages.ts";
import type { Selection } from "./spec.ts";

export const [EMBED, FEATURE, ERROR, LOGIT] = [0, 1, 2, 3] as const;
const KINDS = ["embed", "feature", "error", "logit"] as const;

export class Network {
  readonly count: number;
  readonly kind: Numbers;
  /** −1 of an embedding, the number of layers of a logit. */
  readonly layer: Numbers;
  readonly pos: Numbers;
  readonly feature: Numbers;
  readonly value: Numbers;
  readonly activation: Numbers;
  readonly influence: Numbers;
  readonly size: Numbers;
  readonly bias: Numbers;
  readonly rest: Numbers;
  readonly weights: Numbers;
  readonly source: Numbers;
  readonly target: Numbers;
  readonly weight: Numbers;
  /** Of each edge, which part it is of all that reaches its target. */
  readonly share: Float64Array;
  readonly names: readonly string[];
  readonly #numbers: ReadonlyMap<string, number>;
  /** Where the edges into each node begin: edges are ordered by target. */
  readonly #into: Int32Array;
  readonly #out: Int32Array;
  readonly #outOrder: Int32Array;

  constructor(
    readonly header: GraphMessage,
    buffers: readonly DataView[],
  ) {
    const arrays = decodeAll(header.arrays, buffers);
    const get = (name: string, length: number): Numbers => {
      const array = arrays.get(name);
      if (array?.length !== length) throw new Error(`the graph has ${array?.length ?? "no"} numbers "${name}" where ${length} belong`);
      return array;
    };
    const [nodes, edges] = [header.n_nodes, header.n_edges];
    this.count = nodes;
    [this.kind, this.layer, this.pos] = [get("kind", nodes), get("layer", nodes), get("pos", nodes)];
    [this.feature, this.value, this.activation] = [get("feature", nodes), get("value", nodes), get("activation", nodes)];
    [this.influence, this.size, this.bias] = [get("influence", nodes), get("size", nodes), get("bias", nodes)];
    [this.rest, this.weights] = [get("rest", nodes), get("weights", nodes)];
    [this.source, this.target, this.weight] = [get("source", edges), get("target", edges), get("weight", edges)];
    this.share = shares(this.source, this.target, this.weight, this.size);
    this.names = Array.from({ length: nodes }, (_, node) => this.#name(node));
    this.#numbers = new Map(this.names.map((name, node) => [name, node]));
    this.#into = starts(this.target, nodes);
    this.#out = starts(this.source, nodes);
    const next = this.#out.slice();
    this.#outOrder = new Int32Array(edges);
    for (let edge = 0; edge < edges; edge++) this.#outOrder[(next[this.source[edge] as number] as number)++] = edge;
  }

  get edges(): number {
    return this.weight.length;
  }
  get tokens(): readonly Piece[] {
    return this.header.tokens;
  }
  get layers(): number {
    return this.header.n_layers;
  }

  #name(node: number): string {
    const [layer, pos, feature] = [this.layer[node], this.pos[node], this.feature[node]];
    const what = ["embed", `${layer}.${feature}`, `${layer}.error`, `logit.${feature}`][this.kind[node] as number];
    return `${what}@${pos}`;
  }

  /** A node's number, or undefined of one that is not here. */
  number(name: string | undefined): number | undefined {
    return name === undefined ? undefined : this.#numbers.get(name);
  }

  /** The edges into a node, or out of it. */
  into(node: number): number[] {
    const [from, to] = [this.#into[node] as number, this.#into[node + 1] as number];
    return Array.from({ length: to - from }, (_, i) => from + i);
  }
  outOf(node: number): Int32Array {
    return this.#outOrder.subarray(this.#out[node] as number, this.#out[node + 1] as number);
  }

  isFeature(node: number): boolean {
    return this.kind[node] === FEATURE;
  }

  hasCard(node: number): boolean {
    return this.isFeature(node) && this.header.cards.includes(this.layer[node] as number);
  }

  piece(node: number): Piece | undefined {
    return this.tokens[this.pos[node] as number];
  }
  label(node: number): Piece | undefined {
    return this.header.labels[this.feature[node] as number];
  }

  /** A few words about a feature as it is active here, or "" where there are none. */
  words(node: number): string {
    return this.isFeature(node) ? (this.header.names[`${(this.activation[node] as number) < 0 ? "-" : ""}${this.short(node)}`] ?? "") : "";
  }

  /** What a feature is called: a neuron or a feature. */
  unit(node: number): string {
    return this.header.layers[this.layer[node] as number] === "neurons" ? "neuron" : "feature";
  }

  /** A node in a line of text, without its position: `20.155`, `error 20`, `·the`. */
  short(node: number): string {
    const kind = this.kind[node];
    if (kind === EMBED) return tokenText(this.piece(node));
    if (kind === LOGIT) return tokenText(this.label(node));
    return kind === ERROR ? `error ${this.layer[node]}` : `${this.layer[node]}.${this.feature[node]}`;
  }

  selection(node: number): Selection {
    const [layer, pos, feature] = [this.layer[node] as number, this.pos[node] as number, this.feature[node] as number];
    return { node: this.names[node] as string, kind: KINDS[this.kind[node] as number] ?? "", layer, pos, feature };
  }
}

/** Where each node's edges begin, if they are ordered by this end. */
function starts(ends: Numbers, nodes: number): Int32Array {
  const begins = new Int32Array(nodes + 1);
  for (const end of ends) begins[end + 1] = (begins[end + 1] as number) + 1;
  for (let node = 0; node < nodes; node++) begins[node + 1] = (begins[node + 1] as number) + (begins[node] as number);
  return begins;
}
