/** The page: classes with examples, a drawing area, and a model that learns and predicts. */

import { FewShot, readFromWeb } from "./fewshot.js";
import { readHead, writeHead } from "./head.js";
import { Paper } from "./paper.js";
import { isLeftover, openPhoto } from "./photos.js";
import { toPixels } from "./pixels.js";

const find = (selector, parent = document) => parent.querySelector(selector);
const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

const RUNTIME = "./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs";

let model, paper;
let changes = 0; // of the examples and classes
let head = null; // what was learned, until the next of these changes
let classes = []; // { row, examples: [{ features, thumbnail }] }, in the order of the rows

async function start() {
  find("#not-started").remove();
  find("#status").textContent = "Loading the model";
  const address = new URLSearchParams(location.search).get("bundle") ?? "bundle/";
  try {
    const ort = await loadRuntime();
    model = await openBundle(ort, address.endsWith("/") ? address : `${address}/`);
    show(model.manifest);
  } catch (error) {
    find("main").hidden = true;
    complain(error.message);
  }
}

/** Make the page ready for a model. */
function show({ name, image_shape: shape }) {
  find("#model").textContent =
    `Model: ${name}, ${shape[1]} × ${shape[0]} ${shape[2] === 1 ? "grey" : "colour"} images, ` +
    "on ONNX Runtime Web.";
  paper = new Paper(find("#paper"), model, paperChanged);
  if (shape[2] === 3) find("#hint").textContent = "Choose a photo";
  addClass();
  addClass();
  find("main").inert = false;

  find("#undo").onclick = () => paper.undo();
  find("#clear").onclick = () => paper.clear();
  find("#new-class").onclick = () => find(".name", addClass().row).select();
  find("#learn").onclick = () => guard(learn);
  find("#save").onclick = () => guard(save);
  find("#open").onchange = (event) => guard(() => openHead(event.target));
  if (model.knowsNone) showCaution(model.manifest.acceptance);
  find("#photo").onchange = (event) =>
    guard(async () => {
      for (const photo of await readPhotos(event.target)) paper.show(photo);
    });
}

async function loadRuntime() {
  if (typeof WebAssembly === "undefined") {
    throw new Error("This browser has no WebAssembly, or it is switched off: use another browser.");
  }
  try {
    const ort = await import(RUNTIME);
    ort.env.wasm.numThreads = 1; // more threads need headers that a plain file server does not send
    return ort;
  } catch (error) {
    throw new Error(
      "ONNX Runtime Web is missing beside this page. Run “npm ci --omit=dev” in the folder of the " +
        `page, then load it again. (${error.message})`,
    );
  }
}

async function openBundle(ort, address) {
  try {
    return await FewShot.open(ort, readFromWeb(address));
  } catch (error) {
    if (/no available backend/.test(error.message)) {
      throw new Error(
        "ONNX Runtime Web could not start. Run “npm ci --omit=dev” again in the folder of the " +
          `page, then load it again. (${error.message})`,
      );
    }
    throw new Error(
      `No bundle could be opened at “${address}” beside this page. Copy or link an exported ` +
        `bundle there, or name another with ?bundle=FOLDER. (${error.message})`,
    );
  }
}

function addClass() {
  const row = find("#class-row").content.firstElementChild.cloneNode(true);
  const added = { row, examples: [] };
  const used = new Set(classes.map(nameOf));
  let number = 1;
  while (used.has(`Class ${number}`)) number++;
  const name = find(".name", row);
  name.value = `Class ${number}`;
  name.onfocus = () => name.select();
  name.onchange = () => {
    if (!name.value.trim()) name.value = `Class ${number}`;
    refresh();
  };
  name.onkeydown = (event) => {
    if (event.key === "Enter") name.blur(); // no value is returned: false would cancel the key
  };
  find(".remove", row).onclick = () => {
    classes = classes.filter((other) => other !== added);
    row.remove();
    examplesChanged();
  };
  find(".add", row).onclick = () => {
    addExample(added);
    paper.clear();
  };
  find(".photos", row).onchange = (event) =>
    guard(async () => {
      for (const photo of await readPhotos(event.target)) {
        paper.show(photo);
        addExample(added);
      }
      paper.clear();
    });
  classes.push(added);
  find("#classes").append(row);
  examplesChanged();
  return added;
}

/** What is on the paper becomes an example of a class. */
function addExample(owner) {
  const pixels = readPaper();
  const features = model.features([pixels]).then(({ data }) => data);
  features.catch(() => {}); // whoever learns from them is told
  keepExample(owner, features, picture(pixels));
}

