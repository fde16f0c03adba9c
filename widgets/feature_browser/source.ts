// Where rows, cards and firings come from: questions to Python, and which of its answers are taken.
import type { AnyModel } from "@anywidget/types";
import { Requests } from "../shared/requests.ts";
import { Frozen } from "./frozen.ts";
import type { ListQuestion, Message, SteeredMessage } from "./messages.ts";
import { PAGE, Rows, sameList } from "./rows.ts";
import type { Steer } from "./spec.ts";
import { cardOf, Fired, rowsOf, steeredOf, throughOf, Words, type Card, type Steered } from "./values.ts";

export interface SteerQuestion extends Steer {
  readonly prompt: string;
  readonly feature: number;
  readonly pos: number | null;
}

export interface SourceEvents {
  rows(): void;
  card(): void;
  fired(): void;
  steered(): void;
  /** As `PromptField.progress`. */
  progress(share: number | null | undefined): void;
  error(text: string): void;
  /** No word from Python for a while. */
  silent(): void;
}

const SILENT_MS = 4000;
/** So many cards are kept: one walks back and forth. */
const KEPT = 200;

const sameSteer = (a: SteerQuestion | null, b: SteerQuestion | SteeredMessage): boolean =>
  a !== null && a.prompt === b.prompt && a.feature === b.feature && a.by === b.by && a.amount === b.amount && a.pos === b.pos;

export class FeatureSource {
  readonly words = new Words();
  readonly cards = new Map<number, Card>();
  rows: Rows | null = null;
  fired: Fired | null = null;
  steered: Steered | null = null;
  frozen: Frozen | null = null;
  readonly #lists: Requests<ListQuestion & { start: number; count: number; feature: number | null }>;
  readonly #cards: Requests<{ feature: number }>;
  readonly #reads: Requests<{ prompt: string; feature: number | null }>;
  readonly #throughs: Requests<{ feature: number; layer: number; head: number }>;
  readonly #ons: Requests<{ prompt: string; feature: number }>;
  readonly #steers: Requests<SteerQuestion>;
  /** Rows of the next order, until its first answer comes: meanwhile the present ones stay. */
  #next: Rows | null = null;
  #located = new Map<string, number>();
  #wanted: number | null = null;
  #prompt: string | null = null;
  #steer: SteerQuestion | null = null;
  #foreign = false;
  #failed = false;
  #silence: ReturnType<typeof setTimeout> | undefined;

