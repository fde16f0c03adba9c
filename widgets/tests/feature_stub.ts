// Features of a made-up index, as messages.
import type { CardMessage, FiredMessage, ListQuestion, RowsMessage, SteeredMessage } from "../feature_browser/messages.ts";
import type { Facts } from "../feature_browser/spec.ts";
import type { ArrayEntry } from "../shared/wire.ts";

const KINDS = { int32: Int32Array, uint8: Uint8Array, float32: Float32Array };
type Given = Record<string, readonly ["int32" | "uint8" | "float32", readonly number[], (readonly number[])?]>;

export function packed(given: Given): { arrays: ArrayEntry[]; buffers: DataView[] } {
  const arrays = Object.entries(given).map(([name, [dtype, values, shape]]) => ({ name, dtype, shape: shape ?? [values.length] }));
  const buffers = Object.values(given).map(([dtype, values]) => new DataView(new KINDS[dtype](values).buffer));
  return { arrays, buffers };
}

export const FACTS: Facts = {
  v: 1, live: true, title: "Features", model: "tiny", about: "mlp_post.20", unit: "neuron", prefix: "20.", features: 1536,
  tokens: 21120, dtype: "float32", device: "cpu",
};

export const QUESTION: ListQuestion = {
  find: "", by: "promotes", only: "all", pinned: [], sort: "density", order: "down", prompt: null, pos: null,
};

export const PIECES = [[1, " years"], [2, " or"], [3, "either"], [4, " long"]] as const;

/** Rows of features `ids`, the first at `start`; what they are ordered by is their number. */
export function rows(ids: readonly number[], change: Partial<RowsMessage> = {}): [RowsMessage, DataView[]] {
  const { arrays, buffers } = packed({
    ids: ["int32", ids],
    density: ["float32", ids.map((id) => id / 1000)],
    max: ["float32", ids.map(() => 8)],
    tokens: ["int32", ids.flatMap((id) => [1 + (id % 4), -1]), [ids.length, 2]],
    matches: ["int32", ids.map(() => 0)],
    bars: ["uint8", ids.flatMap(() => [255, 0, 9]), [ids.length, 3]],
    value: ["float32", ids],
  });
  const message = { kind: "rows", id: "t:1", asked: QUESTION, total: 200, start: 0, at: null, pieces: PIECES, arrays, ...change } as const;
  return [message, buffers];
}

export function card(feature: number, change: Partial<CardMessage> = {}): [CardMessage, DataView[]] {
  const { arrays, buffers } = packed({
    edges: ["float32", [0, 4, 8]],
    counts: ["int32", [90, 1]],
    promotes_ids: ["int32", [1, 4]],
    promotes_values: ["float32", [8, 6]],
    suppresses_ids: ["int32", [2]],
    suppresses_values: ["float32", [-5]],
    embeds_ids: ["int32", [4]],
    embeds_values: ["float32", [1]],
    similar_ids: ["int32", [7]],
    similar_values: ["float32", [0.5]],
    similar_promotes: ["int32", [2, 3], [1, 2]],
    coactive_ids: ["int32", []],
    coactive_values: ["float32", []],
    coactive_promotes: ["int32", [], [0, 2]],
    example_ids: ["int32", [3, 4, 1, 2]],
    example_activations: ["float32", [0, 8, 1, 4]],
    example_offsets: ["int32", [0, 3, 4]],
    example_peaks: ["int32", [1, 0]],
    example_bands: ["int32", [-1, 1]],
  });
  const message = {
    kind: "card", id: "t:1", feature, density: 0.0028, max: 8, mean: 2, bands: [[0, 4], [4, 8]], heads: [[19, 6, 8.8]],
    coactive_by: "Jaccard", why: null, pieces: PIECES, arrays, ...change,
  } as const;
  return [message, buffers];
}

export function fired(change: Partial<FiredMessage> = {}, on: readonly number[] = [0, 4, 8]): [FiredMessage, DataView[]] {
  const { arrays, buffers } = packed({
    ids: ["int32", [3, 2, 4]],
    counts: ["int32", [0, 1, 2]],
    top_ids: ["int32", [-1, -1, 5, -1, 5, 6], [3, 2]],
    top_shares: ["float32", [0, 0, 0.5, 0, 1, 0.25], [3, 2]],
    on: ["float32", on],
  });
  const message = { kind: "fired", id: "t:1", prompt: "a b", feature: 5, ms: 3, recomputed: 3, pieces: PIECES, arrays, ...change } as const;
  return [message, buffers];
}

export function steered(change: Partial<SteeredMessage> = {}): [SteeredMessage, DataView[]] {
  const { arrays, buffers } = packed({
    ids: ["int32", [1, 2]],
    before: ["float32", [0.814, 0.1]],
    after: ["float32", [0.804, 0.11]],
    placebo: ["float32", [0.812, 0.1]],
    spread: ["float32", [0.004, 0.001]],
  });
  const message = {
    kind: "steered", id: "t:1", prompt: "a b", feature: 5, by: "scale", amount: 0, pos: null, draws: 20, of: 20, kl: 0.0003,
    placebo_kl: 0.0001, placebo_spread: 0.0001, pieces: PIECES, arrays, ...change,
  } as const;
  return [message, buffers];
}