/** Features, or the promise of them, become an example of a class. */
function keepExample(owner, features, shown) {
  const thumbnail = document.createElement("button");
  thumbnail.type = "button";
  thumbnail.append(shown);
  const example = { features, thumbnail };
  thumbnail.onclick = () => {
    owner.examples = owner.examples.filter((other) => other !== example);
    examplesChanged();
  };
  owner.examples.push(example);
  examplesChanged();
}

/** The bytes of the paper, as the model takes them. */
function readPaper() {
  return toPixels(paper.read(), model.imageShape, model.crops);
}

/** The very bytes that the model gets, as a picture. */
function picture(pixels) {
  const [height, width, channels] = model.imageShape;
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = pixels[i * channels + (c % channels)];
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

async function readPhotos(input) {
  const files = [...input.files].filter((file) => !isLeftover(file.name));
  input.value = ""; // so that the same file can be chosen again
  return Promise.all(files.map(openPhoto));
}

function examplesChanged() {
  changes += 1;
  head = null;
  refresh();
}

/** Say what is missing before there is anything to learn from; nothing, if nothing is. */
function whatIsMissing() {
  if (classes.length < 2) return "Learning needs two classes: add one.";
  const { head_init, ways } = model.manifest;
  if (head_init === "per_class" && classes.length > ways) {
    return `This model tells at most ${ways} classes apart: remove some.`;
  }
  const names = classes.map(nameOf);
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice) return `Two classes are called “${twice}”: rename one.`;
  const empty = classes.filter((each) => !each.examples.length).map(nameOf);
  if (empty.length) return `Add an example of ${empty.map((name) => `“${name}”`).join(", ")}.`;
  return "";
}

function refresh() {
  for (const { row, examples } of classes) {
    find(".count", row).textContent = plural(examples.length, "example");
    const thumbnails = find(".thumbnails", row);
    if (examples.length) thumbnails.replaceChildren(...examples.map((e) => e.thumbnail));
    else thumbnails.textContent = "No examples yet";
    find(".remove", row).setAttribute("aria-label", `Remove ${nameOf({ row })}`);
  }
  enableTools();
  if (head) return predict();
  const missing = whatIsMissing();
  find("#learn").disabled = Boolean(missing);
  find("#status").textContent = missing || "Ready to learn.";
  showProbabilities(null);
}

async function learn() {
  const begun = performance.now();
  const revision = changes;
  const { rows, labels } = await supportRows();
  const features = new model.ort.Tensor("float32", rows, [labels.length, model.featureSize]);
  const learned = await model.learnFrom(features, labels);
  if (revision !== changes) return; // an example was added or removed meanwhile
  head = learned;
  find("#status").textContent =
    `Learned ${classes.length} classes from ` +
    `${plural(labels.length, "example")} in ${Math.ceil(performance.now() - begun)} ms.`;
  complain(head.warning);
  paperChanged();
}

/** The features of all examples, [examples, D], and the class of each. */
async function supportRows() {
  const labels = classes.flatMap((each, label) => each.examples.map(() => label));
  const features = classes.flatMap((each) => each.examples.map((example) => example.features));
  const rows = new Float32Array(features.length * model.featureSize);
  (await Promise.all(features)).forEach((row, i) => rows.set(row, i * model.featureSize));
  return { rows, labels };
}

/** Hand the head out as a file that this page and Python open. */
async function save() {
  const { kernel, bias } = head;
  const { rows, labels } = await supportRows();
  const bytes = await writeHead({
    kernel: kernel.data,
    bias: bias.data,
    names: classes.map(nameOf),
    supportFeatures: rows,
    supportLabels: labels,
    backbone: model.manifest.backbone_sha256,
    accept: model.knowsNone ? find("#accept").value / 100 : undefined,
  });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes]));
  link.download = "head.npz";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** Take the classes of a file in place of those here: they are learned already. */
