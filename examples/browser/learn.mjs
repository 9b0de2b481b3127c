/**
 * Learn the classes of a folder and classify pictures, in Node:
 *
 *     node learn.mjs BUNDLE SUPPORT_DIR IMAGE...
 *
 * SUPPORT_DIR holds a folder of PNG or JPEG pictures for each class, named as the class.
 */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { extname, join } from "node:path";
import jpeg from "jpeg-js";
import * as ort from "onnxruntime-web";
import { PNG } from "pngjs";
import { FewShot } from "./fewshot.js";
import { toPixels } from "./pixels.js";

const DECODERS = {
  ".png": (bytes) => PNG.sync.read(bytes),
  ".jpg": (bytes) => jpeg.decode(bytes),
  ".jpeg": (bytes) => jpeg.decode(bytes),
};

async function main([bundle, support, ...files]) {
  if (!files.length) throw new Error("Usage: node learn.mjs BUNDLE SUPPORT_DIR IMAGE...");
  ort.env.wasm.numThreads = 1;
  if (!existsSync(join(bundle, "manifest.json"))) throw new Error(`${bundle} is not a bundle`);
  const model = await FewShot.open(ort, (name) => readFileSync(join(bundle, name)));
  const read = (file) => toPixels(decode(file), model.imageShape);

  const classes = listClasses(support);
  const names = Object.keys(classes);
  const images = Object.values(classes).flat().map(read);
  const queries = files.map(read);
  const labels = names.flatMap((name, label) => classes[name].map(() => label));
  const head = await model.learn(images, labels);
  console.log(`Learned ${names.join(", ")} from ${images.length} images`);
  if (head.warning) console.error(`Warning: ${head.warning}`);

  (await model.predict(queries, head)).forEach((probabilities, i) => {
    const ranked = names.map((name, label) => [name, probabilities[label]]);
    ranked.sort((a, b) => b[1] - a[1]);
    const shown = ranked.map(([name, probability]) => `${name} ${probability.toFixed(3)}`);
    console.log(`${files[i]}: ${shown.join(", ")}`);
  });
}

function listClasses(folder) {
  const classes = {};
  const entries = readdirSync(folder, { withFileTypes: true }).filter((e) => e.isDirectory());
  for (const { name } of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const files = readdirSync(join(folder, name)).filter((file) => decoder(file)).sort();
    if (!files.length) throw new Error(`${join(folder, name)} holds no PNG or JPEG pictures`);
    classes[name] = files.map((file) => join(folder, name, file));
  }
  if (Object.keys(classes).length < 2) throw new Error(`${folder} must hold two class folders`);
  return classes;
}

function decoder(file) {
  return DECODERS[extname(file).toLowerCase()];
}

function decode(file) {
  if (!decoder(file)) throw new Error(`${file} is neither a PNG nor a JPEG picture`);
  const bytes = readFileSync(file);
  try {
    return decoder(file)(bytes);
  } catch (error) {
    throw new Error(`${file} is not a picture that decodes: ${error.message}`);
  }
}

main(process.argv.slice(2)).catch((error) => {
  console.error(`Error: ${error.message}`);
  process.exitCode = 2;
});
