// Makes a component of src/policy.js: `npm run build`. QuickJS without asynchronous calls and without WASI, because a
// policy has neither clock nor files.
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { componentize } from "componentize-qjs";

const entry = "src/policy.js";
const { component } = await componentize({
  witPath: "wit",
  world: "{{world}}",
  jsPath: entry,
  jsSource: await readFile(entry, "utf8"),
  moduleRoot: "src",
  sync: true,
  stubWasi: true,
});
await mkdir("dist", { recursive: true });
await writeFile("dist/policy.wasm", component);
console.error(`dist/policy.wasm: ${component.length} bytes`);
