// Asking Python: typing is debounced, every request has its own id, and the last one wins.

export interface Request {
  readonly v: 1;
  readonly kind: string;
  readonly id: string;
}

/** How long typing rests before it is sent. */
export const REST_MS = 120;

export class Requests<Fields extends object> {
  readonly view: string;
  #count = 0;
  #settled = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #send: (message: Request & Fields) => void;

  constructor(send: (message: Request & Fields) => void, view = Math.random().toString(36).slice(2, 8)) {
    this.#send = send;
    this.view = view;
  }

  /** Sends at once, in place of anything still waiting. */
  ask(kind: string, fields: Fields): string {
    this.drop();
    this.#count += 1;
    const id = `${this.view}:${this.#count}`;
    this.#send({ v: 1, kind, id, ...fields });
    return id;
  }

  /** Calls `then` after a rest, unless something newer comes first. */
  soon(then: () => void): void {
    this.drop();
    this.#timer = setTimeout(() => {
      this.#timer = undefined;
      then();
    }, REST_MS);
  }

  /** Forgets what waits to be sent. */
  drop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** Whether something is waiting to be sent. */
  get waiting(): boolean {
    return this.#timer !== undefined;
  }

  /** Whether a reply to this view's newest request is still to come. */
  get pending(): boolean {
    return this.#settled < this.#count;
  }

  isOwn(id: string): boolean {
    return id.startsWith(`${this.view}:`);
  }

  isNewest(id: string): boolean {
    return id === `${this.view}:${this.#count}`;
  }

  /** Takes note of a final reply; false where a newer request has had its reply already, so that this one is stale. */
  settle(id: string): boolean {
    if (!this.isOwn(id)) return true;
    const number = Number(id.slice(this.view.length + 1));
    if (number <= this.#settled) return false;
    this.#settled = number;
    return true;
  }
}
