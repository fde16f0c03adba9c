// The circuit graph's front-end, as anywidget wants it.
import "../shared/frame.css";
import "../feature_browser/card.css";
import "../feature_browser/steering.css";
import "./circuit_graph.css";
import "./detail.css";
import type { Render } from "@anywidget/types";
import type { Facts, Spec } from "./spec.ts";
import { View } from "./view.ts";

const render: Render<{ spec: Spec; facts: Facts }> = ({ model, el }) => {
  const life = new AbortController();
  new View(model, el, life.signal);
  return () => life.abort();
};

export default { render };
