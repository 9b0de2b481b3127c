/**
 * Few-shot learning on a bundle that `anil export` wrote, in a browser or in Node.
 *
 * Nothing else is needed but onnxruntime-web, which is passed in as `ort`:
 *
 *     const model = await FewShot.open(ort, readFromWeb("bundle/"));
 *     const head = await model.learn(images, [0, 0, 1, 1]); // a class index for each image
 *     const [probabilities] = await model.predict([image], head);
 *     const [row] = await model.predict([image], head, { accept: 0.95 }); // or none of these
 *
 * An image is a Uint8Array of `model.imageShape` (height, width, channels), such as `toPixels` of
 * pixels.js makes; its values are bytes as they are, for the scaling is in the graph. The backbone
 * never changes. What is learned is the head: a few thousand numbers that belong to the caller.
 */

export const GRAPHS = {
  features: "onnx/backbone.onnx",
  initial_head: "onnx/initial_head.onnx",
  adapt: "onnx/adapt.onnx",
  predict: "onnx/predict.onnx",
};
// Bundles of versions up to 0.2 lack it; then `predict` takes no `accept`.
export const SIMILARITY = "onnx/similarity.onnx";
const BATCH = 32; // images that go through the backbone at once: bounds the memory

/**
 * How `FewShot.open` gets the files of a bundle that lies under an address, ending in "/".
 *
 * `progress`, if there is one, hears of each file's size, `expect(url, bytes)`, and of each part of
 * it that has arrived, `add(bytes)`.
 */
export function readFromWeb(address, progress) {
  return async (name) => {
    const response = await fetch(new URL(name, new URL(address, document.baseURI)));
    if (!response.ok) throw new Error(`${response.url} cannot be read: ${response.status}`);
    if (!progress) return new Uint8Array(await response.arrayBuffer());
    progress.expect(response.url, Number(response.headers.get("content-length")));
    const parts = [];
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      progress.add(value.length);
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  };
}

export class FewShot {
  /** Open a bundle: `read(name)` resolves to the bytes of one of its files. */
  static async open(ort, read) {
    const manifest = JSON.parse(new TextDecoder().decode(await read("manifest.json")));
    const { schema_version, image_dtype, image_shape } = manifest;
    if (![1, 2, 3].includes(schema_version) || image_dtype !== "uint8" || image_shape?.length !== 3) {
      throw new Error("This is not a bundle of images that this program knows.");
    }
    const sessions = {};
    for (const [signature, file] of Object.entries(GRAPHS)) {
      sessions[signature] = await ort.InferenceSession.create(await read(file));
    }
    if (manifest.files[SIMILARITY]) {
      sessions.similarity = await ort.InferenceSession.create(await read(SIMILARITY));
    }
    return new FewShot(ort, manifest, sessions);
  }

  constructor(ort, manifest, sessions) {
    const { image_shape: imageShape, schema_version: schema } = manifest;
    // Before schema 3 pictures were stretched to the model's shape.
    Object.assign(this, { ort, manifest, sessions, imageShape, crops: schema >= 3 });
    this.featureSize = manifest.feature_size;
  }

  /**
   * Fit a head to images and their class indices 0, 1, ...; -1 leaves an image out. Classes may have
   * different numbers of images. `warning` of the head says if it may be wrong; mostly it is empty.
   */
  async learn(images, labels, { learningRate, steps } = {}) {
    return this.learnFrom(await this.features(images), labels, { learningRate, steps });
  }

