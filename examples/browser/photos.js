/** Files of pictures as phones and people have them: which are meant, and which way is up. */

const LEFTOVERS = new Set(["__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini"]);
const ORIENTATION = 0x0112; // the EXIF tag
const MOST_PIXELS = 2 ** 24; // of a canvas on iOS

/** Whether a system left it there and nobody means it: `._a.jpg`, `__MACOSX`, `Thumbs.db`. */
export function isLeftover(name) {
  return name.startsWith(".") || LEFTOVERS.has(name.toLowerCase());
}

/** A file of a browser as an upright bitmap, its color profile ignored as Python does. */
export async function openPhoto(file) {
  const exif = findWebpExif(new Uint8Array(await file.arrayBuffer()));
  // Chromium turns other pictures by their EXIF data, and WebP not.
  const options = { imageOrientation: exif ? "none" : "from-image", colorSpaceConversion: "none" };
  const bitmap = await createImageBitmap(file, options).catch(() => {
    throw new Error(`${file.name} is not a picture that this browser can read.`);
  });
  const orientation = readOrientation(exif);
  if (orientation === 1) return bitmap;
  const { data, width, height } = turnUpright(readBitmap(bitmap), orientation);
  return createImageBitmap(new ImageData(new Uint8ClampedArray(data.buffer), width, height));
}

/** The pixels of a bitmap as RGBA, on white; a very large one is made smaller first. */
export function readBitmap(bitmap) {
  const scale = Math.min(1, Math.sqrt(MOST_PIXELS / (bitmap.width * bitmap.height)));
  const [width, height] = [bitmap.width, bitmap.height].map((size) =>
    Math.max(1, Math.floor(size * scale)),
  );
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** What the chunk EXIF of a WebP file holds; null of another file. */
function findWebpExif(bytes) {
  const text = (start) => String.fromCharCode(...bytes.subarray(start, start + 4));
  if (text(0) !== "RIFF" || text(8) !== "WEBP") return null;
  const view = new DataView(bytes.buffer);
  for (let at = 12; at + 8 <= bytes.length; ) {
    const size = view.getUint32(at + 4, true);
    if (text(at) === "EXIF") {
      const exif = bytes.subarray(at + 8, at + 8 + size);
      return text(at + 8) === "Exif" ? exif.subarray(6) : exif;
    }
    at += 8 + size + (size % 2);
  }
  return null;
}

/** The orientation, 1 to 8, that a block of EXIF data states; 1 where it states none. */
export function readOrientation(exif) {
  if (!exif || exif.length < 8) return 1;
  const view = new DataView(exif.buffer, exif.byteOffset, exif.byteLength);
  const little = view.getUint16(0) === 0x4949; // "II", or "MM"
  try {
    const start = view.getUint32(4, little);
    for (let entry = 0; entry < view.getUint16(start, little); entry++) {
      const at = start + 2 + 12 * entry;
      if (view.getUint16(at, little) === ORIENTATION) {
        const orientation = view.getUint16(at + 8, little);
        return orientation >= 1 && orientation <= 8 ? orientation : 1;
      }
    }
  } catch {
    // Damaged: the pixels may be sound.
  }
  return 1;
}

/** An RGBA picture turned and mirrored as its orientation says. */
export function turnUpright(picture, orientation) {
  if (orientation === 1) return picture;
  const { data, width, height } = picture;
  const [across, down] = orientation > 4 ? [height, width] : [width, height];
  const from = new Uint32Array(new Uint8Array(data).buffer);
  const to = new Uint32Array(from.length);
  for (let y = 0, i = 0; y < down; y++) {
    for (let x = 0; x < across; x++, i++) {
      let [column, row] = orientation > 4 ? [y, x] : [x, y];
      if ([2, 3, 7, 8].includes(orientation)) column = width - 1 - column;
      if ([3, 4, 6, 7].includes(orientation)) row = height - 1 - row;
      to[i] = from[row * width + column];
    }
  }
  return { data: new Uint8Array(to.buffer), width: across, height: down };
}
