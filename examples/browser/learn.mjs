/**
 * Learn the classes of a folder and classify pictures, in Node:
 *
 *     node learn.mjs BUNDLE SUPPORT_DIR IMAGE...
 *
 * SUPPORT_DIR holds a folder of PNG or JPEG pictures for each class, named as the class. What a file
 * is its content says, not its name.
 */

import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import * as ort from "onnxruntime-web";
import { decode, isPicture } from "./decode.mjs";
import { FewShot } from "./fewshot.js";
import { isLeftover } from "./photos.js";
import { toPixels } from "./pixels.js";

async function main([bundle, support, ...files]) {
  if (!files.length) throw new Error("Usage: node learn.mjs BUNDLE SUPPORT_DIR IMAGE...");
  ort.env.wasm.numThreads = 1;
  if (!existsSync(join(bundle, "manifest.json"))) throw new Error(`${bundle} is not a bundle`);
  const model = await FewShot.open(ort, (name) => readFileSync(join(bundle, name)));
  const read = (file) => toPixels(decode(file), model.imageShape, model.crops);

  const classes = listClasses(support);
  const names = classes.map(({ name }) => name);
  const images = classes.flatMap(({ pictures }) => pictures.map(read));
  const queries = files.map(read);
  const labels = classes.flatMap(({ pictures }, label) => pictures.map(() => label));
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

/** Each class's name and pictures, in the order of a head's columns. */
function listClasses(folder) {
  const entries = readdirSync(folder, { withFileTypes: true });
  const names = entries.filter((e) => e.isDirectory() && !isLeftover(e.name)).map((e) => e.name);
  if (names.length < 2) throw new Error(`${folder} must hold two class folders`);
  const leftOut = [];
  const classes = inOrder(names).map((name) => {
    const inside = readdirSync(join(folder, name)).filter((file) => !isLeftover(file)).sort();
    const files = inside.map((file) => join(folder, name, file));
    const pictures = files.filter(isPicture);
    if (!pictures.length) throw new Error(`${join(folder, name)} holds no PNG or JPEG pictures`);
    leftOut.push(...files.filter((file) => !pictures.includes(file)));
    return { name, pictures };
  });
  if (leftOut.length) {
    const examples = relative(folder, leftOut[0]) + (leftOut.length > 1 ? ", ..." : "");
    const count = `${leftOut.length} in ${folder}`;
    console.error(`Warning: Left out ${count}: neither PNG nor JPEG pictures (${examples})`);
  }
  return classes;
}

/** Names as numbers where all are, else as text. */
function inOrder(names) {
  if (names.every((name) => /^-?[0-9]{1,15}$/.test(name))) return names.sort((a, b) => a - b);
  return names.sort();
}

main(process.argv.slice(2)).catch((error) => {
  console.error(`Error: ${error.message}`);
  process.exitCode = 2;
});