async function openHead(input) {
  const [file] = input.files;
  input.value = "";
  if (!file) return;
  const opened = await readHead(new Uint8Array(await file.arrayBuffer()), model.manifest);
  for (const { row } of classes) row.remove();
  classes = [];
  opened.names.forEach((name, label) => {
    const added = addClass();
    find(".name", added.row).value = name;
    opened.supportLabels.forEach((owner, i) => {
      if (owner !== label) return;
      const begin = i * model.featureSize;
      const features = opened.supportFeatures.slice(begin, begin + model.featureSize);
      keepExample(added, features, "saved");
    });
  });
  const { Tensor } = model.ort;
  const [size, ways] = [model.featureSize, opened.names.length];
  head = {
    kernel: new Tensor("float32", opened.kernel, [size, ways]),
    bias: new Tensor("float32", opened.bias, [ways]),
    labels: opened.supportLabels,
    features: new Tensor("float32", opened.supportFeatures, [opened.supportLabels.length, size]),
  };
  if (opened.accept !== undefined) find("#accept").value = Math.round(100 * opened.accept);
  showShare();
  find("#learn").disabled = true;
  find("#status").textContent = `Opened ${plural(ways, "class", "classes")} from ${file.name}.`;
  refresh();
}

function paperChanged() {
  enableTools();
  if (head) predict();
}

/** Let the reader choose the share of known things to name; the others are none of these. */
function showCaution({ rates }) {
  const slider = find("#accept");
  slider.min = Math.ceil(100 * rates[0]);
  slider.max = Math.floor(100 * rates.at(-1));
  find("#caution").hidden = false;
  slider.oninput = () => {
    showShare();
    if (head) predict();
  };
  showShare();
}

function showShare() {
  find("#share").textContent = `${find("#accept").value} %`;
}

function enableTools() {
  const blank = paper.isBlank;
  find("#hint").hidden = !blank;
  for (const button of document.querySelectorAll("#undo, #clear, .add")) button.disabled = blank;
  find("#save").disabled = !head;
}

let predicting = false;
let outdated = false;

/** Show what the paper is: one call of the model at a time, the last one on what is there now. */
function predict() {
  outdated = true;
  if (predicting) return;
  predicting = true;
  requestAnimationFrame(() =>
    guard(async () => {
      try {
        while (outdated) {
          outdated = false;
          const used = head;
          const answer = used && !paper.isBlank ? await judge(used) : {};
          if (used === head) showProbabilities(answer.probabilities, answer.basis);
        }
      } finally {
        predicting = false;
      }
    }),
  );
}

/** What a head says of the paper, and the example that this rests on: the most similar one. */
async function judge(used) {
  const features = await model.features([readPaper()]);
  const seesExamples = model.knowsNone && used.labels.length;
  const accept = seesExamples ? find("#accept").value / 100 : undefined;
  const [probabilities] = await model.predict(features, used, { accept });
  const best = probabilities.indexOf(Math.max(...probabilities));
  if (!seesExamples || best === classes.length) return { probabilities };
  const [similarities] = await model.similarityToExamples(features, used);
  const own = similarities.filter((_, i) => used.labels[i] === best);
  return { probabilities, basis: classes[best].examples[own.indexOf(Math.max(...own))] };
}

function showProbabilities(probabilities, basis) {
  for (const example of classes.flatMap(({ examples }) => examples)) {
    const { thumbnail } = example;
    thumbnail.classList.toggle("basis", example === basis);
    thumbnail.title = example === basis ? "The most similar example. Remove it" : "Remove this example";
  }
  const best = probabilities ? probabilities.indexOf(Math.max(...probabilities)) : -1;
  const bars = classes.map((each, label) => {
    const bar = find("#bar").content.firstElementChild.cloneNode(true);
    const percent = `${Math.round(100 * (probabilities?.[label] ?? 0))}%`;
    bar.classList.toggle("best", label === best);
    find(".of", bar).textContent = nameOf(each);
    find(".fill", bar).style.width = percent;
    find(".percent", bar).textContent = probabilities ? percent : "";
    return bar;
  });
  find("#bars").replaceChildren(...(probabilities ? bars : []));
  let verdict = "Draw or photograph an example, then add it to its class.";
  if (head) verdict = "Draw or photograph something new: the bars show what it is.";
  const none = best === classes.length;
  if (probabilities) verdict = none ? "None of these" : nameOf(classes[best]);
  find("#verdict").textContent = verdict;
  find("#verdict").classList.toggle("spoken", Boolean(probabilities) && !none);
  find("#verdict").classList.toggle("none", none);
}

function nameOf({ row }) {
  return find(".name", row).value.trim();
}

function complain(message) {
  find("#problem").textContent = message;
  find("#problem").hidden = !message;
}

async function guard(action) {
  complain("");
  try {
    await action();
  } catch (error) {
    complain(error.message);
    refresh();
  }
}

start();
