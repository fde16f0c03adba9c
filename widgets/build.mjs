// Bundles each front-end to one module and one stylesheet that import nothing: `node build.mjs [folder]`.
import { fileURLToPath } from "node:url";
import { resolve } from "node:path";
import { build } from "esbuild";

const here = fileURLToPath(new URL(".", import.meta.url));
const out = resolve(here, process.argv[2] ?? "../lenskit/widgets/static");

const common = {
  absWorkingDir: here,
  bundle: true,
  minify: true,
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
  logLevel: "info",
};

await build({
  ...common,
  format: "esm",
  entryPoints: [
    { in: "attention_view/index.ts", out: "attention_view" },
    { in: "circuit_graph/index.ts", out: "circuit_graph" },
    { in: "circuit_panel/index.ts", out: "circuit_panel" },
    { in: "feature_browser/index.ts", out: "feature_browser" },
    { in: "lens_panel/index.ts", out: "lens_panel" },
    { in: "lens_table/index.ts", out: "lens_table" },
    { in: "patch_grid/index.ts", out: "patch_grid" },
  ],
  outdir: out,
});
// The host is inlined in a page as a classic script's worth of code: nothing to export.
await build({ ...common, format: "iife", entryPoints: [{ in: "host/host.ts", out: "host" }], outdir: out });
