/** The camera: a stream of frames onto the paper, until it is stopped. */

const PAUSE = 120; // milliseconds between frames

export class Camera {
  #stream = null;
  #video = document.createElement("video");

  /** `show` is called with each frame, a bitmap. */
  constructor(show) {
    this.show = show;
  }

  get isOn() {
    return this.#stream !== null;
  }

  async start() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new Error("This browser gives no camera to this page. It needs https or localhost.");
    }
    const wanted = { audio: false, video: { facingMode: "environment" } };
    const stream = await navigator.mediaDevices.getUserMedia(wanted).catch((error) => {
      throw new Error(`The camera did not start: ${error.message}.`);
    });
    this.#stream = stream;
    stream.getVideoTracks()[0].onended = () => this.stop();
    Object.assign(this.#video, { srcObject: stream, muted: true, playsInline: true });
    await this.#video.play();
    this.#follow(stream);
  }

  stop() {
    for (const track of this.#stream?.getTracks() ?? []) track.stop();
    this.#stream = null;
    this.#video.srcObject = null;
  }

  async #follow(stream) {
    while (this.#stream === stream) {
      const frame = await createImageBitmap(this.#video).catch(() => null); // none before the first
      if (this.#stream !== stream) return;
      if (frame) this.show(frame);
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }
}