  constructor(
    model: AnyModel,
    private readonly live: boolean,
    private readonly events: SourceEvents,
    signal: AbortSignal,
  ) {
    const send = (message: object): void => model.send(message);
    this.#lists = new Requests(send);
    this.#cards = new Requests(send);
    this.#reads = new Requests(send);
    this.#throughs = new Requests(send);
    this.#ons = new Requests(send);
    this.#steers = new Requests(send);
    const heard = (message: Message, buffers: DataView[]): void => this.#hear(message, buffers);
    model.on("msg:custom", heard);
    signal.addEventListener("abort", () => {
      model.off("msg:custom", heard);
      for (const each of [this.#reads, this.#steers, this.#lists]) each.drop();
      clearTimeout(this.#silence);
    });
    if (!live) model.send({ v: 1, kind: "frozen", id: "frozen" });
  }

  // --- the list

  /** Shows another order from its beginning; the feature is looked for in it. */
  list(question: ListQuestion, feature: number | null): void {
    if (sameList((this.#next ?? this.rows)?.question ?? null, question)) return;
    this.#next = new Rows(question);
    if (this.frozen) this.#listFrozen(question, feature);
    else if (this.live) this.#askRows(this.#next, 0, PAGE, feature);
  }

  /** The rows of a stretch that are not here yet. */
  want(first: number, end: number): void {
    const { rows } = this;
    if (!rows || !this.live) return;
    for (const page of rows.lacking(first, Math.min(end, rows.total))) this.#askRows(rows, page * PAGE, PAGE, null);
  }

  /** Where a feature stands in the present order: the answer comes with `rows`. */
  locate(feature: number): void {
    const rows = this.#next ?? this.rows;
    if (rows && this.live && rows.found?.feature !== feature) this.#askRows(rows, 0, 0, feature);
  }

  #askRows(rows: Rows, start: number, count: number, feature: number | null): void {
    rows.lacking(start, start + count);
    const id = this.#lists.ask("rows", { ...rows.question, start, count, feature });
    if (feature !== null) this.#located.set(id, feature);
    if (!this.rows) this.#listen();
  }

  #listFrozen(question: ListQuestion, feature: number | null): void {
    const list = (this.frozen as Frozen).list(question);
    const rows = new Rows(question);
    const at = list.findIndex((row) => row.feature === feature);
    rows.take({ kind: "rows", id: "", asked: question, total: list.length, start: 0, at: at < 0 ? null : at, pieces: [], arrays: [] }, list, feature);
    [this.rows, this.#next] = [rows, null];
    this.events.rows();
  }

  // --- cards and the prompt

  card(feature: number): Card | undefined {
    return this.cards.get(feature);
  }

  /** Asks for a card that is not here, and for how active its feature is on the prompt. */
  askCard(feature: number): void {
    if (!this.live) return;
    if (this.cards.has(feature)) this.#wanted = null;
    else if (this.#wanted !== feature) {
      this.#wanted = feature;
      this.#cards.ask("card", { feature });
    }
    const { fired } = this;
    if (fired && !fired.on(feature)) this.#ons.ask("on", { prompt: fired.message.prompt, feature });
  }

  /** Asks for the tokens that reach a feature through a head. */
  askThrough(feature: number, layer: number, head: number): void {
    if (this.live) this.#throughs.ask("through", { feature, layer, head });
  }

  read(prompt: string, feature: number | null): void {
    [this.#prompt, this.#failed] = [prompt, false];
    if (!this.live) return;
    this.events.progress(null);
    this.#listen();
    this.#reads.ask("read", { prompt, feature });
  }

  /** Reads when typing rests. */
  readSoon(then: () => void): void {
    this.#foreign = false;
    this.#reads.soon(then);
  }

  /** Reads what the spec now says, unless another view of the same widget is heard to ask already. */
  readAfterOthers(then: () => void): void {
    this.#foreign = true;
    this.#reads.soon(then);
  }

  get typing(): boolean {
    return this.#reads.waiting && !this.#foreign;
  }

  /** Whether a prompt's firing is here, or asked for. */
  answered(prompt: string): boolean {
    if (this.#failed) return false;
    return this.#reads.pending ? this.#prompt === prompt : this.fired?.message.prompt === prompt;
  }

  // --- steering

  /** What a change of the feature does; null for none. */
  steer(question: SteerQuestion | null): void {
    if (!this.live) return;
    const same = question ? sameSteer(this.#steer, question) : this.#steer === null;
    if (same) return;
    this.#steer = question;
    this.#steers.drop();
    if (question) this.#steers.soon(() => this.#askSteer());
    else if (this.steered) {
      this.steered = null;
      this.events.steered();
    }
  }

  get steering(): boolean {
    return this.#steers.waiting || this.#steers.pending;
  }

  #askSteer(): void {
    if (this.#steer) this.#steers.ask("steer", this.#steer);
  }

  // --- answers

  #listen(): void {
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.events.silent(), SILENT_MS);
  }

  #hear(message: Message, buffers: DataView[]): void {
    clearTimeout(this.#silence);
    try {
      if ("pieces" in message) this.words.learn(message.pieces);
      this.#take(message, buffers);
    } catch (error) {
      this.#failed = true;
      this.events.progress(undefined);
      this.events.error(`the kernel's answer cannot be read: ${(error as Error).message}`);
    }
  }

  #take(message: Message, buffers: DataView[]): void {
    if (message.kind === "rows") {
      const rows = [this.#next, this.rows].find((each) => each && sameList(each.question, message.asked));
      this.#lists.settle(message.id);
      if (!rows) return;
      if (rows === this.#next) [this.rows, this.#next] = [rows, null];
      rows.take(message, rowsOf(message, buffers), this.#located.get(message.id) ?? null);
      this.#located.delete(message.id);
      this.events.rows();
    } else if (message.kind === "card") this.#takeCard(cardOf(message, buffers));
    else if (message.kind === "on") {
      this.fired?.add(message, buffers);
      this.events.card();
    } else if (message.kind === "through") {
      this.cards.get(message.feature)?.through.set(`${message.layer}.${message.head}`, throughOf(message, buffers));
      this.events.card();
    } else if (message.kind === "fired") this.#takeFired(new Fired(message, buffers));
    else if (message.kind === "steering" || message.kind === "steered") this.#takeSteered(message, buffers);
    else if (message.kind === "frozen") this.#thaw(new Frozen(message, buffers, this.words));
    else if (message.kind === "progress") this.#advance(message.id, message.total ? message.done / message.total : null);
    else if (message.kind === "error") this.#end(message.id, message.message);
    else this.#end(message.id, null);
  }

  #takeCard(card: Card): void {
    this.cards.delete(card.feature);
    this.cards.set(card.feature, card);
    const oldest = this.cards.keys().next();
    if (this.cards.size > KEPT && !oldest.done) this.cards.delete(oldest.value);
    this.events.card();
  }

  #takeFired(fired: Fired): void {
    const { id, prompt } = fired.message;
    const own = this.#reads.isOwn(id);
    if (own && !this.#reads.settle(id)) return;
    if (!own && this.#foreign) this.#reads.drop();
    if (!own && this.#reads.pending && prompt !== this.#prompt) return;
    this.fired = fired;
    this.events.progress(this.#reads.pending ? null : undefined);
    this.events.fired();
  }

  #takeSteered(message: SteeredMessage, buffers: DataView[]): void {
    if (message.kind === "steered") this.#steers.settle(message.id);
    if (!sameSteer(this.#steer, message)) return;
    this.steered = steeredOf(message, buffers);
    this.events.steered();
  }

  #thaw(frozen: Frozen): void {
    this.frozen = frozen;
    for (const [feature, card] of frozen.cards) this.cards.set(feature, card);
    [this.fired, this.steered] = [frozen.fired, frozen.steered];
    if (this.#next) this.#listFrozen(this.#next.question, null);
    this.events.fired();
    this.events.steered();
  }

  #advance(id: string, share: number | null): void {
    const own = this.#reads.isOwn(id);
    if (this.#steers.isOwn(id) || (own && !this.#reads.isNewest(id))) return;
    if (!own && this.#foreign) this.#reads.drop();
    this.events.progress(share);
  }

  /** A question that failed with these words, or, null, that was overtaken. */
  #end(id: string, failed: string | null): void {
    if (this.#reads.isOwn(id)) {
      if (!this.#reads.settle(id) || !this.#reads.isNewest(id)) return;
      this.events.progress(undefined);
      if (failed !== null) this.#failed = true;
      else if (!this.#reads.waiting) this.readAfterOthers(() => this.#prompt !== null && this.read(this.#prompt, null));
    } else if (this.#steers.isOwn(id)) {
      if (!this.#steers.settle(id) || !this.#steers.isNewest(id)) return;
      if (failed === null && !this.#steers.waiting) this.#steers.soon(() => this.#askSteer());
      this.events.steered();
    } else if (this.#lists.isOwn(id)) {
      this.#lists.settle(id);
      this.rows?.forget();
      this.#next = null;
    } else if (![this.#cards, this.#ons, this.#throughs].some((each) => each.isOwn(id))) return;
    else this.#wanted = null;
    if (failed !== null) this.events.error(failed);
  }
}
