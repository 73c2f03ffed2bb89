// Makes a component of `entry.js` and everything that it imports: `node build.mjs` writes `build/component.wasm`.
// `salesman-host plugin build` runs this, and puts `plugin.toml` into the result.

import { mkdir, writeFile } from "node:fs/promises";

import { componentize } from "@bytecodealliance/componentize-js";

const { component } = await componentize({
    sourcePath: "entry.js",
    witPath: "wit",
    worldName: "plugin",
    // The sandbox has no `fetch` (use `host.http`) and shows no output (use `host.log`). Clocks and random numbers are there.
    disableFeatures: ["http", "fetch-event", "stdio"],
});
await mkdir("build", { recursive: true });
await writeFile("build/component.wasm", component);
