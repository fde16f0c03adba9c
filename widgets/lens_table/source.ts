// Where tables come from: questions to Python, and which of its answers are taken.
import type { AnyModel } from "@anywidget/types";
import { Requests } from "../shared/requests.ts";
import { Table, type TableMessage } from "./table.ts";

/** What a table answers. */
export interface Question {
  readonly prompt: string;
  readonly target: number | null;
  readonly lens: string;
}

interface Read {
  readonly prompt: string;
  readonly target: number | null;
  readonly have: number | null;
}

type Message =
  | { readonly kind: "progress"; readonly id: string; readonly done: number; readonly total: number }
  | { readonly kind: "superseded"; readonly id: string }
  | { readonly kind: "error"; readonly id: string; readonly message: string }
  | TableMessage;

export interface SourceEvents {
  /** A new table; the columns before `from` are those of the one before. */
  table(table: Table, from: number): void;
  /** As `PromptField.progress`. */
  progress(share: number | null | undefined): void;
  error(text: string): void;
  /** No word from Python for a while. */
  silent(): void;
}

/** Tables kept as bases: a reply continues the table that was here when it was asked for. */
const HELD = 4;
const SILENT_MS = 4000;

export class TableSource {
  table: Table | null = null;
  readonly #requests: Requests<Read>;
  readonly #held: Table[] = [];
  #asked: Question | null = null;
  #foreign = false;
  #failed = false;
  #silence: ReturnType<typeof setTimeout> | undefined;

  constructor(
    model: AnyModel,
    private readonly events: SourceEvents,
    signal: AbortSignal,
  ) {
    this.#requests = new Requests((message) => model.send(message));
    const heard = (message: Message, buffers: DataView[]): void => this.#hear(message, buffers);
    model.on("msg:custom", heard);
    signal.addEventListener("abort", () => {
      model.off("msg:custom", heard);
      this.#requests.drop();
      clearTimeout(this.#silence);
    });
  }

  /** Asks at once. */
  read(question: Question): void {
    // Another lens has other columns everywhere: nothing of the old table can be kept.
    const sameLens = this.#asked?.lens === question.lens;
    this.#ask(question, sameLens ? (this.table?.number ?? null) : null);
  }

  /** Asks when typing rests. */
  readSoon(then: () => void): void {
    this.#foreign = false;
    this.#requests.soon(then);
  }

  /** Asks for what the spec now says, unless another view of the same widget is heard to ask already. */
  readAfterOthers(question: () => Question): void {
    this.#foreign = true;
    this.#requests.soon(() => this.read(question()));
  }

  /** Whether typing waits to be sent. */
  get typing(): boolean {
    return this.#requests.waiting && !this.#foreign;
  }

  /** Whether this was the last question, and need not be asked again. */
  asked({ prompt, target, lens }: Question): boolean {
    return !this.#failed && this.#asked?.prompt === prompt && this.#asked.target === target && this.#asked.lens === lens;
  }

  #ask(question: Question, have: number | null): void {
    const { prompt, target } = (this.#asked = question);
    this.#failed = false;
    this.events.progress(null);
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.events.silent(), SILENT_MS);
    this.#requests.ask("read", { prompt, target, have });
  }

  #hear(message: Message, buffers: DataView[]): void {
    clearTimeout(this.#silence);
    const { id } = message;
    const own = this.#requests.isOwn(id);
    if (message.kind === "progress") {
      if (own && !this.#requests.isNewest(id)) return;
      if (!own && this.#foreign) this.#requests.drop();
      this.events.progress(message.total ? message.done / message.total : null);
    } else if (message.kind === "table") {
      if (!own && this.#foreign) this.#requests.drop();
      this.#take(message, buffers);
    } else if (own && this.#requests.settle(id) && this.#requests.isNewest(id)) {
      this.events.progress(undefined);
      if (message.kind === "error") {
        this.#failed = true;
        this.events.error(message.message);
      } else if (!this.#requests.waiting) {
        // Given up for another view's question, whose answer will come here too, or for a cell of the notebook that
        // read the table itself, which sends nothing: then this view is the one to ask.
        const question = this.#asked as Question;
        this.readAfterOthers(() => question);
      }
    } else if (!own && !this.#requests.pending) {
      this.events.progress(undefined);
    }
  }

  #take(message: TableMessage, buffers: DataView[]): void {
    if (!this.#requests.settle(message.id)) return;
    if (this.table && message.table < this.table.number) return;
    const base = this.#held.find((table) => table.number === message.base) ?? null;
    if (message.base !== null && !base) {
      if (this.#asked && !this.#requests.pending) this.#ask(this.#asked, null);
      return;
    }
    let table: Table;
    try {
      table = Table.of(message, buffers, base);
    } catch (error) {
      this.#failed = true;
      this.events.progress(undefined);
      this.events.error(`the kernel's answer cannot be read: ${(error as Error).message}`);
      return;
    }
    const from = base && base === this.table ? message.start : 0;
    this.table = table;
    this.#held.push(table);
    if (this.#held.length > HELD) this.#held.shift();
    if (this.#asked) this.#asked = { ...this.#asked, prompt: message.prompt, target: message.target };
    this.events.progress(this.#requests.pending ? null : undefined);
    this.events.table(table, from);
  }
}
