// What the messages hold, unpacked: rows, cards, what fires on a prompt, and what steering does.
import type { Piece } from "../shared/tokens.ts";
import { decodeAll, type Numbers } from "../shared/wire.ts";
import type { CardMessage, FiredMessage, OnMessage, Pieces, RowsMessage, SteeredMessage, ThroughMessage } from "./messages.ts";

type Arrays = Map<string, Numbers>;

function need(arrays: Arrays, name: string): Numbers {
  const array = arrays.get(name);
  if (!array) throw new Error(`the message has no array "${name}"`);
  return array;
}

const list = (numbers: Numbers): number[] => Array.from(numbers);

/** The texts of tokens by their id, gathered from all messages. */
export class Words {
  readonly #pieces = new Map<number, Piece>();

  learn(pieces: Pieces): void {
    for (const [id, piece] of pieces) this.#pieces.set(id, piece);
  }
  piece(id: number | undefined): Piece | undefined {
    return id === undefined ? undefined : this.#pieces.get(id);
  }
}

export interface Row {
  readonly feature: number;
  readonly density: number;
  readonly max: number;
  /** That it promotes or, where that is looked for, on which it fires. */
  readonly tokens: readonly number[];
  /** The first so many of them are what was looked for. */
  readonly matches: number;
  /** Heights of the small histogram, 0 to 255. */
  readonly bars: readonly number[];
  /** What the list is ordered by. */
  readonly value: number;
}

export function rowsOf(message: RowsMessage, buffers: readonly DataView[]): Row[] {
  const arrays = decodeAll(message.arrays, buffers);
  const [ids, density, max] = [need(arrays, "ids"), need(arrays, "density"), need(arrays, "max")];
  const [tokens, matches] = [need(arrays, "tokens"), need(arrays, "matches")];
  const [bars, value] = [need(arrays, "bars"), need(arrays, "value")];
  const [k, bins] = [tokens.length / (ids.length || 1), bars.length / (ids.length || 1)];
  return list(ids).map((feature, i) => ({
    feature,
    density: density[i] as number,
    max: max[i] as number,
    tokens: list(tokens.subarray(i * k, (i + 1) * k)).filter((id) => id >= 0),
    matches: matches[i] as number,
    bars: list(bars.subarray(i * bins, (i + 1) * bins)),
    value: value[i] as number,
  }));
}

export interface Weighted {
  readonly id: number;
  readonly value: number;
}

export interface Example {
  /** The band of its peak, or null of a top example. */
  readonly band: number | null;
  readonly ids: readonly number[];
  readonly activations: readonly number[];
  readonly peak: number;
}

export interface Neighbour extends Weighted {
  /** Tokens that it promotes. */
  readonly promotes: readonly number[];
}

export interface Card {
  readonly message: CardMessage;
  readonly feature: number;
  readonly edges: readonly number[];
  readonly counts: readonly number[];
  readonly promotes: readonly Weighted[];
  readonly suppresses: readonly Weighted[];
  /** Tokens that reach the feature straight from the embedding. */
  readonly embeds: readonly Weighted[];
  /** Those that reach it through a head, by `layer.head`, as far as they were asked for. */
  readonly through: Map<string, readonly Weighted[]>;
  readonly similar: readonly Neighbour[];
  readonly coactive: readonly Neighbour[];
  readonly examples: readonly Example[];
}

const pairs = (ids: Numbers, values: Numbers): Weighted[] => list(ids).map((id, i) => ({ id, value: values[i] as number }));

export function cardOf(message: CardMessage, buffers: readonly DataView[]): Card {
  const arrays = decodeAll(message.arrays, buffers);
  const get = (name: string): Numbers => need(arrays, name);
  const near = (name: string): Neighbour[] => {
    const promotes = get(`${name}_promotes`);
    const ids = get(`${name}_ids`);
    const k = promotes.length / (ids.length || 1);
    return pairs(ids, get(`${name}_values`)).map((each, i) => ({
      ...each,
      promotes: list(promotes.subarray(i * k, (i + 1) * k)).filter((id) => id >= 0),
    }));
  };
  return {
    message,
    feature: message.feature,
    edges: list(get("edges")),
    counts: list(get("counts")),
    promotes: pairs(get("promotes_ids"), get("promotes_values")),
    suppresses: pairs(get("suppresses_ids"), get("suppresses_values")),
    embeds: pairs(get("embeds_ids"), get("embeds_values")),
    through: new Map(),
    similar: near("similar"),
    coactive: near("coactive"),
    examples: examplesOf(get),
  };
}

export function throughOf(message: ThroughMessage, buffers: readonly DataView[]): Weighted[] {
  const arrays = decodeAll(message.arrays, buffers);
  return pairs(need(arrays, "ids"), need(arrays, "values"));
}

function examplesOf(get: (name: string) => Numbers): Example[] {
  const [ids, activations, offsets] = [get("example_ids"), get("example_activations"), get("example_offsets")];
  const [peaks, bands] = [get("example_peaks"), get("example_bands")];
  return list(peaks).map((peak, i) => {
    const [from, to] = [offsets[i] as number, offsets[i + 1] as number];
    const band = bands[i] as number;
    return {
      band: band < 0 ? null : band,
      ids: list(ids.subarray(from, to)),
      activations: list(activations.subarray(from, to)),
      peak,
    };
  });
}

/** What fires on a prompt: at each token how many features, and the strongest of them. */
export class Fired {
  readonly ids: readonly number[];
  readonly counts: readonly number[];
  readonly #top: readonly Weighted[];
  readonly #on = new Map<number, readonly number[]>();

  constructor(
    readonly message: FiredMessage,
    buffers: readonly DataView[],
  ) {
    const arrays = decodeAll(message.arrays, buffers);
    this.ids = list(need(arrays, "ids"));
    this.counts = list(need(arrays, "counts"));
    this.#top = pairs(need(arrays, "top_ids"), need(arrays, "top_shares"));
    const on = arrays.get("on");
    if (message.feature !== null && on) this.#on.set(message.feature, list(on));
  }

  get positions(): number {
    return this.ids.length;
  }

  /** The features that fire most at a token, by the share of their own maximum. */
  top(pos: number): readonly Weighted[] {
    const k = this.#top.length / (this.positions || 1);
    return this.#top.slice(pos * k, (pos + 1) * k).filter(({ id }) => id >= 0);
  }

  /** How active a feature is at each token, where that is known. */
  on(feature: number): readonly number[] | undefined {
    return this.#on.get(feature);
  }

  add(message: OnMessage, buffers: readonly DataView[]): void {
    if (message.prompt === this.message.prompt) this.#on.set(message.feature, list(need(decodeAll(message.arrays, buffers), "on")));
  }
}

export interface Odds {
  readonly id: number;
  readonly before: number;
  readonly after: number;
  /** The mean over the random directions and their standard deviation, or NaN before there are two. */
  readonly placebo: number;
  readonly spread: number;
}

export interface Steered {
  readonly message: SteeredMessage;
  readonly odds: readonly Odds[];
}

export function steeredOf(message: SteeredMessage, buffers: readonly DataView[]): Steered {
  const arrays = decodeAll(message.arrays, buffers);
  const get = (name: string, i: number): number => need(arrays, name)[i] as number;
  const odds = list(need(arrays, "ids")).map((id, i) => ({
    id,
    before: get("before", i),
    after: get("after", i),
    placebo: get("placebo", i),
    spread: get("spread", i),
  }));
  return { message, odds };
}
