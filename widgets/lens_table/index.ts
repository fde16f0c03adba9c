// The lens table's front-end, as anywidget wants it.
import "../shared/frame.css";
import "./lens_table.css";
import "./comparison.css";
import "./doing.css";
import type { Render } from "@anywidget/types";
import type { Facts, Spec } from "./spec.ts";
import { LensTableView } from "./view.ts";

const render: Render<{ spec: Spec; facts: Facts }> = ({ model, el }) => {
  const life = new AbortController();
  new LensTableView(model, el, life.signal);
  return () => life.abort();
};

export default { render };
