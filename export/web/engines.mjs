/**
 * What runs a bundle's signatures in JavaScript, in Node as in a page. A tensor is
 * `{ dtype, shape, data }`, its data the bytes in base64; `read(file)` resolves to those of a file.
 */

const ARRAYS = { float32: Float32Array, int32: Int32Array, uint8: Uint8Array };

/** onnxruntime-web: a file a signature. */
export function openOnnx(ort, read) {
  ort.env.wasm.numThreads = 1;
  const sessions = {};
  return async ({ file, inputs }) => {
    sessions[file] ??= ort.InferenceSession.create(await read(file));
    const session = await sessions[file];
    const outputs = await session.run(
      map(inputs, ({ dtype, shape, data }) => new ort.Tensor(dtype, decode(dtype, data), shape)),
    );
    return map(outputs, ({ type, dims, data }) => encode(type, dims, data));
  };
}

/** LiteRT.js: every signature in one file. */
export function openLitert(litert, read) {
  const models = {};
  return async ({ file, signature, inputs }) => {
    models[file] ??= litert.loadAndCompile(await read(file), { accelerator: "wasm" });
    const model = await models[file];
    const fed = map(
      inputs,
      ({ dtype, shape, data }) => new litert.Tensor(decode(dtype, data), shape),
    );
    const outputs = await model.run(signature, fed);
    const answer = {};
    for (const [name, tensor] of Object.entries(outputs)) {
      const { dtype, layout } = tensor.type;
      answer[name] = encode(dtype, layout.dimensions, await tensor.data());
    }
    for (const tensor of [...Object.values(fed), ...Object.values(outputs)]) tensor.delete();
    return answer;
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
