// Writing on: the model's likeliest token is put after the prompt and read, again and again, each column as it comes.
import { button, make } from "../shared/dom.ts";
import { tokenNodes, type Piece } from "../shared/tokens.ts";
import type { Doings, Looked } from "./contract.ts";

const COUNT = 12;

export class Writing {
  readonly element = make("div", "lk-strip");
  readonly #text = make("span", "lk-continued");
  readonly #state = make("span", "lk-state");
  readonly #go: HTMLButtonElement;
  readonly #count = make("input", "lk-small");
  #looked: Looked | null = null;
  /** How many tokens there will be; null while nothing is being written. */
  #until: number | null = null;
  /** What was written when the last token was put: anything else is somebody's change, and the end. */
  #expected = "";

  constructor(private readonly doings: Doings) {
    const { signal } = doings;
    this.#go = button("", () => this.toggle(), signal);
    this.#count.type = "number";
    [this.#count.min, this.#count.max, this.#count.value] = ["1", "200", String(COUNT)];
    this.#count.setAttribute("aria-label", "tokens to write");
    const take = button("Take into the prompt", () => this.#take(), signal);
    const clear = button("Clear", () => doings.change({ written: [] }), signal);
    const tools = make("span", "lk-tools", this.#count, this.#go, take, clear);
    this.#state.setAttribute("role", "status");
    this.element.append(this.#text, this.#state, tools);
    this.element.hidden = true;
  }

  get busy(): boolean {
    return this.#until !== null;
  }

  /** Begins, or stops. */
  toggle(): void {
    if (this.stop() || !this.#looked) return;
    const { written } = this.#looked.spec;
    const count = Math.max(1, Math.min(200, Math.round(Number(this.#count.value) || COUNT)));
    this.#until = written.length + count;
    this.#expected = JSON.stringify(written);
    this.#next(this.#looked);
  }

  stop(): boolean {
    const busy = this.busy;
    this.#until = null;
    if (busy) this.#label();
    return busy;
  }

  show(looked: Looked): void {
    this.#looked = looked;
    const { spec, answer } = looked;
    if (this.busy && JSON.stringify(spec.written) !== this.#expected) this.stop();
    if (this.busy) this.#next(looked);
    this.element.hidden = !spec.written.length && !this.busy;
    // What is read lags behind what is to be read.
    const { written } = answer.message;
    const { first } = answer;
    const from = first.positions - written.length;
    this.#text.replaceChildren(...written.map((_, i) => make("bdi", "lk-token", ...tokenNodes(first.piece(first.tokenId(from + i))))));
    this.#label();
  }

  /** Puts the next token, once what was put is read. */
  #next({ spec, answer }: Looked): void {
    const { first, message } = answer;
    if (this.#until === null || message.prompt !== spec.prompt || JSON.stringify(message.written) !== this.#expected) return;
    const { facts } = this.doings;
    const next = first.topId(first.positions - 1, first.rows - 1);
    if (spec.written.length >= this.#until || facts.ends.includes(next) || first.positions >= facts.context) {
      this.stop();
      return;
    }
    const written = [...spec.written, next];
    this.#expected = JSON.stringify(written);
    // Not within the drawing of the answer before.
    queueMicrotask(() => this.busy && this.doings.change({ written }));
  }

  #label(): void {
    this.#go.textContent = this.busy ? "Stop" : "more";
    this.#go.title = this.busy ? "Esc" : "write so many more tokens (G)";
    const count = this.#looked?.spec.written.length ?? 0;
    this.#state.textContent = this.busy ? `${count} of ${this.#until}` : "";
  }

  #take(): void {
    const { spec, answer } = this.#looked as Looked;
    const { first, message } = answer;
    const from = first.positions - message.written.length;
    const pieces = message.written.map((_, i) => first.piece(first.tokenId(from + i)));
    this.stop();
    this.doings.change({ prompt: spec.prompt + textOf(pieces), written: [] });
  }
}

/** Pieces put together: bytes that are whole characters only with their neighbours become these. */
function textOf(pieces: readonly (Piece | undefined)[]): string {
  const encoder = new TextEncoder();
  const bytes = pieces.flatMap((piece) => (typeof piece === "string" ? [...encoder.encode(piece)] : [...(piece ?? [])]));
  return new TextDecoder().decode(new Uint8Array(bytes));
}
