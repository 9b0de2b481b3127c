/** The page: classes with examples, a drawing area, and a model that learns and predicts. */

import { Camera } from "./camera.js";
import { FewShot, GRAPHS, SIMILARITY, readFromWeb } from "./fewshot.js";
import { readHead, writeHead } from "./head.js";
import { Paper } from "./paper.js";
import { isLeftover, openPhoto } from "./photos.js";
import { toPixels } from "./pixels.js";
import { keep, recall } from "./shelf.js";

const find = (selector, parent = document) => parent.querySelector(selector);
const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;

const DIST = "./node_modules/onnxruntime-web/dist/";
const RUNTIME = `${DIST}ort.wasm.bundle.min.mjs`;
const BINARY = `${DIST}ort-wasm-simd-threaded.wasm`;
const HOLD = 400; // milliseconds that Add is held before it goes on adding
const REPEAT = 250; // milliseconds between examples while it is held

let model, paper, camera;
let changes = 0; // of the examples and classes
let head = null; // what was learned, until the next of these changes
let classes = []; // { row, examples: [{ features, thumbnail }] }, in the order of the rows

async function start() {
  find("#not-started").remove();
  find("#status").textContent = "Loading the model";
  await installWorker();
  const address = await chooseBundle();
  try {
    const progress = new Progress();
    const ort = await loadRuntime(progress);
    model = await openBundle(ort, address, progress);
    find("#loading").hidden = true;
    show(model.manifest);
    await guard(openKept);
  } catch (error) {
    find("#loading").hidden = true;
    find("main").hidden = true;
    complain(error.message);
  }
}

/** With it the page works without a network from the next visit on. */
async function installWorker() {
  const workers = navigator.serviceWorker;
  try {
    await workers?.register("worker.js");
    if (!workers || workers.controller) return;
    // It must be there before the model comes, to keep it; but nobody waits for it for long.
    await new Promise((resolve) => {
      workers.addEventListener("controllerchange", resolve, { once: true });
      setTimeout(resolve, 2000);
    });
  } catch {
    // Without it the page works as long as there is a network.
  }
}

/** The folder of the bundle to open: that of ?bundle=, else the first that bundles.json lists. */
async function chooseBundle() {
  const asFolder = (name) => (name.endsWith("/") ? name : `${name}/`);
  const listed = await fetch("bundles.json").then((response) => response.json()).catch(() => []);
  const known = Array.isArray(listed) ? listed.map(String).map(asFolder) : [];
  const typed = new URLSearchParams(location.search).get("bundle");
  const address = asFolder(typed ?? known[0] ?? "bundle/");
  if (known.length > 1) {
    const choice = find("#choice select");
    for (const folder of new Set([...known, address])) {
      choice.append(new Option(folder.slice(0, -1), folder, false, folder === address));
    }
    choice.onchange = () => {
      location.search = new URLSearchParams({ bundle: choice.value });
    };
    find("#choice").hidden = false;
  }
  return address;
}

/** How much of the runtime and the model has arrived. */
class Progress {
  #loaded = 0;
  #sizes = new Map();

  /** The size of a file that is coming, as soon as it is known. */
  expect(name, bytes) {
    if (bytes) this.#sizes.set(name, bytes);
  }

