// Where sweeps and patches come from: questions to Python, and which of its answers are taken.
import type { AnyModel } from "@anywidget/types";
import { Requests } from "../shared/requests.ts";
import { sameQuestion, type Question } from "./spec.ts";
import { Sweep, type CellsMessage, type Patched, type PatchedMessage, type SweepHeader, type SweptMessage } from "./sweep.ts";

interface PatchAsked extends Question {
  readonly layers: readonly number[];
  readonly columns: readonly number[];
}

type Message =
  | { readonly kind: "progress"; readonly id: string; readonly done: number; readonly total: number }
  | { readonly kind: "superseded"; readonly id: string }
  | { readonly kind: "error"; readonly id: string; readonly message: string }
  | (SweepHeader & { readonly kind: "pair" })
  | SweptMessage
  | CellsMessage
  | PatchedMessage;

export interface SourceEvents {
  /** Another sweep, to be shown in place of the one before. */
  sweep(sweep: Sweep): void;
  /** The shown sweep has more values, or has come to its end. */
  cells(sweep: Sweep): void;
  /** As `PromptField.progress`. */
  progress(share: number | null | undefined): void;
  patched(sweep: Sweep, layers: readonly number[], columns: readonly number[], patched: Patched): void;
  error(text: string): void;
  /** No word from Python for a while. */
  silent(): void;
}

const SILENT_MS = 4000;

export class SweepSource {
  /** The sweep on the screen. */
  sweep: Sweep | null = null;
  /** Its successor, which has no cells yet: the last good picture stays until it has. */
  #coming: Sweep | null = null;
  readonly #sweeps: Requests<Question>;
  readonly #patches: Requests<PatchAsked>;
  #asked: Question | null = null;
  #askedId = "";
  #foreign = false;
  #failed = false;
  #silence: ReturnType<typeof setTimeout> | undefined;
  readonly #send: (message: object) => void;

