/**
 * Uses the page as a person does, in headless Chromium, and prints what was seen as JSON:
 *
 *     node drive.mjs SCENARIO CHROMIUM URL [PICTURE.png]
 *
 * CHROMIUM is the path of the browser, or the address of one that `serve` has started:
 *
 *     node drive.mjs serve CHROMIUM
 */

import { readFileSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";

const require = createRequire(new URL("../../examples/browser/package.json", import.meta.url));
const { chromium } = require("playwright-core");

// Strokes on a paper of width and height 1.
const SYMBOLS = {
  cross: [line([0.2, 0.2], [0.8, 0.8]), line([0.8, 0.2], [0.2, 0.8])],
  circle: [arc(0.5, 0.5, 0.32)],
  zigzag: [line([0.12, 0.25], [0.32, 0.75], [0.5, 0.25], [0.68, 0.75], [0.88, 0.25])],
};

function line(...points) {
  return points;
}

function arc(x, y, radius) {
  return Array.from({ length: 61 }, (_, i) => [
    x + radius * Math.sin((i * Math.PI) / 30),
    y - radius * Math.cos((i * Math.PI) / 30),
  ]);
}

/** A hand that never draws the same symbol twice alike: moved, scaled and turned a little. */
function* wobble(points, seed) {
  const part = (k) => Math.sin(12.9898 * (seed + 1) * (k + 1)); // in -1..1
  const [angle, scale] = [0.15 * part(0), 1 + 0.12 * part(1)];
  for (const [x, y] of points) {
    const [u, v] = [scale * (x - 0.5), scale * (y - 0.5)];
    yield [
      0.5 + 0.05 * part(2) + u * Math.cos(angle) - v * Math.sin(angle),
      0.5 + 0.05 * part(3) + u * Math.sin(angle) + v * Math.cos(angle),
    ];
  }
}

async function draw(page, symbol, seed) {
  await page.locator("#paper").scrollIntoViewIfNeeded();
  const box = await page.locator("#paper").boundingBox();
  for (const stroke of SYMBOLS[symbol]) {
    const points = [...wobble(stroke, seed)].map(([x, y]) => [
      box.x + x * box.width,
      box.y + y * box.height,
    ]);
    await page.mouse.move(...points[0]);
    await page.mouse.down();
    for (const point of points.slice(1)) await page.mouse.move(...point);
    await page.mouse.up();
  }
}

const button = (page, name) => page.getByRole("button", { name, exact: true });
const row = (page, index) => page.locator("#classes li").nth(index);
const status = (page) => page.locator("#status").textContent();

async function teach(page, examples) {
  await button(page, "New class").click();
  for (const [index, symbol] of Object.keys(SYMBOLS).entries()) {
    await row(page, index).locator(".name").fill(symbol);
    for (let seed = 0; seed < examples; seed++) {
      await draw(page, symbol, 10 * index + seed);
      await row(page, index).locator(".add").click();
    }
  }
  await button(page, "Learn").click();
  await page.getByText("Learned 3 classes").waitFor();
}

/** The class that the page gives to what is on the paper. */
async function answer(page) {
  await page.locator("#bars .best").waitFor();
  await page.waitForTimeout(300); // the last call of the model
  return page.locator("#bars .best .of").textContent();
}

const ink = (canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.filter((value, i) => i % 4 === 0 && value < 128).length;
};

const isVisible = (element) => {
  const { left, right, top, bottom } = element.getBoundingClientRect();
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  const onTop = document.elementFromPoint(x, y);
  return (
    left >= 0 && right <= innerWidth && top >= 0 && bottom <= innerHeight && element.contains(onTop)
  );
};

const scenarios = {
  async learn(page) {
    await teach(page, 3);
    const answers = {};
    for (const symbol of Object.keys(SYMBOLS)) {
      if (symbol !== "cross") await button(page, "Clear").click();
      await draw(page, symbol, 77);
      answers[symbol] = await answer(page);
    }
    const percents = await page.locator("#bars .percent").allTextContents();
    return { answers, sum: percents.reduce((sum, text) => sum + parseInt(text), 0) };
  },

  /** What is said of a cross at the least and at the largest share of drawings to name. */
  async none(page) {
    await teach(page, 2);
    await draw(page, "cross", 77);
    await answer(page);
    const seen = { bases: [], shares: [], said: [], seesVerdict: [] };
    for (const key of ["End", "Home"]) {
      await page.locator("#accept").press(key);
      await page.waitForTimeout(300); // the last call of the model
      const owners = await page.locator("#classes li:has(.basis) .name").all();
      seen.bases.push(await Promise.all(owners.map((owner) => owner.inputValue())));
      seen.shares.push(await page.locator("#share").textContent());
      seen.said.push(await page.locator("#verdict").textContent());
      seen.seesVerdict.push(await page.locator("#verdict").evaluate(isVisible));
    }
    return seen;
  },

  /** For the README. */
  async picture(page) {
    await teach(page, 3);
    await draw(page, "zigzag", 77);
    return { answer: await answer(page) };
  },

  async escape(page, requests) {
    await teach(page, 1);
    const before = [...requests];
    const violations = await page.evaluate(async () => {
      const seen = [];
      addEventListener("securitypolicyviolation", (event) => seen.push(event.effectiveDirective));
      await fetch("http://127.0.0.1:9/").catch(() => {});
      new Image().src = "http://127.0.0.1:9/image.png";
      await new Promise((resolve) => setTimeout(resolve, 500));
      return seen;
    });
    return { requests: before, violations };
  },

  async phone(page) {
    await page.setViewportSize({ width: 390, height: 844 });
    await teach(page, 2);
    await draw(page, "circle", 77);
    const best = await answer(page);
    await page.evaluate(() => scrollTo(0, 0));
    const visible = { answer: await page.locator("#bars .best").evaluate(isVisible) };
    for (const name of ["Undo", "Clear", "Learn"]) {
      visible[name] = await button(page, name).evaluate(isVisible);
    }
    const [width, smallest] = await page.evaluate(() => [
      document.documentElement.scrollWidth,
      Math.min(
        ...[...document.querySelectorAll("button:not([hidden])")].map((each) => each.offsetHeight),
      ),
    ]);
    return { best, visible, width, smallest };
  },

  async undo(page) {
    const paper = page.locator("#paper");
    await draw(page, "cross", 0);
    const inks = [await paper.evaluate(ink)];
    for (let stroke = 0; stroke < 2; stroke++) {
      await button(page, "Undo").click();
      inks.push(await paper.evaluate(ink));
    }
    const examples = [];
    for (let seed = 0; seed < 2; seed++) {
      await draw(page, "circle", seed);
      await row(page, 0).locator(".add").click();
    }
    examples.push(await row(page, 0).locator(".count").textContent());
    await row(page, 0).locator(".thumbnails button").first().click();
    examples.push(await row(page, 0).locator(".count").textContent());
    await button(page, "New class").click();
    await button(page, "Remove Class 2").click();
    const values = (all) => all.map((each) => each.value);
    return { inks, examples, left: await page.locator(".name").evaluateAll(values) };
  },

  async change(page) {
    await teach(page, 1);
    await draw(page, "circle", 77);
    await answer(page);
    const bars = [await page.locator("#bars li").count()];
    await draw(page, "cross", 3);
    await row(page, 1).locator(".add").click();
    bars.push(await page.locator("#bars li").count());
    return { bars, status: await status(page) };
  },

  async missing(page) {
    const said = [];
    const learnable = [];
    const note = async () => {
      said.push(await status(page));
      learnable.push(await button(page, "Learn").isEnabled());
    };
    await note();
    await draw(page, "cross", 0);
    await row(page, 0).locator(".add").click();
    await note();
    await button(page, "Remove Class 2").click();
    await note();
    await button(page, "New class").click();
    await row(page, 1).locator(".name").fill("Class 1");
    await row(page, 1).locator(".name").press("Enter");
    await note();
    return { said, learnable };
  },

  /** Keys alone: a class is named, and every control is reached in both directions. */
  async keyboard(page) {
    await draw(page, "cross", 0);
    await row(page, 0).locator(".add").click();
    await draw(page, "cross", 1);
    await page.locator("h1").click(); // the focus goes to the top
    const focused = () =>
      page.evaluate(() => {
        const { activeElement: element } = document;
        return [...document.querySelectorAll("button, input")].indexOf(element);
      });
    const reachable = await page.evaluate(() =>
      [...document.querySelectorAll("button, input")].flatMap((e, i) =>
        e.disabled || !e.offsetParent ? [] : [i],
      ),
    );
    const forwards = [];
    for (let step = 0; step < reachable.length; step++) {
      await page.keyboard.press("Tab");
      forwards.push(await focused());
      if (step === reachable.length - 1) break;
    }
    const backwards = [await focused()];
    while (backwards.length < reachable.length) {
      await page.keyboard.press("Shift+Tab");
      backwards.push(await focused());
    }
    await row(page, 1).locator(".name").focus();
    await page.keyboard.type("red mug");
    await page.keyboard.press("ArrowLeft");
    await page.keyboard.press("Backspace");
    await page.keyboard.press("Enter");
    const name = await row(page, 1).locator(".name").inputValue();
    const status = await page.locator("#status").textContent();
    return { reachable, forwards, backwards, name, status, leftField: (await focused()) === -1 };
  },

  /** With two bundles listed: the second is chosen by keys alone, then the first again. */
  async choose(page) {
    const model = () => page.locator("#model").textContent();
    const choice = page.getByRole("combobox", { name: "Model" });
    const options = await choice.locator("option").allTextContents();
    const models = [await model()];
    for (const key of ["ArrowDown", "ArrowUp"]) {
      await page.locator("h1").click();
      for (let step = 0; step < 3; step++) {
        await page.keyboard.press("Tab");
        if (await choice.evaluate((element) => element === document.activeElement)) break;
      }
      const opened = page.waitForEvent("load");
      await page.keyboard.press(key);
      await opened;
      await page.locator("main:not([inert])").waitFor();
      models.push(await model(), await choice.inputValue());
    }
    return { options, models, search: new URL(page.url()).search };
  },

  /** A page whose script does not run. */
  async notStarted(page) {
    const shown = page.locator("#not-started");
    const atOnce = await shown.isVisible();
    await shown.waitFor({ timeout: 10_000 });
    return { atOnce, said: await shown.textContent(), status: await status(page) };
  },

  async withoutJavaScript(page) {
    return scenarios.notStarted(page);
  },

  async withoutWebAssembly(page) {
    return scenarios.problem(page);
  },

  async six(page) {
    for (let classes = 2; classes < 6; classes++) await button(page, "New class").click();
    return { said: await status(page) };
  },

  /** With dark.png and light.png beside the picture. */
  async photos(page) {
    const [first, second] = [0, 1].map((index) => row(page, index).locator(".photos"));
    const files = ["dark.png", "light.png"].map((name) => join(dirname(picture), name));
    await first.setInputFiles(files);
    await page.getByText("2 examples").waitFor();
    const shades = await page
      .locator(".thumbnails canvas")
      .evaluateAll((all) => all.map((c) => c.getContext("2d").getImageData(14, 14, 1, 1).data[0]));
    const notes = { name: "notes.txt", mimeType: "text/plain", buffer: Buffer.from("?") };
    await second.setInputFiles(notes);
    await page.locator("#problem").waitFor();
    const examples = await page.locator(".count").allTextContents();
    return { shades, examples, problem: await page.locator("#problem").textContent() };
  },

  /** Of the files in the folder odd beside the picture: what the modules make of them, and the page. */
  async pixels(page) {
    const folder = join(dirname(picture), "odd");
    const names = readdirSync(folder).filter((name) => !name.endsWith(".tif"));
    const pixels = {};
    for (const name of names) {
      const bytes = [...readFileSync(join(folder, name))];
      pixels[name] = await page.evaluate(
        async ({ name, bytes }) => {
          const { openPhoto, readBitmap } = await import("./photos.js");
          const { toPixels } = await import("./pixels.js");
          const photo = readBitmap(await openPhoto(new File([new Uint8Array(bytes)], name)));
          return [[28, 28, 1], [20, 30, 3]].map((shape) => [...toPixels(photo, shape)]);
        },
        { name, bytes },
      );
    }
    const examples = {};
    for (const name of ["turned6.jpg", "alpha.png", "wide.png"]) {
      const leftover = { name: `._${name}`, mimeType: "image/png", buffer: Buffer.from("?") };
      const file = { name, mimeType: "image/png", buffer: readFileSync(join(folder, name)) };
      await row(page, 0).locator(".photos").setInputFiles([leftover, file]);
      await row(page, 0).locator(".thumbnails canvas").nth(Object.keys(examples).length).waitFor();
      examples[name] = await page
        .locator(".thumbnails canvas")
        .last()
        .evaluate((canvas) => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, 28, 28);
          return [...data.filter((_, i) => i % 4 === 0)];
        });
    }
    return { pixels, examples };
  },

  /** Learned, saved beside the picture as page.npz, forgotten, opened again, and added to. */
  async keep(page) {
    await teach(page, 2);
    const download = page.waitForEvent("download");
    await button(page, "Save").click();
    const file = join(dirname(picture), "page.npz");
    await (await download).saveAs(file);
    for (let index = 0; index < 3; index++) await row(page, 0).locator(".remove").click();
    const saveable = [await button(page, "Save").isEnabled()];
    await page.locator("#open").setInputFiles(file);
    await page.getByText("Opened 3 classes from page.npz").waitFor();
    saveable.push(await button(page, "Save").isEnabled());
    await draw(page, "circle", 77);
    const answers = [await answer(page)];
    const counts = await page.locator(".count").allTextContents();
    await button(page, "New class").click();
    await row(page, 3).locator(".name").fill("second zigzag");
    await button(page, "Clear").click();
    await draw(page, "zigzag", 5);
    await row(page, 3).locator(".add").click();
    await button(page, "Learn").click();
    await page.getByText("Learned 4 classes").waitFor();
    await draw(page, "cross", 7);
    answers.push(await answer(page));
    return { saveable, answers, counts };
  },

  /** Opens the files other.npz and broken.npz beside the picture. */
  async open(page) {
    const said = [];
    for (const name of ["broken", "foreign"]) {
      await page.locator("#open").setInputFiles(join(dirname(picture), `${name}.npz`));
      await page.locator("#problem").waitFor();
      said.push(await page.locator("#problem").textContent());
    }
    await page.locator("#open").setInputFiles(join(dirname(picture), "python.npz"));
    await page.locator("#status", { hasText: "Opened" }).waitFor();
    const names = await page.locator(".name").evaluateAll((all) => all.map((e) => e.value));
    await draw(page, "cross", 7);
    return { said, names, answer: await answer(page) };
  },

  /** Learned, then left and visited again, without a network. */
  async revisit(page) {
    await teach(page, 2);
    const context = page.context();
    await context.setOffline(true);
    await page.reload();
    await page.getByText("Opened 3 classes from your last visit").waitFor();
    const names = await page.locator(".name").evaluateAll((all) => all.map((e) => e.value));
    await draw(page, "zigzag", 77);
    return { names, answer: await answer(page) };
  },

  /** Whether the browser asks before it leaves: with nothing, with examples, with a head. */
  async leave(page) {
    const asked = [];
    let dialogs = 0;
    page.on("dialog", (dialog) => ((dialogs += 1), dialog.accept()));
    const leave = async () => {
      const before = dialogs;
      await page.reload();
      await page.locator("main:not([inert])").waitFor();
      asked.push(dialogs > before);
    };
    await leave();
    await draw(page, "cross", 0);
    await row(page, 0).locator(".add").click();
    await leave();
    await teach(page, 1);
    await leave();
    return { asked };
  },

  /** One of three files is no picture; then two are dropped, one of them no picture. */
  async mixed(page) {
    const shown = { name: "a.png", mimeType: "image/png", buffer: readFileSync(picture) };
    const broken = { name: "b.png", mimeType: "image/png", buffer: Buffer.from("?") };
    await row(page, 0).locator(".photos").setInputFiles([shown, broken, { ...shown, name: "c.png" }]);
    await page.getByText("2 examples").waitFor();
    const problems = [await page.locator("#problem").textContent()];
    await row(page, 1).evaluate(
      (element, bytes) => {
        const dataTransfer = new DataTransfer();
        for (const [name, content] of [["d.png", bytes], ["e.txt", [63]]]) {
          dataTransfer.items.add(new File([new Uint8Array(content)], name));
        }
        element.dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));
      },
      [...readFileSync(picture)],
    );
    await row(page, 1).getByText("1 example").waitFor();
    problems.push(await page.locator("#problem").textContent());
    return { problems, examples: await page.locator(".count").allTextContents() };
  },

  /** What was removed by mistake comes back where it was. */
  async bringBack(page) {
    await teach(page, 2);
    const state = async () => [
      await page.locator(".name").evaluateAll((all) => all.map((e) => e.value)),
      await page.locator(".count").allTextContents(),
    ];
    const states = [await state()];
    await row(page, 1).locator(".thumbnails button").first().click();
    states.push(await state());
    await button(page, "Bring back the example of circle").click();
    states.push(await state());
    await button(page, "Remove circle").click();
    states.push(await state());
    await button(page, "Bring back circle").click();
    states.push(await state());
    return { states, offers: await page.locator("#back").isVisible() };
  },

  /** Chromium's own fake camera: Add is clicked once, then held. */
  async camera(page) {
    await button(page, "Camera").click();
    await page.locator(".add:enabled").first().waitFor();
    await row(page, 0).locator(".add").click();
    const once = await row(page, 0).locator(".count").textContent();
    await row(page, 1).locator(".add").hover();
    await page.mouse.down();
    await page.waitForTimeout(2500);
    await page.mouse.up();
    const held = parseInt(await row(page, 1).locator(".count").textContent());
    await page.waitForTimeout(600);
    const after = parseInt(await row(page, 1).locator(".count").textContent());
    await button(page, "Camera").click();
    const blank = await button(page, "Clear").isDisabled();
    return { once, held, after, blank };
  },

  async withoutCamera(page) {
    await button(page, "Camera").click();
    await page.locator("#problem").waitFor();
    return { problem: await page.locator("#problem").textContent() };
  },

  /** Over a slow network: what the bar says while it loads. */
  async slow(page) {
    const session = await page.context().newCDPSession(page);
    await session.send("Network.enable");
    const bytes = 5e6; // a second
    const network = { offline: false, latency: 20, downloadThroughput: bytes, uploadThroughput: bytes };
    await session.send("Network.emulateNetworkConditions", network);
    await session.send("Network.setBypassServiceWorker", { bypass: true });
    await session.send("Network.setCacheDisabled", { cacheDisabled: true });
    await page.reload({ waitUntil: "commit" });
    const said = new Set();
    while (await page.locator("main[inert]").count()) {
      said.add(await page.locator("#loading span").textContent());
      await page.waitForTimeout(50);
    }
    const visible = await page.locator("#loading").isVisible();
    return { said: [...said].filter(Boolean), visible };
  },

  /** What axe-core finds, in each state, in light and dark; and whether the page fits any width. */
  async access(page) {
    const found = [];
    const axe = require.resolve("axe-core/axe.min.js");
    const look = async (state) => {
      await page.evaluate(readFileSync(axe, "utf8"));
      const { violations } = await page.evaluate(() => globalThis.axe.run());
      found.push(...violations.map(({ id, nodes }) => `${state}: ${id}: ${nodes[0].html}`));
    };
    await look("empty");
    await teach(page, 2);
    await draw(page, "cross", 77);
    await answer(page);
    await look("learned");
    await page.emulateMedia({ colorScheme: "dark" });
    await look("dark");
    await page.locator("#accept").press("Home");
    await page.getByText("None of these", { exact: true }).waitFor();
    await look("none of these");
    const overflows = {};
    for (const width of [320, 375, 768, 1280, 1920]) {
      await page.setViewportSize({ width, height: 800 });
      const { scrollWidth } = await page.evaluate(() => ({
        scrollWidth: document.documentElement.scrollWidth,
      }));
      overflows[width] = scrollWidth - width;
    }
    return { found, overflows };
  },

  async problem(page) {
    await page.locator("#problem").waitFor();
    return {
      problem: await page.locator("#problem").textContent(),
      usable: await page.locator("main").isVisible(),
    };
  },
};

const CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"];
const [scenario, place, url, picture] = process.argv.slice(2);
const args = ["--disable-quic", "--disable-gpu", ...(scenario === "camera" ? CAMERA : [])];
if (scenario === "serve") {
  const server = await chromium.launchServer({ executablePath: place, args });
  console.log(server.wsEndpoint());
  process.stdin.on("end", () => server.close()).resume(); // ends with the one who started it
  await new Promise((ended) => server.on("close", ended));
  process.exit();
}
const browser = place.startsWith("ws:")
  ? await chromium.connect(place)
  : await chromium.launch({ executablePath: place, args });
const requests = [];
const complaints = [];
try {
  const page = await browser.newPage({
    viewport: { width: 1180, height: 800 },
    javaScriptEnabled: scenario !== "withoutJavaScript",
  });
  page.setDefaultTimeout(60_000);
  page.on("request", (request) => requests.push(request.url()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  if (scenario === "withoutWebAssembly") {
    await page.addInitScript(() => delete globalThis.WebAssembly);
  }
  await page.goto(url);
  if (!["notStarted", "withoutJavaScript"].includes(scenario)) {
    await page.locator("main:not([inert]), #problem:not([hidden])").waitFor();
  }
  const seen = await scenarios[scenario](page, requests);
  if (picture) await page.screenshot({ path: picture, fullPage: scenario === "picture" });
  console.log(JSON.stringify({ requests, complaints, ...seen }));
} catch (error) {
  console.error(error.message, complaints);
  process.exitCode = 1;
} finally {
  await browser.close();
}
