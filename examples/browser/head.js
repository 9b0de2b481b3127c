/**
 * A head as a file: the `head.npz` of `anil adapt`, of `Predictor.save` and of `adapt.py`. It is a zip
 * archive of NumPy arrays (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
 */

const ZIP = "./node_modules/fflate/esm/browser.js"; // loaded when it is needed
const MAGIC = [0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59]; // \x93NUMPY
const LARGEST = 2 ** 28; // bytes of a file that is opened
const NUMBERS = { "<f4": Float32Array, "<f8": Float64Array, "<i4": Int32Array, "<i8": BigInt64Array };

/**
 * The bytes of a file.
 *
 * `kernel` has shape [D, ways], by rows; `names` one name per class; `supportFeatures` [rows, D] and
 * `supportLabels` [rows] are what it was learned from; `accept`, if there is one, is the share of
 * images of known classes to accept.
 */
export async function writeHead(head) {
  const { kernel, bias, names, supportFeatures, supportLabels, backbone, accept } = head;
  const size = kernel.length / names.length;
  const arrays = {
    kernel: writeArray("<f4", [size, names.length], Float32Array.from(kernel)),
    bias: writeArray("<f4", [names.length], Float32Array.from(bias)),
    names: writeTexts([names.length], names),
    support_features: writeArray("<f4", [supportLabels.length, size], supportFeatures),
    support_labels: writeArray("<i4", [supportLabels.length], Int32Array.from(supportLabels)),
    backbone_sha256: writeTexts([], [backbone]),
  };
  if (accept !== undefined) arrays.accept = writeArray("<f8", [], Float64Array.of(accept));
  const files = Object.entries(arrays).map(([name, bytes]) => [`${name}.npy`, bytes]);
  const { zipSync } = await import(ZIP);
  return zipSync(Object.fromEntries(files), { level: 0 });
}

/** What `writeHead` takes, from a file. Throws where it is no head, or one of another model. */
export async function readHead(bytes, manifest) {
  const { kernel, bias, names, rows, labels: supportLabels, backbone, accept } = await open(bytes);
  const { feature_size: size, backbone_sha256: own, name } = manifest;
  if (backbone !== own) throw new Error(`This head was made with another model than “${name}”.`);
  const ways = names.length;
  const fits =
    ways >= 2 &&
    new Set(names).size === ways &&
    kernel.length === size * ways &&
    bias.length === ways &&
    rows.length === size * supportLabels.length &&
    supportLabels.every((label) => label >= 0 && label < ways) &&
    [kernel, bias, rows].every((values) => values.every(Number.isFinite)) &&
    (accept === undefined || (accept >= 0 && accept <= 1));
  if (!fits) throw new Error("This head is damaged.");
  return { kernel, bias, names, supportFeatures: rows, supportLabels, backbone, accept };
}

async function open(bytes) {
  const { unzipSync } = await import(ZIP);
  try {
    if (bytes.length > LARGEST) throw new Error("it is too large");
    const files = unzipSync(bytes, { filter: (file) => file.originalSize <= LARGEST });
    const read = (name) => readArray(files[`${name}.npy`]);
    const known = "support_features.npy" in files && "support_labels.npy" in files;
    return {
      kernel: Float32Array.from(read("kernel")),
      bias: Float32Array.from(read("bias")),
      names: read("names"),
      rows: known ? Float32Array.from(read("support_features")) : new Float32Array(),
      labels: known ? Array.from(read("support_labels"), Number) : [],
      backbone: read("backbone_sha256")[0],
      accept: "accept.npy" in files ? read("accept")[0] : undefined,
    };
  } catch (error) {
    throw new Error(`This file is not a head that anil-tf saved. (${error.message})`);
  }
}

function writeArray(type, shape, values) {
  const sizes = shape.map((side) => `${side},`).join(" ");
  const header = `{'descr': '${type}', 'fortran_order': False, 'shape': (${sizes}), }`;
  const length = Math.ceil((header.length + 11) / 64) * 64 - 10; // the values begin at a multiple
  const text = `${header.padEnd(length - 1)}\n`;
  const bytes = new Uint8Array(10 + length + values.byteLength);
  bytes.set([...MAGIC, 1, 0, length & 255, length >> 8]);
  bytes.set(new TextEncoder().encode(text), 10);
  bytes.set(new Uint8Array(values.buffer, values.byteOffset, values.byteLength), 10 + length);
  return bytes;
}

/** Where value `i` of an array by rows lies in one by columns. */
function rowFirst(i, [rows, columns]) {
  return (i % columns) * rows + Math.floor(i / columns);
}

/** Texts as NumPy has them: of one length, four bytes per character. */
function writeTexts(shape, texts) {
  const characters = texts.map((text) => [...text].map((one) => one.codePointAt(0)));
  const longest = Math.max(1, ...characters.map((text) => text.length));
  const values = new Uint32Array(texts.length * longest);
  characters.forEach((text, i) => values.set(text, i * longest));
  return writeArray(`<U${longest}`, shape, values);
}

function readArray(bytes) {
  if (!bytes || MAGIC.some((byte, i) => bytes[i] !== byte)) throw new Error("an array is missing");
  const wide = bytes[6] > 1;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = wide ? view.getUint32(8, true) : view.getUint16(8, true);
  const begin = (wide ? 12 : 10) + length;
  const header = new TextDecoder("latin1").decode(bytes.subarray(wide ? 12 : 10, begin));
  const type = /'descr': '([^']+)'/.exec(header)?.[1];
  const shape = /'shape': \(([^)]*)\)/.exec(header)?.[1].match(/\d+/g)?.map(Number) ?? [];
  const count = shape.reduce((product, side) => product * side, 1);
  const buffer = bytes.slice(begin).buffer;
  if (NUMBERS[type]) {
    const values = new NUMBERS[type](buffer, 0, count);
    const byColumns = /'fortran_order': True/.test(header) && shape.length === 2;
    return byColumns ? values.map((_, i) => values[rowFirst(i, shape)]) : values;
  }
  const characters = Number(/^<U(\d+)$/.exec(type)?.[1]);
  if (Number.isNaN(characters)) throw new Error(`an array has the type ${type}`);
  const codes = new Uint32Array(buffer, 0, count * characters);
  return Array.from({ length: count }, (_, i) =>
    String.fromCodePoint(...codes.subarray(i * characters, (i + 1) * characters)).replace(/\0+$/, ""),
  );
}