  constructor(
    model: AnyModel,
    private readonly events: SourceEvents,
    signal: AbortSignal,
  ) {
    this.#send = (message) => model.send(message);
    this.#sweeps = new Requests(this.#send);
    this.#patches = new Requests(this.#send);
    const heard = (message: Message, buffers: DataView[]): void => this.#hear(message, buffers);
    model.on("msg:custom", heard);
    signal.addEventListener("abort", () => {
      model.off("msg:custom", heard);
      this.#sweeps.drop();
      this.#patches.drop();
      clearTimeout(this.#silence);
      // Nobody looks any more: a sweep that only this view asked for is not to go on.
      this.stop();
    });
  }

  /** Asks at once. */
  ask(question: Question): void {
    this.#asked = question;
    this.#failed = false;
    this.events.progress(null);
    clearTimeout(this.#silence);
    this.#silence = setTimeout(() => this.events.silent(), SILENT_MS);
    this.#askedId = this.#sweeps.ask("sweep", question);
  }

  /** Asks when typing rests. */
  askSoon(then: () => void): void {
    this.#foreign = false;
    this.#sweeps.soon(then);
  }

  /** Asks for what the spec now says, unless another view of the same widget is heard to ask already. */
  askAfterOthers(question: () => Question): void {
    this.#foreign = true;
    this.#sweeps.soon(() => this.ask(question()));
  }

  /** Whether typing waits to be sent. */
  get typing(): boolean {
    return this.#sweeps.waiting && !this.#foreign;
  }

  /** Whether a sweep that this view asked for is under way. */
  get working(): boolean {
    return this.#sweeps.pending;
  }

  /** Whether this was the last question, and need not be asked again. */
  asked(question: Question): boolean {
    return !this.#failed && sameQuestion(this.#asked, question);
  }

  /** Stops the sweep under way; what is exact by then is kept. */
  stop(): void {
    if (this.#sweeps.pending) this.#send({ v: 1, kind: "stop", id: this.#askedId });
  }

  /** One patch of the shown sweep, now. */
  patch(layers: readonly number[], columns: readonly number[]): void {
    if (!this.sweep) return;
    const { clean, corrupt, site, direction, metric, answer, against } = this.sweep.header;
    this.#patches.ask("patch", { clean, corrupt, site, direction, metric, answer, against, layers, columns });
  }

  #hear(message: Message, buffers: DataView[]): void {
    clearTimeout(this.#silence);
    try {
      if (message.kind === "pair") this.#pair(message, buffers);
      else if (message.kind === "cells") this.#cells(message, buffers);
      else if (message.kind === "swept") this.#swept(message, buffers);
      else if (message.kind === "patched") this.#patched(message, buffers);
      else if (message.kind === "progress") this.#progress(message.id, message.total ? message.done / message.total : null);
      else if (this.#patches.isOwn(message.id)) this.#noPatch(message);
      else this.#noSweep(message);
    } catch (error) {
      this.#failed = true;
      this.events.progress(undefined);
      this.events.error(`the kernel's answer cannot be read: ${(error as Error).message}`);
    }
  }

  /** Whether a sweep's message is stale: of a question of this view that is not its last. */
  #stale(id: string): boolean {
    return this.#sweeps.isOwn(id) && !this.#sweeps.isNewest(id);
  }

  #progress(id: string, share: number | null): void {
    if (!this.#stale(id) && !this.#patches.isOwn(id)) this.events.progress(share);
  }

  #pair(message: SweepHeader, buffers: DataView[]): void {
    if (this.#stale(message.id)) return;
    if (!this.#sweeps.isOwn(message.id) && this.#foreign) this.#sweeps.drop();
    this.#coming = new Sweep(message, buffers);
    if (!this.sweep) this.#show(this.#coming);
  }

  #show(sweep: Sweep): void {
    [this.sweep, this.#coming] = [sweep, null];
    const { clean, corrupt, site, direction, metric, answer, against } = sweep.header;
    if (!this.#sweeps.pending) this.#asked = { clean, corrupt, site, direction, metric, answer, against };
    this.events.sweep(sweep);
  }

  #cells(message: CellsMessage, buffers: DataView[]): void {
    if (this.#coming?.header.id === message.id) this.#show(this.#coming);
    if (this.sweep?.header.id !== message.id) return;
    this.sweep.take(message, buffers);
    this.events.progress(message.done ? message.done / Math.max(1, message.total) : null);
    this.events.cells(this.sweep);
  }

  #swept(message: SweptMessage, buffers: DataView[]): void {
    if (this.#stale(message.id) || !this.#sweeps.settle(message.id)) return;
    if (this.#coming?.header.id === message.id) this.#show(this.#coming);
    if (this.sweep?.header.id === message.id) {
      this.sweep.finish(message, buffers);
    } else {
      if (!this.#sweeps.isOwn(message.id) && this.#foreign) this.#sweeps.drop();
      const sweep = new Sweep(message, buffers);
      sweep.end(message);
      this.#show(sweep);
    }
    this.events.progress(this.#sweeps.pending ? null : undefined);
    this.events.cells(this.sweep as Sweep);
  }

  #patched(message: PatchedMessage, buffers: DataView[]): void {
    this.#patches.settle(message.id);
    if (!this.sweep?.answers(message)) return;
    const patched = this.sweep.keep(message, buffers);
    this.events.patched(this.sweep, message.layers, message.columns, patched);
  }

  #noPatch(message: { kind: string; id: string; message?: string }): void {
    const newest = this.#patches.settle(message.id) && this.#patches.isNewest(message.id);
    if (newest && message.kind === "error") this.events.error(message.message ?? "");
  }

  #noSweep(message: { kind: string; id: string; message?: string }): void {
    if (!this.#sweeps.isOwn(message.id)) {
      if (!this.#sweeps.pending) this.events.progress(undefined);
      return;
    }
    if (!this.#sweeps.settle(message.id) || !this.#sweeps.isNewest(message.id)) return;
    this.events.progress(undefined);
    if (message.kind === "error") {
      this.#failed = true;
      this.events.error(message.message ?? "");
    } else if (!this.#sweeps.waiting) {
      // Overtaken by another view's question, whose answer will come here too, or by a cell of the notebook.
      const question = this.#asked as Question;
      this.askAfterOthers(() => question);
    }
  }
}
