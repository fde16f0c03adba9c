// The second module of the lens table: comparing, counting, acting, writing on and the rank of a token.
import "./lens_panel.css";
import type { MakePanel } from "./contract.ts";
import { LensPanel } from "./panel.ts";

const panel: MakePanel = (doings) => new LensPanel(doings);

export default panel;
