// A model without a kernel: anywidget's interface over frozen state, for the page that `to_html()` writes.
// The page holds one JSON block; the front-end in it is imported from a blob, so the page needs nothing else.

type Stored = readonly [message: Readonly<Record<string, unknown>>, buffers: readonly string[]];

interface Page {
  readonly frontEnd: string;
  readonly state: Record<string, unknown>;
  /** The table message and its buffers in base64. */
  readonly reply: Stored;
  /** More of them, where a page can show more than one. */
  readonly others?: readonly Stored[];
}

type Listener = (...args: unknown[]) => void;
type Deliver = (message: object, buffers: readonly string[]) => void;

declare global {
  /** A page may answer messages itself, as the component tests do; otherwise every request gets the stored table. */
  var lenskitConnect: ((model: FrozenModel, deliver: Deliver) => (message: { id: string }) => void) | undefined;
}

function bytesOf(base64: string): DataView {
  const text = atob(base64);
  return new DataView(Uint8Array.from(text, (char) => char.charCodeAt(0)).buffer);
}

class FrozenModel {
  readonly #listeners = new Map<string, Set<Listener>>();

  constructor(
    private readonly state: Record<string, unknown>,
    public send: (message: { id: string }) => void,
  ) {}

  get(name: string): unknown {
    return this.state[name];
  }
  set(name: string, value: unknown): void {
    if (JSON.stringify(this.state[name]) === JSON.stringify(value)) return;
    this.state[name] = value;
    this.emit(`change:${name}`);
  }
  on(event: string, listener: Listener): void {
    this.#listeners.set(event, (this.#listeners.get(event) ?? new Set()).add(listener));
  }
  off(event: string, listener: Listener): void {
    this.#listeners.get(event)?.delete(listener);
  }
  save_changes(): void {}
  emit(event: string, ...args: unknown[]): void {
    for (const listener of [...(this.#listeners.get(event) ?? [])]) listener(...args);
  }
}

/** The reply to the same question, as far as the page holds more than one. */
function storedFor(request: Readonly<Record<string, unknown>>, { reply, others = [] }: Page): Stored {
  const same = ([message]: Stored): boolean => ["lens", "second", "other"].every((key) => (message[key] ?? null) === (request[key] ?? null));
  return [reply, ...others].find(same) ?? reply;
}

async function start(): Promise<void> {
  const page = JSON.parse((document.getElementById("lk-data") as HTMLElement).textContent ?? "") as Page;
  const model = new FrozenModel(page.state, () => {});
  const deliver: Deliver = (message, buffers) => model.emit("msg:custom", message, buffers.map(bytesOf));
  model.send =
    globalThis.lenskitConnect?.(model, deliver) ??
    ((request) => {
      const [message, buffers] = storedFor(request as Readonly<Record<string, unknown>> & { id: string }, page);
      queueMicrotask(() => deliver({ ...message, id: request.id }, buffers));
    });
  const url = URL.createObjectURL(new Blob([page.frontEnd], { type: "text/javascript" }));
  const { default: widget } = await import(/* @vite-ignore */ url);
  URL.revokeObjectURL(url);
  const el = document.getElementById("lk-here") as HTMLElement;
  el.replaceChildren();
  await widget.render({ model, el });
}

void start();
export {};
