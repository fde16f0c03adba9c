// Undo and redo of the spec, which is the whole state of a view.

/** Changes of the same fields within this time are one step: typing a word, or walking over cells. */
const ONE_STEP_MS = 1000;

export class History<Spec extends object> {
  readonly #past: Spec[] = [];
  #future: Spec[] = [];
  #last = { fields: "", at: Number.NEGATIVE_INFINITY };

  /** Notes that `before` was changed in `fields`. */
  record(before: Spec, fields: readonly string[], now = performance.now()): void {
    const names = [...fields].sort().join();
    const sameStep = names === this.#last.fields && now - this.#last.at < ONE_STEP_MS && this.#past.length > 0;
    if (!sameStep) this.#past.push(before);
    this.#future = [];
    this.#last = { fields: names, at: now };
  }

  get canUndo(): boolean {
    return this.#past.length > 0;
  }

  undo(present: Spec): Spec | undefined {
    return this.#move(this.#past, this.#future, present);
  }

  redo(present: Spec): Spec | undefined {
    return this.#move(this.#future, this.#past, present);
  }

  #move(from: Spec[], to: Spec[], present: Spec): Spec | undefined {
    const spec = from.pop();
    if (spec === undefined) return undefined;
    to.push(present);
    this.#last = { fields: "", at: Number.NEGATIVE_INFINITY };
    return spec;
  }
}
