// Where the graph, the cards and what an ablation does come from: questions to Python, and which answers are taken.
import type { AnyModel } from "@anywidget/types";
import type { CardAnswer } from "../circuit_panel/contract.ts";
import { Words } from "../feature_browser/values.ts";
import { Requests } from "../shared/requests.ts";
import type { AblatedMessage, FrozenMessage, Message, NodeCardMessage } from "./messages.ts";
import { Network } from "./network.ts";

export interface SourceEvents {
  graph(): void;
  card(): void;
  ablated(): void;
  /** As `Stage.progress`. */
  progress(share: number | null | undefined): void;
  error(text: string): void;
  /** No word from Python for a while. */
  silent(): void;
}

const SILENT_MS = 4000;
/** So many cards are kept: one walks back and forth. */
const KEPT = 200;
const sameNodes = (a: readonly string[], b: readonly string[]): boolean => [...a].sort().join() === [...b].sort().join();

/** A feature has the same card wherever it fires. */
const cardKey = (node: string): string => node.replace(/@\d+$/, "");

export class CircuitSource {
  readonly words = new Words();
  network: Network | null = null;
  ablated: AblatedMessage | null = null;
  readonly #cards = new Map<string, CardAnswer>();
  readonly #graphs: Requests<object>;
  readonly #cardRequests: Requests<{ node: string }>;
  readonly #ablations: Requests<{ nodes: readonly string[]; scale: number; placebo: boolean }>;
  #wanted: string | null = null;
  #asked: { readonly nodes: readonly string[]; readonly placebo: boolean } = { nodes: [], placebo: true };
  #silence: ReturnType<typeof setTimeout> | undefined;

  constructor(
    model: AnyModel,
    private readonly live: boolean,
    private readonly events: SourceEvents,
    signal: AbortSignal,
  ) {
    const send = (message: object): void => model.send(message);
    [this.#graphs, this.#cardRequests, this.#ablations] = [new Requests(send), new Requests(send), new Requests(send)];
    const heard = (message: Message, buffers: DataView[]): void => this.#hear(message, buffers);
    model.on("msg:custom", heard);
    signal.addEventListener("abort", () => {
      model.off("msg:custom", heard);
      this.#ablations.drop();
      clearTimeout(this.#silence);
    });
    if (live) this.#graphs.ask("graph", {});
    else model.send({ v: 1, kind: "frozen", id: "frozen" });
    this.#silence = setTimeout(() => events.silent(), SILENT_MS);
  }

  // --- cards

  /** A card that is here; else it is asked for, and undefined until it comes. A frozen page holds some of them. */
  card(node: string): CardAnswer | undefined {
    const card = this.#cards.get(cardKey(node));
    if (card !== undefined || this.#wanted === node) return card;
    if (!this.live) return "this page does not hold its card: open the notebook";
    this.#wanted = node;
    this.#cardRequests.ask("card", { node });
    return undefined;
  }

  #takeCard(node: string, card: CardAnswer): void {
    this.#cards.delete(cardKey(node));
    this.#cards.set(cardKey(node), card);
    const oldest = this.#cards.keys().next();
    if (this.#cards.size > KEPT && !oldest.done) this.#cards.delete(oldest.value);
  }

  #learnCard(message: NodeCardMessage, buffers: readonly DataView[]): void {
    this.words.learn(message.pieces);
    this.#takeCard(message.node, { message, buffers });
  }

  // --- ablation

  /** What becomes of the answer without these features; none for the answer as it is. */
  ablate(nodes: readonly string[], placebo: boolean): void {
    if (!this.live || (sameNodes(nodes, this.#asked.nodes) && placebo === this.#asked.placebo)) return;
    this.#asked = { nodes, placebo };
    if (nodes.length) this.events.progress(null);
    // With no nodes it only stops what is under way.
    this.#ablations.ask("ablate", { nodes, scale: 0, placebo });
    if (nodes.length) return;
    this.ablated = null;
    this.events.progress(undefined);
  }

  get ablating(): boolean {
    return this.#asked.nodes.length > 0 && this.#ablations.pending;
  }

  // --- answers

  #hear(message: Message, buffers: DataView[]): void {
    clearTimeout(this.#silence);
    try {
      this.#take(message, buffers);
    } catch (error) {
      this.events.progress(undefined);
      this.events.error(`the kernel's answer cannot be read: ${(error as Error).message}`);
    }
  }

  #take(message: Message, buffers: DataView[]): void {
    if (message.kind === "graph") {
      this.network = new Network(message, buffers);
      this.events.graph();
    } else if (message.kind === "card") {
      if ("missing" in message) this.#takeCard(message.node, message.missing);
      else this.#learnCard(message, buffers);
      if (this.#wanted === message.node) this.#wanted = null;
      this.events.card();
    } else if (message.kind === "ablated") this.#takeAblated(message);
    else if (message.kind === "frozen") this.#thaw(message, buffers);
    else if (message.kind === "progress") {
      const stale = this.#ablations.isOwn(message.id) && !this.#ablations.isNewest(message.id);
      if (!stale) this.events.progress(message.total ? message.done / message.total : null);
    } else if (message.kind !== "panel") this.#end(message.id, message.kind === "error" ? message.message : null);
  }

  #takeAblated(message: AblatedMessage): void {
    this.#ablations.settle(message.id);
    if (!sameNodes(message.nodes, this.#asked.nodes)) return;
    this.ablated = message;
    this.events.progress(undefined);
    this.events.ablated();
  }

  #thaw(message: FrozenMessage, buffers: readonly DataView[]): void {
    let at = 0;
    const next = (part: { readonly arrays: readonly unknown[] }): readonly DataView[] => buffers.slice(at, (at += part.arrays.length));
    this.network = new Network(message.graph, next(message.graph));
    for (const card of message.cards) this.#learnCard(card, next(card));
    this.ablated = message.ablated;
    this.events.graph();
  }

  /** A question that failed with these words, or, null, that was overtaken. */
  #end(id: string, failed: string | null): void {
    const ours = [this.#graphs, this.#cardRequests, this.#ablations].find((each) => each.isOwn(id));
    if (!ours) return;
    if (ours === this.#cardRequests) this.#wanted = null;
    if (ours === this.#ablations) {
      if (!ours.settle(id) || !ours.isNewest(id)) return;
      this.events.progress(undefined);
      // Asked again for the same, Python tries again.
      this.#asked = { nodes: [], placebo: this.#asked.placebo };
      this.events.ablated();
    }
    if (failed !== null) this.events.error(failed);
  }
}
