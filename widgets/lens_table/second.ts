// The second module: fetched from Python when it is first needed, and imported from a blob as anywidget does with the first.
import { make } from "../shared/dom.ts";
import type { Doings, MakePanel, Panel } from "../lens_panel/contract.ts";

interface Module {
  readonly source: string;
  readonly css: string;
}

export class Second {
  panel: Panel | null = null;
  #asked = false;
  readonly #waiting: ((panel: Panel) => void)[] = [];

  constructor(
    private readonly doings: Doings,
    /** Puts its stylesheet and its elements in their places. */
    private readonly came: (panel: Panel, style: HTMLElement) => void,
    private readonly failed: (text: string) => void,
  ) {}

  /** Sees to it that it comes, and calls `then` once it is here. */
  async need(then?: (panel: Panel) => void): Promise<void> {
    if (this.panel) return then?.(this.panel);
    if (then) this.#waiting.push(then);
    if (this.#asked) return;
    this.#asked = true;
    try {
      const { source, css } = (this.doings.model.get("panel") as Module | undefined) ?? (await this.#fetched());
      const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      const { default: panel } = (await import(/* @vite-ignore */ url)) as { default: MakePanel };
      URL.revokeObjectURL(url);
      if (this.doings.signal.aborted) return;
      this.panel = panel(this.doings);
      this.came(this.panel, make("style", "", css));
      for (const each of this.#waiting) each(this.panel);
    } catch (error) {
      this.failed(`this page does not let the panel load: ${(error as Error).message}`);
    }
  }

  #fetched(): Promise<Module> {
    const { model, signal } = this.doings;
    return new Promise((found) => {
      const heard = (message: Module & { readonly kind: string }): void => {
        if (message.kind !== "panel") return;
        model.off("msg:custom", heard);
        found(message);
      };
      model.on("msg:custom", heard);
      signal.addEventListener("abort", () => model.off("msg:custom", heard));
      model.send({ v: 1, kind: "panel", id: "panel" });
    });
  }
}