  /** As `learn`, from features: a tensor [images, D]. */
  async learnFrom(features, labels, { learningRate, steps } = {}) {
    const { head_init, ways: trainedWays, inner_lr, inner_steps } = this.manifest;
    const ways = Math.max(...labels) + 1;
    if (ways < 2) throw new Error("Learning needs two classes or more.");
    const missing = Array.from({ length: ways }, (_, label) => label).find(
      (label) => !labels.includes(label),
    );
    if (missing !== undefined) throw new Error(`Class ${missing} has no image.`);
    if (head_init === "per_class" && ways > trainedWays) {
      throw new Error(`This bundle tells at most ${trainedWays} classes apart, not ${ways}.`);
    }
    const initial = await this.sessions.initial_head.run({ ways: this.#int32([ways], []) });
    const adapted = await this.sessions.adapt.run({
      features,
      labels: this.#int32(labels, [labels.length]),
      kernel: initial.kernel,
      bias: initial.bias,
      learning_rate: new this.ort.Tensor("float32", [learningRate ?? inner_lr], []),
      steps: this.#int32([steps ?? inner_steps], []),
    });
    const [initialLoss] = adapted.initial_loss.data;
    const [finalLoss] = adapted.final_loss.data;
    const warning =
      finalLoss > initialLoss
        ? `The support loss rose from ${initialLoss.toFixed(4)} to ${finalLoss.toFixed(4)}: ` +
          "the head may classify wrongly."
        : "";
    return {
      kernel: adapted.adapted_kernel, // [D, ways]
      bias: adapted.adapted_bias, // [ways]
      features, // of the images [images, D], which `similarity` compares with
      labels: Array.from(labels),
      initialLoss,
      finalLoss,
      warning,
    };
  }

  /** Whether `predict` can say that an image is none of the classes: whether it takes `accept`. */
  get knowsNone() {
    return Boolean(this.sessions.similarity && this.manifest.acceptance);
  }

  /**
   * The probability of each class under a head: a Float32Array for each image.
   *
   * With `accept`, the share of the images of known classes to accept, each array has one more
   * number, the last. It is 1, and the others are 0, for an image that is none of the classes.
   * In place of `images` their `features` will do, here and in the functions below.
   */
  async predict(images, head, { accept } = {}) {
    const { kernel, bias } = head;
    const thresholds = accept === undefined ? null : this.thresholds(head, accept);
    const features = await this.#featuresOf(images);
    const { probabilities } = await this.sessions.predict.run({ features, kernel, bias });
    const rows = cutRows(probabilities);
    if (!thresholds) return rows;
    const similarities = cutRows(await this.#similarity(features, head));
    return rows.map((row, i) => {
      const best = row.indexOf(Math.max(...row));
      const none = similarities[i][best] < thresholds[best];
      return none ? Float32Array.from([...row.fill(0), 1]) : Float32Array.from([...row, 0]);
    });
  }

  /** The similarity of each image to each class, from -1 to 1: a Float32Array for each image. */
  async similarity(images, head) {
    if (!this.sessions.similarity) throw new Error("This bundle has no function similarity.");
    return cutRows(await this.#similarity(await this.#featuresOf(images), head));
  }

  /** The similarity of each image to each image that a head was learned from, as `similarity`. */
  async similarityToExamples(images, { features, labels }) {
    const each = { features, labels: labels.map((_, i) => i), bias: { dims: [labels.length] } };
    return this.similarity(images, each);
  }

  async #similarity(features, head) {
    const outputs = await this.sessions.similarity.run({
      features,
      support_features: head.features,
      support_labels: this.#int32(head.labels, [head.labels.length]),
      ways: this.#int32([head.bias.dims[0]], []),
    });
    return outputs.similarity;
  }

  /** The least similarity of an accepted image, for each class; see `acceptance.py`. */
  thresholds({ labels, bias }, accept) {
    if (!this.knowsNone) {
      throw new Error("This bundle has no table of acceptance: it cannot say none of these.");
    }
    if (!labels) throw new Error("This head keeps no features: it cannot say none of these.");
    const { rates, shots, thresholds } = this.manifest.acceptance;
    if (!(accept >= rates[0] && accept <= rates.at(-1))) {
      throw new Error(`accept must lie in ${rates[0]}..${rates.at(-1)}. Received: ${accept}`);
    }
    const atShots = thresholds.map((row) => interpolate(accept, rates, row));
    const inverse = shots.map((count) => -1 / count);
    return Array.from({ length: bias.dims[0] }, (_, label) => {
      const count = labels.filter((other) => other === label).length;
      return interpolate(-1 / count, inverse, atShots);
    });
  }

  /** Features of images, as a tensor [images, D]. */
  async features(images) {
    const size = this.imageShape.reduce((product, axis) => product * axis);
    const other = images.find((image) => !isBytes(image) || image.length !== size);
    if (other) {
      const kind = `${other.constructor.name} of ${other.length}`;
      throw new Error(`An image is a Uint8Array of ${size} bytes. Received: ${kind}`);
    }
    const rows = new Float32Array(images.length * this.manifest.feature_size);
    for (let start = 0; start < images.length; start += BATCH) {
      const batch = images.slice(start, start + BATCH);
      const bytes = new Uint8Array(batch.length * size);
      batch.forEach((image, i) => bytes.set(image, i * size));
      const image = new this.ort.Tensor("uint8", bytes, [batch.length, ...this.imageShape]);
      const { features } = await this.sessions.features.run({ image });
      rows.set(features.data, start * this.manifest.feature_size);
    }
    return new this.ort.Tensor("float32", rows, [images.length, this.manifest.feature_size]);
  }

  #featuresOf(images) {
    return Array.isArray(images) ? this.features(images) : images;
  }

  #int32(values, dims) {
    return new this.ort.Tensor("int32", Int32Array.from(values), dims);
  }
}

function isBytes(array) {
  return array instanceof Uint8Array || array instanceof Uint8ClampedArray;
}

/** The rows of a tensor of two axes. */
function cutRows({ data, dims: [count, size] }) {
  return Array.from({ length: count }, (_, i) => data.slice(i * size, (i + 1) * size));
}

/** The value at x of the line through the points, constant beyond them; xs increase. */
function interpolate(x, xs, ys) {
  const next = xs.findIndex((other) => other >= x);
  if (next <= 0) return next ? ys.at(-1) : ys[0];
  const share = (x - xs[next - 1]) / (xs[next] - xs[next - 1]);
  return ys[next - 1] + share * (ys[next] - ys[next - 1]);
}
