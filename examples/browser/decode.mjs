/** PNG and JPEG files to upright RGBA, in Node. What a file is its content says, not its name. */

import { closeSync, openSync, readFileSync, readSync, statSync } from "node:fs";
import { extname } from "node:path";
import jpeg from "jpeg-js";
import { PNG } from "pngjs";
import { readOrientation, turnUpright } from "./photos.js";

const SUFFIXES = new Set([".png", ".jpg", ".jpeg"]);
const JPEG_OPTIONS = { maxMemoryUsageInMB: 4096 }; // 48 megapixels take more than its 512
const DECODERS = { "89504e47": decodePng, ffd8ff: decodeJpeg }; // by the first bytes

/** Whether a file holds, or is named as, a picture that `decode` reads. */
export function isPicture(file) {
  if (!statSync(file).isFile()) return false;
  if (SUFFIXES.has(extname(file).toLowerCase())) return true;
  const handle = openSync(file);
  try {
    const start = Buffer.alloc(4);
    readSync(handle, start);
    return Boolean(decoderOf(start));
  } finally {
    closeSync(handle);
  }
}

/** The picture in a file: RGBA, upright, its 16-bit pixels as their upper bytes. */
export function decode(file) {
  if (!isPicture(file)) throw new Error(`${file} is neither a PNG nor a JPEG picture`);
  const bytes = readFileSync(file);
  try {
    const decoder = decoderOf(bytes);
    if (!decoder) throw new Error("it is neither PNG nor JPEG");
    const { exif, ...picture } = decoder(bytes);
    return turnUpright(picture, readOrientation(exif));
  } catch (error) {
    throw new Error(`${file} is not a picture that decodes: ${error.message}`);
  }
}

function decoderOf(bytes) {
  const start = bytes.toString("hex", 0, 4);
  return Object.entries(DECODERS).find(([signature]) => start.startsWith(signature))?.[1];
}

function decodeJpeg(bytes) {
  const { data, width, height, exifBuffer } = jpeg.decode(bytes, JPEG_OPTIONS);
  return { data, width, height, exif: exifBuffer?.subarray(1) }; // less the second 0 of "Exif"
}

function decodePng(bytes) {
  const { data, width, height, depth, palette } = PNG.sync.read(bytes, { skipRescale: true });
  const most = palette ? 255 : 2 ** depth - 1;
  const toByte = depth === 16 ? (value) => value >> 8 : (value) => (255 * value) / most;
  return { data: Uint8Array.from(data, toByte), width, height, exif: findExif(bytes) };
}

/** What the chunk eXIf of a PNG holds, if there is one. */
function findExif(bytes) {
  for (let at = 8; at + 8 <= bytes.length; at += 12 + bytes.readUInt32BE(at)) {
    const start = at + 8;
    if (bytes.toString("latin1", at + 4, start) === "eXIf") {
      return bytes.subarray(start, start + bytes.readUInt32BE(at));
    }
  }
  return null;
}
