// The second module: fetched from Python when a card, an ablation or code is first wanted, and imported from a blob as anywidget
// does with the first.
import type { AnyModel } from "@anywidget/types";
import type { MakePanel, Panel, Shown } from "../circuit_panel/contract.ts";
import type { Theme } from "../shared/colour.ts";
import type { Scene } from "./scene.ts";
import type { CircuitSource } from "./source.ts";
import type { Spec } from "./spec.ts";

/** The ablation, and the card of the chosen feature, if its layer has cards; those that are not here are asked for. */
export function shownOf(
  { network, items }: Scene,
  chosen: number | null,
  { ablated: nodes, placebo, groups }: Spec,
  source: CircuitSource,
  live: boolean,
  theme: Theme,
): Shown {
  const { ablated: answer, ablating: working, words } = source;
  const item = chosen === null ? undefined : items[chosen];
  const node = item?.group === null && network.hasCard(item.lead) ? item.lead : null;
  const card = node === null ? null : source.card(network.names[node] as string);
  return { ablation: { nodes, placebo, groups, answer, working, live }, card, active: network.activation[node ?? -1] ?? Number.NaN, words, theme };
}

interface Module {
  readonly source: string;
  readonly css: string;
}

export interface SecondEvents {
  /** Puts its stylesheet and its elements in their places. */
  came(panel: Panel, css: string): void;
  /** Changes what is ablated. */
  change(to: Partial<Spec>): void;
  error(text: string): void;
}

export class Second {
  #panel: Panel | null = null;
  #coming: Promise<Panel | null> | undefined;
  #shown: Shown | null = null;

  constructor(
    private readonly model: AnyModel,
    private readonly events: SecondEvents,
    private readonly signal: AbortSignal,
  ) {}

  /** Shows it now, or once it is here; while there is nothing to show it is not asked for. */
  show(shown: Shown): void {
    this.#shown = shown;
    if (shown.card !== null || shown.ablation.nodes.length) void this.panel();
    try {
      this.#panel?.show(shown);
    } catch (error) {
      this.events.error(`the kernel's answer cannot be read: ${(error as Error).message}`);
    }
  }

  /** What it makes, once it is here; null where it cannot come. */
  panel(): Promise<Panel | null> {
    return (this.#coming ??= this.#load());
  }

  async #load(): Promise<Panel | null> {
    try {
      const { source, css } = (this.model.get("panel") as Module | undefined) ?? (await this.#fetched());
      const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      const { default: makePanel } = (await import(/* @vite-ignore */ url)) as { default: MakePanel };
      URL.revokeObjectURL(url);
      if (this.signal.aborted) return null;
      this.#panel = makePanel((to) => this.events.change(to), this.signal);
      this.events.came(this.#panel, css);
      if (this.#shown) this.show(this.#shown);
      return this.#panel;
    } catch (error) {
      this.events.error(`this page does not let the cards load: ${(error as Error).message}`);
      return null;
    }
  }

  #fetched(): Promise<Module> {
    const { model, signal } = this;
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
