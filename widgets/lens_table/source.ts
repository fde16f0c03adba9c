// Where tables come from: questions to Python, and which of its answers are taken.
import type { AnyModel } from "@anywidget/types";
import { Requests } from "../shared/requests.ts";
import type { Comparing, Difference } from "./compared.ts";
import { Table, type SideMessage, type TableMessage } from "./table.ts";

/** What a table answers. */
export interface Question {
  readonly prompt: string;
  readonly target: number | null;
  readonly versus: number | null;
  readonly lens: string;
  readonly second: string | null;
  readonly other: string | null;
  readonly written: readonly number[];
  readonly words: boolean;
}

interface Read extends Question {
  readonly have: number | null;
  readonly have_beside: number | null;
}

/** What Python answered: a reading, and in a comparison the one beside it. */
export interface Answer {
  readonly message: TableMessage;
  readonly first: Table;
  readonly second: Table | null;
  readonly difference: Difference | null;
}

/** The question alone, of what may hold more. */
export function question({ prompt, target, versus, lens, second, other, written, words }: Question): Question {
  return { prompt, target, versus, lens, second, other, written, words };
}

const sameQuestion = (a: Question, b: Question): boolean => JSON.stringify(question(a)) === JSON.stringify(question(b));

type Message =
  | { readonly kind: "progress"; readonly id: string; readonly done: number; readonly total: number }
  | { readonly kind: "superseded"; readonly id: string }
  | { readonly kind: "error"; readonly id: string; readonly message: string }
  | TableMessage;

export interface SourceEvents {
  /** A new answer; the columns before `from` are those of the one before, on both sides. */
  table(answer: Answer, from: number): void;
  /** As `PromptField.progress`. */
  progress(share: number | null | undefined): void;
  error(text: string): void;
  /** No word from Python for a while. */
  silent(): void;
  /** Fetches what compares two readings, and calls back. */
  comparing(then: () => void): void;
}

/** Tables kept as bases: a reply continues the table that was here when it was asked for. */
const HELD = 4;
const SILENT_MS = 4000;

export class TableSource {
  answer: Answer | null = null;
  /** Here from the first comparison on. */
  comparing: Comparing | null = null;
  readonly #requests: Requests<Read>;
  readonly #held: Table[] = [];
  readonly #heldBeside: Table[] = [];
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
    this.#ask(question, true);
  }

  /** The reading, and in a comparison its first side. */
  get table(): Table | null {
    return this.answer?.first ?? null;
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
  asked(question: Question): boolean {
    return !this.#failed && this.#asked !== null && sameQuestion(this.#asked, question);
  }

  #ask(question: Question, continuing: boolean): void {
    this.#asked = question;
    this.#failed = false;
    this.events.progress(null);
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.events.silent(), SILENT_MS);
    const have = continuing ? (this.table?.number ?? null) : null;
    const beside = continuing ? (this.#heldBeside.at(-1)?.number ?? null) : null;
    this.#requests.ask("read", { ...question, have, have_beside: beside });
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
        const again = this.#asked as Question;
        this.readAfterOthers(() => again);
      }
    } else if (!own && !this.#requests.pending) {
      this.events.progress(undefined);
    }
  }

  #take(message: TableMessage, buffers: DataView[]): void {
    if (message.between && !this.comparing) return this.events.comparing(() => this.#take(message, buffers));
    if (!this.#requests.settle(message.id)) return;
    if (this.table && message.table < this.table.number) return;
    const sides = [message, ...(message.beside ? [message.beside] : [])];
    const bases = sides.map((side, i) => (i ? this.#heldBeside : this.#held).find(({ number }) => number === side.base) ?? null);
    if (sides.some((side, i) => side.base !== null && !bases[i])) {
      if (this.#asked && !this.#requests.pending) this.#ask(this.#asked, false);
      return;
    }
    let answer: Answer;
    try {
      answer = answerOf(message, sides, bases, buffers, this.comparing);
    } catch (error) {
      this.#failed = true;
      this.events.progress(undefined);
      this.events.error(`the kernel's answer cannot be read: ${(error as Error).message}`);
      return;
    }
    const before = [this.answer?.first, this.answer?.second];
    const from = sides.every((_, i) => bases[i] && bases[i] === before[i]) ? Math.min(...sides.map(({ start }) => start)) : 0;
    this.answer = answer;
    keep(this.#held, answer.first);
    if (answer.second) keep(this.#heldBeside, answer.second);
    if (this.#asked) this.#asked = question(message);
    this.events.progress(this.#requests.pending ? null : undefined);
    this.events.table(answer, from);
  }
}

function keep(held: Table[], table: Table): void {
  held.push(table);
  if (held.length > HELD) held.shift();
}

/** The buffers are those of the first side, of the other side, and of what is between them. */
function answerOf(message: TableMessage, sides: readonly SideMessage[], bases: readonly (Table | null)[], buffers: readonly DataView[], comparing: Comparing | null): Answer {
  let at = 0;
  const take = (count: number): readonly DataView[] => buffers.slice(at, (at += count));
  const [first, second = null] = sides.map((side, i) => {
    const last = i === sides.length - 1 && !message.between;
    return Table.of(side, last ? buffers.slice(at) : take(side.arrays.length), bases[i] ?? null);
  });
  const difference = second && message.between && comparing ? comparing.differenceOf(first as Table, second, message.between, buffers.slice(at)) : null;
  return { message, first: first as Table, second, difference };
}
