import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import widget from "../lens_table/index.ts";
import { FACTS, SPEC, StubModel, tableReply, type Reply } from "./stub.ts";

/** Observers that tell whether they still observe. jsdom has no layout, so nothing ever resizes. */
const observing = new Set<object>();
class StubResizeObserver {
  observe(): void {
    observing.add(this);
  }
  disconnect(): void {
    observing.delete(this);
  }
}

let model: StubModel;
let el: HTMLElement;
let end: () => void;

function start(spec: object = {}, facts: object = {}): void {
  model = new StubModel({ spec: { ...SPEC, ...spec }, facts: { ...FACTS, ...facts } });
  el = document.createElement("div");
  document.body.append(el);
  const props = { model, el, signal: new AbortController().signal } as unknown as Parameters<typeof widget.render>[0];
  end = widget.render(props) as () => void;
}

const reply = (table: Reply): void => model.emit("msg:custom", ...tableReply(model.sent.at(-1)?.id ?? "", table));
const find = (selector: string): HTMLElement => el.querySelector(selector) as HTMLElement;
const press = (key: string, on = find("[role=grid]"), more: KeyboardEventInit = {}): KeyboardEvent => {
  const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more });
  on.dispatchEvent(event);
  return event;
};
const spec = (): typeof SPEC => model.state.spec as typeof SPEC;

beforeEach(() => {
  vi.stubGlobal("ResizeObserver", StubResizeObserver);
  // jsdom draws nothing: what the canvas shows is tested in a browser.
  vi.spyOn(HTMLCanvasElement.prototype, "getContext").mockReturnValue(null);
});

afterEach(() => {
  end();
  el.remove();
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

describe("the view", () => {
  it("asks for its table when it is rendered", () => {
    start();
    expect(model.sent).toMatchObject([{ kind: "read", prompt: "a b", target: null, have: null }]);
  });

  it("shows the table with the last layer on top", () => {
    start();
    reply({ table: 1 });
    const rows = [...el.querySelectorAll("[role=row]")].slice(1);
    expect(rows.map((row) => row.querySelector("[role=rowheader]")?.textContent)).toEqual(["1", "0"]);
    expect([...el.querySelectorAll("[role=gridcell]")].map((cell) => cell.getAttribute("aria-label"))).toEqual([
      "layer 1, position 0: ·tok1, probability .500",
      "layer 1, position 1: ·tok1, probability .500",
      "layer 0, position 0: ·tok1, probability .500",
      "layer 0, position 1: ·tok1, probability .500",
    ]);
  });

  it("pins with Enter, moves with the arrows and unpins with Escape", () => {
    start();
    reply({ table: 1 });
    press("ArrowLeft");
    press("ArrowDown");
    press("Enter");
    expect(spec().selection).toEqual({ layer: 0, pos: 0 });
    expect(find("[aria-selected=true]").getAttribute("aria-colindex")).toBe("2");
    press("Escape");
    expect(spec().selection).toBeNull();
    expect(model.saves).toBe(2);
  });

  it("undoes and redoes what was chosen", () => {
    start();
    reply({ table: 1 });
    press("Enter");
    press("z", undefined, { ctrlKey: true });
    expect(spec().selection).toBeNull();
    press("Z", undefined, { ctrlKey: true, shiftKey: true });
    expect(spec().selection).toEqual({ layer: 1, pos: 1 });
  });

  it("asks again when Python changes the prompt, and not when it changes the selection", () => {
    vi.useFakeTimers();
    start();
    reply({ table: 1 });
    model.set("spec", { ...spec(), selection: { layer: 0, pos: 1 } });
    vi.runAllTimers();
    expect(model.sent).toHaveLength(1);
    expect(find("[aria-selected=true]").getAttribute("aria-colindex")).toBe("3");
    model.set("spec", { ...spec(), prompt: "c" });
    vi.runAllTimers();
    expect(model.sent.slice(1)).toMatchObject([{ prompt: "c", have: 1 }]);
    expect((find("textarea") as HTMLTextAreaElement).value).toBe("c");
  });

  it("makes the top token the target with T, and says so to Python", () => {
    start();
    reply({ table: 1, token: 3 });
    press("t");
    expect(spec().target).toBe(3);
    expect(model.sent.at(-1)).toMatchObject({ target: 3, have: 1 });
  });

  it("shows an error, keeps the picture, and forgets the error with the next table", () => {
    start();
    reply({ table: 1 });
    press("t");
    model.emit("msg:custom", { v: 1, kind: "error", id: model.sent.at(-1)?.id, message: "no memory: shorten it" }, []);
    expect(find("[role=alert]").textContent).toBe("no memory: shorten it");
    expect(el.querySelectorAll("[role=gridcell]")).toHaveLength(4);
    press("t");
    expect(model.sent).toHaveLength(3);
    reply({ table: 2 });
    expect(find("[role=alert]").textContent).toBe("");
  });

  it("keeps the keys it handles, and plain letters, from the notebook, and no others", () => {
    start();
    reply({ table: 1 });
    const heard: string[] = [];
    const listener = (event: KeyboardEvent): void => void heard.push(event.key);
    document.addEventListener("keydown", listener);
    for (const key of ["ArrowDown", "Enter", "Escape", "x", "d", "?"]) press(key);
    press("s", undefined, { ctrlKey: true });
    press("Enter", undefined, { shiftKey: true });
    document.removeEventListener("keydown", listener);
    expect(heard).toEqual(["s", "Enter"]);
  });
});

describe("a frozen view", () => {
  it("cannot be typed in and makes no target, and everything else works", () => {
    start({}, { live: false });
    reply({ table: 1 });
    expect((find("textarea") as HTMLTextAreaElement).readOnly).toBe(true);
    expect(el.textContent).toContain("frozen: open the notebook to type");
    press("t");
    expect(spec().target).toBeNull();
    expect([...el.querySelectorAll(".lk-actions button")].map((b) => b.textContent)).toEqual(["Copy as Python"]);
    press("Enter");
    expect(spec().selection).toEqual({ layer: 1, pos: 1 });
  });
});

describe("the clean-up", () => {
  it("leaves no listener, no observer, no timer and no element", () => {
    vi.useFakeTimers();
    const added: { target: EventTarget; options: AddEventListenerOptions }[] = [];
    const original = EventTarget.prototype.addEventListener;
    const spy = vi.spyOn(EventTarget.prototype, "addEventListener").mockImplementation(function (this: EventTarget, ...args) {
      if (!(this instanceof AbortSignal)) added.push({ target: this, options: (args[2] ?? {}) as AddEventListenerOptions });
      original.apply(this, args);
    });
    const media = new EventTarget();
    vi.stubGlobal("matchMedia", () => media);
    const disconnect = vi.spyOn(MutationObserver.prototype, "disconnect");
    start();
    reply({ table: 1 });
    expect(added.some(({ target }) => target === media)).toBe(true);
    expect([model.listening, observing.size]).toEqual([3, 2]);
    end();
    spy.mockRestore();
    expect(added.every(({ options }) => options.signal?.aborted)).toBe(true);
    expect([model.listening, observing.size, vi.getTimerCount(), el.childElementCount]).toEqual([0, 0, 0, 0]);
    expect(disconnect).toHaveBeenCalled();
  });
});
