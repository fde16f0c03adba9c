// What Python answers, as WIRE.md has it.
import type { CardMessage } from "../feature_browser/messages.ts";
import type { Piece } from "../shared/tokens.ts";
import type { ArrayEntry } from "../shared/wire.ts";

export interface GraphMessage {
  readonly kind: "graph";
  readonly id: string;
  readonly n_nodes: number;
  readonly n_edges: number;
  readonly tokens: readonly Piece[];
  readonly labels: readonly Piece[];
  readonly n_layers: number;
  /** Of each layer what its features are. */
  readonly layers: readonly ("transcoder" | "neurons" | "none")[];
  /** Whether a model is there that answers an ablation. */
  readonly live: boolean;
  /** The layers whose features have cards. */
  readonly cards: readonly number[];
  /** A few words about a feature, by layer and feature. */
  readonly names: Readonly<Record<string, string>>;
  readonly arrays: readonly ArrayEntry[];
}

/** As the feature browser has it, and whose it is. */
export interface NodeCardMessage extends CardMessage {
  readonly node: string;
  readonly unit: "feature" | "neuron";
}

export interface MissingMessage {
  readonly kind: "card";
  readonly id: string;
  readonly node: string;
  readonly missing: string;
}

export type Odds = readonly (readonly [piece: Piece, probability: number])[];

export interface AblatedMessage {
  readonly kind: "ablated";
  readonly id: string;
  readonly nodes: readonly string[];
  readonly scale: number;
  readonly before: Odds;
  readonly after: Odds;
  readonly effects: readonly { readonly label: Piece; readonly before: number; readonly after: number }[];
  /** By how much each target changes by the graph's own edges. */
  readonly predicted: readonly number[];
  readonly kl: number | null;
  readonly ms: number;
  readonly placebo: Placebo | null;
}

/** Random features of the same layers, changed by as much: of each target's change the mean and the standard deviation. */
export interface Placebo {
  readonly mean: readonly number[];
  readonly spread: readonly number[] | null;
  readonly n: number;
  readonly kl: number | null;
  readonly kl_spread: number | null;
}

/** The one reply that a frozen page holds; the buffers of its parts follow each other. */
export interface FrozenMessage {
  readonly kind: "frozen";
  readonly id: string;
  readonly graph: GraphMessage;
  readonly cards: readonly NodeCardMessage[];
  readonly ablated: AblatedMessage | null;
}

export type Message =
  | { readonly kind: "progress"; readonly id: string; readonly done: number; readonly total: number }
  | { readonly kind: "superseded"; readonly id: string }
  | { readonly kind: "error"; readonly id: string; readonly message: string }
  /** The second module, which asks for itself. */
  | { readonly kind: "panel" }
  | GraphMessage
  | NodeCardMessage
  | MissingMessage
  | AblatedMessage
  | FrozenMessage;
