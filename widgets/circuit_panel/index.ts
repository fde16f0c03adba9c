// The second module of the circuit graph: the card of a feature, what becomes of the answer without some, and what is seen as Python.
import "./circuit_panel.css";
import { Ablation } from "./ablation.ts";
import { NodeCard } from "./card.ts";
import { pythonOf } from "./code.ts";
import type { MakePanel } from "./contract.ts";

const panel: MakePanel = (change, signal) => {
  const [ablation, card] = [new Ablation(change, signal), new NodeCard(signal)];
  return {
    ablation: ablation.element,
    card: card.element,
    pythonOf,
    show(shown) {
      ablation.show(shown.ablation);
      card.show(shown);
    },
  };
};

export default panel;
