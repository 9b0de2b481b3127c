/** A sheet of paper: a canvas that is drawn on by mouse, finger or pen, or holds a photo. */

import { readBitmap } from "./photos.js";
import { centreBox } from "./pixels.js";

const WIDTH = 560; // the canvas's own pixels, however large it is shown
const PEN = WIDTH / 18; // of the width of the strokes that Omniglot and glyphs have

export class Paper {
  #strokes = [];
  #photo = null;

  /** `changed` is called whenever what is on the paper changes. */
  constructor(canvas, { imageShape: [height, width], crops }, changed) {
    this.crops = crops;
    canvas.width = WIDTH;
    canvas.height = Math.round((WIDTH * height) / width);
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.changed = changed;
    this.#listen();
    this.#paint();
  }

  get isBlank() {
    return !this.#photo && !this.#strokes.length;
  }

  /** The picture, as RGBA: the photo's own pixels where nothing is drawn over it. */
  read() {
    if (this.#photo && !this.#strokes.length) return readBitmap(this.#photo);
    return this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
  }

  /** Take back the last stroke, or the photo under the strokes. */
  undo() {
    if (!this.#strokes.pop()) this.#photo = null;
    this.#draw();
  }

  clear() {
    this.#strokes = [];
    this.#photo = null;
    this.#draw();
  }

  /** Put a photo on the paper, cut as the model will see it. */
  show(photo) {
    this.#strokes = [];
    this.#photo = photo;
    this.#draw();
  }

  #listen() {
    let stroke = null;
    const extend = (event) => {
      const box = this.canvas.getBoundingClientRect();
      const scale = this.canvas.width / box.width;
      stroke.push([(event.clientX - box.left) * scale, (event.clientY - box.top) * scale]);
      this.#draw();
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !event.isPrimary) return;
      this.canvas.setPointerCapture(event.pointerId);
      stroke = [];
      this.#strokes.push(stroke);
      extend(event);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (stroke && event.isPrimary) extend(event);
    });
    for (const end of ["pointerup", "pointercancel"]) {
      this.canvas.addEventListener(end, (event) => {
        if (event.isPrimary) stroke = null;
      });
    }
  }

  #draw() {
    this.#paint();
    this.changed();
  }

  #paint() {
    const { context, canvas } = this;
    context.fillStyle = "#fff";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.imageSmoothingQuality = "high";
    if (this.#photo) {
      const { width, height } = this.#photo;
      const whole = { left: 0, top: 0, width, height };
      const box = this.crops ? centreBox(this.#photo, canvas.height, canvas.width) : whole;
      const from = [box.left, box.top, box.width, box.height];
      context.drawImage(this.#photo, ...from, 0, 0, canvas.width, canvas.height);
    }
    Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round" });
    for (const [start, ...rest] of this.#strokes) {
      context.beginPath();
      context.moveTo(...start);
      for (const point of rest.length ? rest : [start]) context.lineTo(...point);
      context.stroke();
    }
  }
}