  add(bytes) {
    this.#loaded += bytes;
    const total = [...this.#sizes.values()].reduce((sum, size) => sum + size, 0);
    const shown = (size) => (size / 1e6).toFixed(1);
    find("#loading progress").max = Math.max(total, this.#loaded, 1);
    find("#loading progress").value = this.#loaded;
    find("#loading span").textContent = `${shown(this.#loaded)} of ${shown(total)} MB`;
  }
}

/** Make the page ready for a model. */
function show({ name, image_shape: shape }) {
  find("#model").textContent =
    `Model: ${name}, ${shape[1]} × ${shape[0]} ${shape[2] === 1 ? "grey" : "colour"} images, ` +
    "on ONNX Runtime Web.";
  paper = new Paper(find("#paper"), model, paperChanged);
  if (shape[2] === 3) find("#hint").textContent = "Choose a photo";
  camera = new Camera((frame) => paper.show(frame));
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
  const showLast = (photos) => photos.length && paper.show(photos.at(-1));
  find("#photo").onchange = (event) => guard(async () => showLast(await readPhotos(event.target)));
  takeDrops(find(".sheet"), showLast);
  find("#camera").onclick = () => guard(toggleCamera);
  addEventListener("beforeunload", (event) => {
    const unlearned = !head && classes.some(({ examples }) => examples.length);
    if (unlearned) event.preventDefault(); // the browser asks; what was learned is kept
  });
}

async function loadRuntime(progress) {
  if (typeof WebAssembly === "undefined") {
    throw new Error("This browser has no WebAssembly, or it is switched off: use another browser.");
  }
  try {
    const ort = await import(RUNTIME);
    ort.env.wasm.numThreads = 1; // more threads need headers that a plain file server does not send
    ort.env.wasm.wasmBinary = await readFromWeb("./", progress)(BINARY);
    return ort;
  } catch (error) {
    throw new Error(
      "ONNX Runtime Web is missing beside this page. Run “npm ci --omit=dev” in the folder of the " +
        `page, then load it again. (${error.message})`,
    );
  }
}

async function openBundle(ort, address, progress) {
  try {
    const { files } = await (await fetch(`${address}manifest.json`)).json();
    for (const name of [...Object.values(GRAPHS), SIMILARITY]) {
      progress.expect(new URL(name, new URL(address, document.baseURI)).href, files?.[name]?.bytes);
    }
    return await FewShot.open(ort, readFromWeb(address, progress));
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
    const place = classes.indexOf(added);
    const next = row.nextSibling;
    classes = classes.filter((other) => other !== added);
    row.remove();
    examplesChanged();
    offerBack(nameOf(added), () => {
      classes.splice(place, 0, added);
      find("#classes").insertBefore(row, next?.isConnected ? next : null);
    });
  };
  const add = () => {
    addExample(added);
    if (!camera.isOn) paper.clear();
  };
  find(".add", row).onclick = add;
  addWhileHeld(find(".add", row), add);
  const addPhotos = (photos) => {
    for (const photo of photos) {
      paper.show(photo);
      addExample(added);
    }
    paper.clear();
  };
  find(".photos", row).onchange = (event) =>
    guard(async () => addPhotos(await readPhotos(event.target)));
  takeDrops(row, addPhotos);
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
    const place = owner.examples.indexOf(example);
    owner.examples = owner.examples.filter((other) => other !== example);
    examplesChanged();
    offerBack(`the example of ${nameOf(owner)}`, () => owner.examples.splice(place, 0, example));
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
  const files = [...input.files];
  input.value = ""; // so that the same file can be chosen again
  return openPhotos(files);
}

/** The pictures among some files. The others are named, and do no harm. */
async function openPhotos(files) {
  const meant = files.filter((file) => !isLeftover(file.name));
  const opened = await Promise.allSettled(meant.map(openPhoto));
  const failed = opened.filter(({ status }) => status === "rejected");
  complain(failed.map(({ reason }) => reason.message).join(" "));
  return opened.flatMap(({ status, value }) => (status === "fulfilled" ? [value] : []));
}

function examplesChanged() {
  changes += 1;
  head = null;
  find("#back").hidden = true;
  refresh();
}

/** Offer to undo a removal, until the next change. */
function offerBack(what, restore) {
  find("#back").hidden = false;
  find("#back").textContent = `Bring back ${what}`;
  find("#back").onclick = () => {
    restore();
    examplesChanged();
  };
}

/** Files that are dropped on an element are opened as photos. */
function takeDrops(element, take) {
  element.ondragover = (event) => event.preventDefault();
  element.ondragenter = () => element.classList.add("dropping");
  element.ondragleave = (event) => {
    if (!element.contains(event.relatedTarget)) element.classList.remove("dropping");
  };
  element.ondrop = (event) => {
    event.preventDefault();
    element.classList.remove("dropping");
    guard(async () => take(await openPhotos([...event.dataTransfer.files])));
  };
}

/** With the camera on, a button that is held adds one example after the other. */
function addWhileHeld(button, add) {
  let timer = null;
  button.onpointerdown = () => {
    if (!camera.isOn) return;
    timer = setTimeout(() => (timer = setInterval(add, REPEAT)), HOLD);
  };
  for (const end of ["pointerup", "pointerleave", "pointercancel"]) {
    button.addEventListener(end, () => clearInterval(timer));
  }
}

async function toggleCamera() {
  if (camera.isOn) camera.stop();
  else await camera.start();
  find("#camera").setAttribute("aria-pressed", camera.isOn);
  if (!camera.isOn) paper.clear();
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
  await keep(model.manifest, await headBytes());
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
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([await headBytes()]));
  link.download = "head.npz";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

async function headBytes() {
  const { kernel, bias } = head;
  const { rows, labels } = await supportRows();
  return writeHead({
    kernel: kernel.data,
    bias: bias.data,
    names: classes.map(nameOf),
    supportFeatures: rows,
    supportLabels: labels,
    backbone: model.manifest.backbone_sha256,
    accept: model.knowsNone ? find("#accept").value / 100 : undefined,
  });
}

/** Take the classes of a file in place of those here: they are learned already. */
async function openHead(input) {
  const [file] = input.files;
  input.value = "";
  if (!file) return;
  const bytes = new Uint8Array(await file.arrayBuffer());
  await takeHead(bytes, `from ${file.name}`);
  await keep(model.manifest, bytes);
}

/** The classes that were learned at an earlier visit, if any were. */
async function openKept() {
  const bytes = await recall(model.manifest);
  if (bytes) await takeHead(bytes, "from your last visit");
}

async function takeHead(bytes, origin) {
  const opened = await readHead(bytes, model.manifest);
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
  find("#status").textContent = `Opened ${plural(ways, "class", "classes")} ${origin}.`;
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
