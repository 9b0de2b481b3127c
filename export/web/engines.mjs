/**
 * What runs a bundle's signatures in JavaScript, in Node as in a page.
 *
 * `openOnnx` and `openLitert` return a function from a request `{ file, signature, inputs }` to
 * `{ outputs }`, or with `calls` in it to `{ milliseconds }`, the median of so many calls.
 * `read(file)` resolves to the bytes of a file of the bundle. Inputs and outputs are tensors by name,
 * `{ dtype, shape, data }` with the bytes in base64.
 */

const ARRAYS = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array };

/** onnxruntime-web: a file a signature. */
export function openOnnx(ort, read) {
  ort.env.wasm.numThreads = 1;
  const sessions = {};
  return async ({ file, inputs, calls }) => {
    sessions[file] ??= await ort.InferenceSession.create(await read(file));
    const feeds = map(
      inputs,
      ({ dtype, shape, data }) => new ort.Tensor(dtype, decode(dtype, data), shape),
    );
    const run = () => sessions[file].run(feeds);
    if (calls) return { milliseconds: await time(run, calls) };
    return { outputs: map(await run(), ({ type, dims, data }) => encode(type, dims, data)) };
  };
}

/** LiteRT.js: every signature in one file. */
export function openLitert(litert, read) {
  const models = {};
  return async ({ file, signature, inputs, calls }) => {
    models[file] ??= await litert.loadAndCompile(await read(file), { accelerator: "wasm" });
    const feeds = map(
      inputs,
      ({ dtype, shape, data }) => new litert.Tensor(decode(dtype, data), shape),
    );
    // Tensors are memory of LiteRT's own: each is deleted, what comes out when it has been read.
    const run = async () => {
      const tensors = await models[file].run(signature, feeds);
      return map(tensors, (tensor) => {
        const { dtype, layout } = tensor.type;
        const read = { dtype, shape: layout.dimensions, data: tensor.toTypedArray().slice() };
        tensor.delete();
        return read;
      });
    };
    try {
      if (calls) return { milliseconds: await time(run, calls) };
      return { outputs: map(await run(), ({ dtype, shape, data }) => encode(dtype, shape, data)) };
    } finally {
      Object.values(feeds).forEach((tensor) => tensor.delete());
    }
  };
}

/** Median milliseconds of a call, after a first that does not count. */
async function time(run, calls) {
  await run();
  const times = [];
  for (let call = 0; call < calls; call++) {
    const start = performance.now();
    await run();
    times.push(performance.now() - start);
  }
  times.sort((a, b) => a - b);
  return (times[(calls - 1) >> 1] + times[calls >> 1]) / 2;
}

function map(object, change) {
  return Object.fromEntries(Object.entries(object).map(([name, value]) => [name, change(value)]));
}

function decode(dtype, data) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  return new ARRAYS[dtype](bytes.buffer);
}

function encode(dtype, shape, values) {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  let text = "";
  for (let start = 0; start < bytes.length; start += 32768) {
    text += String.fromCharCode(...bytes.subarray(start, start + 32768));
  }
  return { dtype, shape: [...shape], data: btoa(text) };
}
