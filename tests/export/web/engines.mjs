/**
 * What runs a bundle's signatures in JavaScript, in Node as in a page.
 *
 * `openOnnx` and `openLitert` return a function from a request `{ file, signature, inputs }` to
 * `{ outputs, milliseconds }`, the time that the run took. `read(file)` resolves to the bytes of a
 * file of the bundle. Inputs and outputs are tensors by name, `{ dtype, shape, data }` with the
 * bytes in base64.
 */

const ARRAYS = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array };

/** onnxruntime-web: a file a signature. */
export function openOnnx(ort, read) {
  ort.env.wasm.numThreads = 1;
  const sessions = {};
  return async ({ file, inputs }) => {
    sessions[file] ??= await ort.InferenceSession.create(await read(file));
    const feeds = map(
      inputs,
      ({ dtype, shape, data }) => new ort.Tensor(dtype, decode(dtype, data), shape),
    );
    const start = performance.now();
    const outputs = await sessions[file].run(feeds);
    const milliseconds = performance.now() - start;
    return {
      outputs: map(outputs, ({ type, dims, data }) => encode(type, dims, data)),
      milliseconds,
    };
  };
}

/** LiteRT.js: every signature in one file. */
export function openLitert(litert, read) {
  const models = {};
  return async ({ file, signature, inputs }) => {
    models[file] ??= await litert.loadAndCompile(await read(file), { accelerator: "wasm" });
    const feeds = map(
      inputs,
      ({ dtype, shape, data }) => new litert.Tensor(decode(dtype, data), shape),
    );
    const start = performance.now();
    const outputs = await models[file].run(signature, feeds);
    const milliseconds = performance.now() - start;
    const encoded = map(outputs, (tensor) =>
      encode(tensor.type.dtype, tensor.type.layout.dimensions, tensor.toTypedArray()),
    );
    // Tensors lie in LiteRT's own memory, which nobody else cleans up.
    for (const tensor of [...Object.values(feeds), ...Object.values(outputs)]) tensor.delete();
    return { outputs: encoded, milliseconds };
  };
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
