// Where patterns come from: questions to Python, and which of its answers are taken.
import type { AnyModel } from "@anywidget/types";
import { Requests } from "../shared/requests.ts";
import { Patterns, type HeadMessage, type PatternsMessage } from "./patterns.ts";
import { modeOf, type By, type Head, type Pick, type Show } from "./spec.ts";

/** What one answer depends on. */
export interface Question {
  readonly prompt: string;
  readonly show: Show;
  readonly hide_first: boolean;
  readonly pick: Pick;
  readonly by: By;
  readonly ablated: readonly Head[];
}

interface Read extends Question {
  readonly head: Head | null;
  readonly have: { readonly table: number | null; readonly modes: string[]; readonly kinds: string[]; readonly heads: Head[] };
}

interface AskHead {
  readonly table: number;
  readonly layer: number;
  readonly head: number;
}

type Message =
  | { readonly kind: "progress"; readonly id: string; readonly done: number; readonly total: number }
  | { readonly kind: "superseded"; readonly id: string }
  | { readonly kind: "error"; readonly id: string; readonly message: string }
  | HeadMessage
  | PatternsMessage;

export interface SourceEvents {
  patterns(patterns: Patterns): void;
  /** A head in full has come. */
  head(): void;
  /** As `PromptField.progress`. */
  progress(share: number | null | undefined): void;
  error(text: string): void;
  /** No word from Python for a while. */
  silent(): void;
}

const SILENT_MS = 4000;

const key = ({ prompt, show, hide_first, pick, by, ablated }: Question): string =>
  JSON.stringify([prompt, show, hide_first, pick, by, ablated]);

export class PatternSource {
  patterns: Patterns | null = null;
  readonly #reads: Requests<Read>;
  readonly #heads: Requests<AskHead>;
  #asked: Question | null = null;
  #head: Head | null = null;
  /** The last request for one head in full: it is not made twice. */
  #askedHead = "";
  #foreign = false;
  #failed = false;
  #silence: ReturnType<typeof setTimeout> | undefined;

  constructor(
    model: AnyModel,
    private readonly live: boolean,
    private readonly events: SourceEvents,
    signal: AbortSignal,
  ) {
    this.#reads = new Requests((message) => model.send(message));
    this.#heads = new Requests((message) => model.send(message));
    const heard = (message: Message, buffers: DataView[]): void => this.#hear(message, buffers);
    model.on("msg:custom", heard);
    signal.addEventListener("abort", () => {
      model.off("msg:custom", heard);
      this.#reads.drop();
      clearTimeout(this.#silence);
    });
  }

  /** Asks at once, and for one head in full. */
  read(question: Question, head: Head | null): void {
    [this.#asked, this.#head, this.#failed] = [question, head, false];
    this.events.progress(null);
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.events.silent(), SILENT_MS);
    const { patterns } = this;
    const have = {
      table: patterns?.number ?? null,
      modes: patterns?.modes ?? [],
      kinds: patterns?.kinds ?? [],
      heads: patterns?.full(question.show) ?? [],
    };
    const { prompt, show, hide_first, pick, by, ablated } = question;
    this.#reads.ask("read", { prompt, show, hide_first, pick, by, ablated, head, have });
  }

  /** Asks for one head in full, unless it is here. */
  readHead(head: Head, show: Show): void {
    const { patterns } = this;
    if (!this.live || !patterns?.has(head) || patterns.full(show).some(([l, h]) => l === head[0] && h === head[1])) return;
    // The sizes of the values come with the first tiles that are weighed by them.
    if (!patterns.modes.some((mode) => mode.startsWith(show))) return;
    const wanted = [patterns.number, head, show].join();
    if (wanted === this.#askedHead) return;
    this.#askedHead = wanted;
    this.#heads.ask("head", { table: patterns.number, layer: head[0], head: head[1] });
  }

  /** Asks when typing rests. */
  readSoon(then: () => void): void {
    this.#foreign = false;
    this.#reads.soon(then);
  }

  /** Asks for what the spec now says, unless another view of the same widget is heard to ask already. */
  readAfterOthers(then: () => void): void {
    this.#foreign = true;
    this.#reads.soon(then);
  }

  /** Whether typing waits to be sent. */
  get typing(): boolean {
    return this.#reads.waiting && !this.#foreign;
  }

  /** Whether an answer is on its way. */
  get pending(): boolean {
    return this.#reads.pending;
  }

  /** Whether all that the question needs is here, or asked for. */
  answered(question: Question): boolean {
    if (this.#failed || !this.#asked) return false;
    return this.#reads.pending ? key(this.#asked) === key(question) : this.#holds(question);
  }

  #holds(question: Question): boolean {
    const { patterns } = this;
    if (!patterns || patterns.message.prompt !== question.prompt) return false;
    const { ablated, by } = patterns.next;
    return (
      patterns.modes.includes(modeOf(question)) &&
      (question.pick === "all" || patterns.kinds.includes(question.pick) || patterns.positions < 2) &&
      JSON.stringify(ablated) === JSON.stringify(question.ablated) &&
      (ablated.length === 0 || by === question.by)
    );
  }

  #hear(message: Message, buffers: DataView[]): void {
    if (message.kind === "head") return this.#takeHead(message, buffers);
    if (this.#heads.isOwn(message.id)) return;
    clearTimeout(this.#silence);
    const own = this.#reads.isOwn(message.id);
    if (message.kind === "progress") {
      if (own && !this.#reads.isNewest(message.id)) return;
      if (!own && this.#foreign) this.#reads.drop();
      this.events.progress(message.total ? message.done / message.total : null);
    } else if (message.kind === "patterns") {
      if (!own && this.#foreign) this.#reads.drop();
      this.#take(message, buffers);
    } else if (own && this.#reads.settle(message.id) && this.#reads.isNewest(message.id)) {
      this.events.progress(undefined);
      if (message.kind === "error") {
        this.#failed = true;
        this.events.error(message.message);
      } else if (!this.#reads.waiting) {
        // Given up for another view's question, whose answer will come here too, or for a cell of the notebook that
        // read the patterns itself, which sends nothing: then this view is the one to ask.
        this.readAfterOthers(() => this.#asked && this.read(this.#asked, this.#head));
      }
    } else if (!own && !this.#reads.pending) {
      this.events.progress(undefined);
    }
  }

  #take(message: PatternsMessage, buffers: DataView[]): void {
    if (!this.#reads.settle(message.id)) return;
    if (this.patterns && message.table < this.patterns.number) return;
    let patterns: Patterns;
    try {
      patterns = new Patterns(message, buffers, this.patterns);
    } catch (error) {
      this.#failed = true;
      this.events.progress(undefined);
      this.events.error(`the kernel's answer cannot be read: ${(error as Error).message}`);
      return;
    }
    this.patterns = patterns;
    this.events.progress(this.#reads.pending ? null : undefined);
    this.events.patterns(patterns);
  }

  #takeHead(message: HeadMessage, buffers: DataView[]): void {
    this.#askedHead = "";
    if (this.patterns?.number !== message.table) return;
    this.patterns.add(message, buffers);
    this.events.head();
  }
}
