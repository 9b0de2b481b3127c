/**
 * Runs a bundle on a web runtime for `onnx.py`: a line of JSON in, a line of JSON out.
 *
 *     node runner.mjs '{"engine": "onnx", "bundle": "...", "packages": "...", "chromium": null}'
 *
 * The engine is "onnx" or "litert". With `chromium`, the path of a browser, it runs in a page of
 * it. Packages of npm are found as Node finds them from the folder `packages`. The first line
 * out is `{ ready }`, then there is one for each request as engines.mjs has them; either may be
 * `{ error }`. Ends with its input.
 */

import { existsSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath, pathToFileURL } from "node:url";
import { openOnnx } from "./engines.mjs";

const { engine, bundle, packages, chromium } = JSON.parse(process.argv[2]);
const ORIGIN = "http://localhost"; // answered below: a page of it may use WebAssembly
// Alone in its process, the page has an exact clock.
const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};
const PAGE = `<!doctype html>
  <script type="importmap">
    {"imports": {"@litertjs/wasm-utils": "/litert-utils/dist/index.js"}}
  </script>`;
const PACKAGES = {
  onnx: { ort: "onnxruntime-web" },
  litert: { litert: "@litertjs/core", "litert-utils": "@litertjs/wasm-utils" },
};

function findPackage(name) {
  const require = createRequire(join(packages, "package.json"));
  const folders = require.resolve.paths(name).map((folder) => join(folder, name));
  const found = folders.find((folder) => existsSync(join(folder, "package.json")));
  if (found) return found;
  throw new Error(`${name} is not installed: npm install ${name}`);
}

async function openInNode() {
  const file = join(findPackage("onnxruntime-web"), "dist", "ort.node.min.mjs");
  const ort = await import(pathToFileURL(file));
  return openOnnx(ort, (name) => readFileSync(join(bundle, name)));
}

async function openInPage() {
  const playwright = await import(pathToFileURL(join(findPackage("playwright-core"), "index.mjs")));
  const folders = { bundle, web: fileURLToPath(new URL(".", import.meta.url)) };
  for (const [place, name] of Object.entries(PACKAGES[engine])) folders[place] = findPackage(name);
  browser = await playwright.chromium.launch({
    executablePath: chromium,
    args: ["--disable-gpu", "--disable-quic"],
  });
  const page = await browser.newPage();
  await page.route("**/*", (route) => serve(route, folders));
  await page.goto(ORIGIN);
  await page.evaluate(openEngine, engine);
  return (request) => page.evaluate((asked) => window.answer(asked), request);
}

function serve(route, folders) {
  const { origin, pathname } = new URL(route.request().url());
  const [place, ...rest] = pathname.slice(1).split("/");
  if (origin !== ORIGIN) return route.abort();
  if (!place) return route.fulfill({ headers: HEADERS, contentType: "text/html", body: PAGE });
  const file = join(folders[place] ?? "", ...rest);
  if (!(place in folders && existsSync(file))) return route.fulfill({ status: 404 });
  const contentType = file.endsWith(".wasm") ? "application/wasm" : "text/javascript";
  return route.fulfill({ contentType, body: readFileSync(file) });
}

/** In the page. */
async function openEngine(engine) {
  const engines = await import("/web/engines.mjs");
  const read = async (file) => {
    const response = await fetch(`/bundle/${file}`);
    if (!response.ok) throw new Error(`the bundle has no ${file}`);
    return new Uint8Array(await response.arrayBuffer());
  };
  if (engine === "onnx") {
    window.answer = engines.openOnnx(await import("/ort/dist/ort.wasm.bundle.min.mjs"), read);
  } else {
    const litert = await import("/litert/dist/index.js");
    await litert.loadLiteRt("/litert/wasm/");
    window.answer = engines.openLitert(litert, read);
  }
}

function write(answer) {
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

let browser;
try {
  const answer = await (chromium ? openInPage() : openInNode());
  write({ ready: true });
  for await (const line of createInterface({ input: process.stdin })) {
    write(await answer(JSON.parse(line)).catch(({ message }) => ({ error: message })));
  }
} catch (error) {
  write({ error: error.message });
} finally {
  await browser?.close();
}
