// Graphs as messages: the one that Python wrote down with its own numbers (tests/widgets/circuit_numbers.py), and one by hand.
import type { GraphMessage } from "../circuit_graph/messages.ts";
import { Network } from "../circuit_graph/network.ts";
import { shown, Scene } from "../circuit_graph/scene.ts";
import { readSpec, type Facts, type Spec } from "../circuit_graph/spec.ts";
import type { ArrayEntry } from "../shared/wire.ts";
import numbers from "./circuit_numbers.json" with { type: "json" };

const KINDS = { int32: Int32Array, uint16: Uint16Array, uint8: Uint8Array, float32: Float32Array };
const DTYPES: Record<string, keyof typeof KINDS> = {
  kind: "uint8", layer: "int32", pos: "uint16", feature: "int32", value: "float32", activation: "float32", influence: "float32",
  size: "float32", bias: "float32", rest: "float32", weights: "float32", source: "uint16", target: "uint16", weight: "float32",
};
type Arrays = Record<string, readonly (number | null)[]>;

export interface Numbers {
  readonly tokens: readonly string[];
  readonly labels: readonly string[];
  readonly layers: GraphMessage["layers"];
  readonly n_layers: number;
  readonly arrays: Arrays;
  readonly influence: readonly number[];
  readonly pruned: readonly { nodes: number; edges: number; kept: readonly string[]; links: readonly string[] }[];
}

export const NUMBERS = numbers as unknown as Numbers;

type Given = Pick<Numbers, "tokens" | "labels" | "layers" | "n_layers" | "arrays" | "influence">;

export function graphMessage(given: Given, change: Partial<GraphMessage> = {}): [GraphMessage, DataView[]] {
  const all: Arrays = { ...given.arrays, influence: given.influence };
  const arrays: ArrayEntry[] = Object.entries(DTYPES).map(([name, dtype]) => ({ name, dtype, shape: [(all[name] ?? []).length] }));
  const buffers = arrays.map(({ name, dtype }) => new DataView(new KINDS[dtype]((all[name] ?? []).map((x) => x ?? Number.NaN)).buffer));
  const message: GraphMessage = {
    kind: "graph", id: "t:1", n_nodes: given.influence.length, n_edges: (all["weight"] ?? []).length, tokens: given.tokens, labels: given.labels,
    n_layers: given.n_layers, layers: given.layers, live: true, cards: [1], names: { "1.7": "years · decades" }, arrays, ...change,
  };
  return [message, buffers];
}

export const written = (): Network => new Network(...graphMessage(NUMBERS));

/**
 * Two tokens, two layers: both embeddings feed 0.5@0 and 0.6@1, these and an error feed 1.7@1, and all three features a target.
 * Everything that reaches a node adds up.
 */
const BY_HAND: Given = {
  tokens: ["The", " key"],
  labels: [" years"],
  layers: ["transcoder", "transcoder"],
  n_layers: 2,
  influence: [0.25, 0.25, 0.25, 0.125, 0.0625, 0.5, 1],
  arrays: {
    //       embeds  0.5@0 0.6@1 error 1.7@1 logit
    kind: [0, 0, 1, 1, 2, 1, 3],
    layer: [-1, -1, 0, 0, 0, 1, 2],
    pos: [0, 1, 0, 1, 1, 1, 1],
    feature: [504, 505, 5, 6, -1, 7, 0],
    value: [null, null, 2, 3, null, 1.5, 4],
    activation: [null, null, 2, 3, null, 1.5, null],
    size: [null, null, 2, 2, null, 4, 4],
    bias: [null, null, 0, 1, null, 0.5, 1],
    rest: [null, null, 0, 0, null, 0, 0],
    weights: [0, 0, 0, 0, 0, 0, 1],
    source: [0, 0, 1, 2, 3, 4, 2, 3, 5],
    target: [2, 3, 3, 5, 5, 5, 6, 6, 6],
    weight: [2, 1, 1, 2, -1.5, 0.5, 1, -0.25, 2.25],
  },
};

export const byHandMessage = (change: Partial<GraphMessage> = {}): [GraphMessage, DataView[]] => graphMessage(BY_HAND, change);
export const byHand = (): Network => new Network(...byHandMessage());

/** A scene of the graph by hand, of which everything is drawn. */
export function sceneOf(network: Network, change: Partial<Spec> = {}): Scene {
  const spec = readSpec({ nodes: 1, edges: 1, ...change });
  return new Scene(network, shown(network, spec), spec);
}

export const FACTS: Facts = {
  v: 1, live: true, title: "Circuit", model: "tiny", prompt: "The key", about: "7 nodes, 9 edges", cut: null, dtype: "float32", device: "cpu",
};
