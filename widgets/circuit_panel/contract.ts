// What the circuit graph and its second module say to each other. Types only: neither holds the other's code.
import type { Words } from "../feature_browser/values.ts";
import type { AblatedMessage, NodeCardMessage } from "../circuit_graph/messages.ts";
import type { Groups, Spec } from "../circuit_graph/spec.ts";
import type { Theme } from "../shared/colour.ts";
import type { pythonOf } from "./code.ts";

/** A card as it came, or in words why there is none. */
export type CardAnswer = string | { readonly message: NodeCardMessage; readonly buffers: readonly DataView[] };

export interface Taken {
  /** The features that are taken away; none for the answer as it is. */
  readonly nodes: readonly string[];
  /** Whether random features are taken away beside them. */
  readonly placebo: boolean;
  readonly groups: Groups;
  /** What came of it, or of the last ones while another is on its way. */
  readonly answer: AblatedMessage | null;
  readonly working: boolean;
  readonly live: boolean;
}

export interface Shown {
  readonly ablation: Taken;
  /** Null where there is nothing to show, undefined of a card on its way. */
  readonly card: CardAnswer | null | undefined;
  /** How active the card's feature is here. */
  readonly active: number;
  readonly words: Words;
  readonly theme: Theme;
}

export interface Panel {
  readonly ablation: HTMLElement;
  readonly card: HTMLElement;
  show(shown: Shown): void;
  /** What is on the screen as Python: see code.ts. */
  readonly pythonOf: typeof pythonOf;
}

/** What the module exports. `change` changes what is taken away. */
export type MakePanel = (change: (to: Partial<Pick<Spec, "ablated" | "placebo">>) => void, signal: AbortSignal) => Panel;
