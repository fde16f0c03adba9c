// What Python answers, as WIRE.md has it.
import type { Piece } from "../shared/tokens.ts";
import type { ArrayEntry } from "../shared/wire.ts";
import type { FindBy, Only, Order, Sort, SteerBy } from "./spec.ts";

export type Pieces = readonly (readonly [id: number, piece: Piece])[];

/** What an order of the list depends on. */
export interface ListQuestion {
  readonly find: string;
  readonly by: FindBy;
  readonly only: Only;
  readonly pinned: readonly number[];
  readonly sort: Sort;
  readonly order: Order;
  /** Of the order by what fires; else null. */
  readonly prompt: string | null;
  readonly pos: number | null;
}

interface Packed {
  readonly id: string;
  readonly pieces: Pieces;
  readonly arrays: readonly ArrayEntry[];
}

export interface RowsMessage extends Packed {
  readonly kind: "rows";
  readonly asked: ListQuestion;
  /** How many features there are in this order. */
  readonly total: number;
  readonly start: number;
  /** Where the chosen feature stands in it, or null. */
  readonly at: number | null;
}

export interface CardMessage extends Packed {
  readonly kind: "card";
  readonly feature: number;
  readonly density: number;
  readonly max: number;
  readonly mean: number;
  /** Ends of the bands of activation, the lowest band first. */
  readonly bands: readonly (readonly [low: number, high: number])[];
  /** The heads whose output the feature reads most, and the norm of that. */
  readonly heads: readonly (readonly [layer: number, head: number, norm: number])[];
  /** How the co-active features are measured, such as `Jaccard`. */
  readonly coactive_by: string;
  /** Why there is nothing that it promotes, or null. */
  readonly why: string | null;
}

/** Tokens that reach a feature through a head. */
export interface ThroughMessage extends Packed {
  readonly kind: "through";
  readonly feature: number;
  readonly layer: number;
  readonly head: number;
}

export interface FiredMessage extends Packed {
  readonly kind: "fired";
  readonly prompt: string;
  readonly feature: number | null;
  readonly ms: number;
  readonly recomputed: number;
}

export interface OnMessage extends Packed {
  readonly kind: "on";
  readonly prompt: string;
  readonly feature: number;
}

export interface SteeredMessage extends Packed {
  readonly kind: "steering" | "steered";
  readonly prompt: string;
  readonly feature: number;
  readonly by: SteerBy;
  readonly amount: number;
  readonly pos: number | null;
  /** Random directions that were tried, of so many. */
  readonly draws: number;
  readonly of: number;
  readonly kl: number | null;
  readonly placebo_kl: number | null;
  readonly placebo_spread: number | null;
}

/** The one reply that a frozen page holds; the buffers of its parts follow each other. */
export interface FrozenMessage {
  readonly kind: "frozen";
  readonly id: string;
  readonly rows: RowsMessage;
  readonly cards: readonly CardMessage[];
  readonly fired: FiredMessage | null;
  readonly on: readonly OnMessage[];
  readonly steered: SteeredMessage | null;
}

export type Message =
  | { readonly kind: "progress"; readonly id: string; readonly done: number; readonly total: number }
  | { readonly kind: "superseded"; readonly id: string }
  | { readonly kind: "error"; readonly id: string; readonly message: string }
  | RowsMessage
  | CardMessage
  | ThroughMessage
  | FiredMessage
  | OnMessage
  | SteeredMessage
  | FrozenMessage;
