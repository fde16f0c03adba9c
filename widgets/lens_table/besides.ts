// What stands beside the first reading: the choices of lens, view and second side, and what they remember.
import { withLens, withView } from "./asking.ts";
import type { Facts, Spec, View } from "./spec.ts";

export interface BesideEvents {
  change(patch: Partial<Spec>): void;
  /** A second prompt has come, and is to be typed. */
  typed(): void;
}

export class Besides {
  /** The second prompt that was compared last, while a lens is compared. */
  #lastOther: string | null = null;
  /** The lens of the comparison that a frozen page holds. */
  readonly #compared: string;

  constructor(
    private readonly facts: Facts,
    spec: Spec,
    private readonly events: BesideEvents,
  ) {
    this.#compared = spec.lens;
  }

  lens(spec: Spec, lens: string): void {
    // A frozen page holds each lens by itself, and one comparison.
    this.events.change(this.facts.live ? withLens(spec, lens) : { lens, view: "one" });
  }

  view(spec: Spec, view: View): void {
    const { live, lenses } = this.facts;
    const patch = withView(spec, view, lenses);
    this.events.change(live || view === "one" ? patch : { ...patch, lens: this.#compared });
    if (spec.other === null && patch.other != null) this.events.typed();
  }

  /** `null` is another prompt. */
  beside(spec: Spec, lens: string | null): void {
    if (spec.other !== null) this.#lastOther = spec.other;
    this.events.change(lens === null ? { second: null, other: this.#lastOther ?? spec.prompt } : { second: lens, other: null });
    if (lens === null) this.events.typed();
  }
}
