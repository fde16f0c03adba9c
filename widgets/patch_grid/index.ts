// The patch grid's front-end, as anywidget wants it.
import "../shared/frame.css";
import "./patch_grid.css";
import "./detail.css";
import type { Render } from "@anywidget/types";
import type { Facts, Spec } from "./spec.ts";
import { PatchGridView } from "./view.ts";

const render: Render<{ spec: Spec; facts: Facts }> = ({ model, el }) => {
  const life = new AbortController();
  new PatchGridView(model, el, life.signal);
  return () => life.abort();
};

export default { render };
