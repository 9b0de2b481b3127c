/**
 * Any picture to the bytes that a bundle takes, as the Python side makes them: on white where it is
 * transparent, to grey or RGB, cut to the model's aspect ratio around the centre, then to the model's
 * size by a Lanczos filter, in Pillow's integer arithmetic. The same pixels give the same bytes here and there.
 */

const LOBES = 3;
const UNIT = 2 ** 22; // weights are integers: multiples of 1 / UNIT

/**
 * Bytes [height, width, channels] of a picture given as RGBA, as canvas and pngjs give it. Without
 * `crop` the picture is stretched, as bundles before schema 3 expect.
 */
export function toPixels(picture, [modelHeight, modelWidth, channels], crop = true) {
  const { data, width, height } = crop ? cutCentre(picture, modelHeight, modelWidth) : picture;
  const rgba = onWhite(data);
  const planes = channels === 1 ? [toGrey(rgba)] : [0, 1, 2].map((c) => take(rgba, c));
  const pixels = new Uint8Array(modelHeight * modelWidth * channels);
  planes.forEach((plane, channel) => {
    const across = filterRows(plane, width, height, modelWidth);
    const down = filterRows(across, height, modelWidth, modelHeight);
    down.forEach((value, i) => (pixels[i * channels + channel] = value));
  });
  return pixels;
}

/** The largest box around the centre of a picture that has the model's aspect ratio. */
export function centreBox(picture, modelHeight, modelWidth) {
  const fit = (own, other, side, otherSide) =>
    Math.max(1, Math.min(own, Math.floor((other * side) / otherSide)));
  const width = fit(picture.width, picture.height, modelWidth, modelHeight);
  const height = fit(picture.height, picture.width, modelHeight, modelWidth);
  const left = Math.floor((picture.width - width) / 2);
  return { left, top: Math.floor((picture.height - height) / 2), width, height };
}

function cutCentre(picture, modelHeight, modelWidth) {
  const { left, top, width, height } = centreBox(picture, modelHeight, modelWidth);
  const data = new Uint8Array(4 * width * height);
  for (let row = 0; row < height; row++) {
    const start = 4 * ((top + row) * picture.width + left);
    data.set(picture.data.subarray(start, start + 4 * width), 4 * width * row);
  }
  return { data, width, height };
}

function onWhite(rgba) {
  const opaque = Uint8Array.from(rgba);
  for (let i = 0; i < opaque.length; i += 4) {
    const alpha = opaque[i + 3];
    if (alpha === 255) continue;
    for (let j = i; j < i + 3; j++) {
      opaque[j] = Math.round((opaque[j] * alpha) / 255 + 255 - alpha);
    }
  }
  return opaque;
}

function take(rgba, channel) {
  const plane = new Uint8Array(rgba.length / 4);
  for (let i = 0, j = channel; i < plane.length; i++, j += 4) plane[i] = rgba[j];
  return plane;
}

function toGrey(rgba) {
  const grey = new Uint8Array(rgba.length / 4);
  for (let i = 0, j = 0; i < grey.length; i++, j += 4) {
    grey[i] = (rgba[j] * 19595 + rgba[j + 1] * 38470 + rgba[j + 2] * 7471 + 32768) >> 16;
  }
  return grey;
}

/** Each row to `size` pixels, and rows to columns: twice, and the picture is upright again. */
function filterRows(plane, width, height, size) {
  const filtered = new Uint8Array(size * height);
  for (let column = 0; column < size; column++) {
    const { first, weights } = weigh(column, width, size);
    for (let row = 0; row < height; row++) {
      let sum = UNIT / 2;
      for (let k = 0, i = row * width + first; k < weights.length; k++, i++) {
        sum += plane[i] * weights[k];
      }
      filtered[column * height + row] = Math.min(255, Math.max(0, Math.floor(sum / UNIT)));
    }
  }
  return filtered;
}

/**
 * The pixels that a pixel of the smaller (or larger) row is made of, and how much of each: with the
 * operations of Pillow's Resample.c in their order, since another order rounds otherwise.
 */
function weigh(index, from, to) {
  const scale = Math.max(from / to, 1);
  const center = (index + 0.5) * (from / to);
  const first = Math.max(0, Math.trunc(center - LOBES * scale + 0.5));
  const last = Math.min(from, Math.trunc(center + LOBES * scale + 0.5));
  const raw = Array.from({ length: last - first }, (_, k) =>
    lanczos((k + first - center + 0.5) * (1 / scale)),
  );
  const total = raw.reduce((sum, weight) => sum + weight);
  return { first, weights: raw.map((weight) => roundAway((weight / total) * UNIT)) };
}

function lanczos(x) {
  return -LOBES <= x && x < LOBES ? sinc(x) * sinc(x / LOBES) : 0;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI);
}

function roundAway(x) {
  return Math.trunc(x + (x < 0 ? -0.5 : 0.5));
}
