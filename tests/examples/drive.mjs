/**
 * Uses the page as a person does, in headless Chromium, and prints what was seen as JSON:
 *
 *     node drive.mjs SCENARIO CHROMIUM URL [PICTURE.png]
 */

import { createRequire } from "node:module";

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

async function teach(page, examples) {
  const names = Object.keys(SYMBOLS);
  await page.getByRole("button", { name: "New class" }).click();
  for (const [index, name] of names.entries()) {
    const row = page.locator("#classes li").nth(index);
    await row.locator(".name").fill(name);
    for (let seed = 0; seed < examples; seed++) {
      await draw(page, name, 10 * index + seed);
      await row.locator(".add").click();
    }
  }
  await page.getByRole("button", { name: "Learn" }).click();
  await page.getByText("Learned 3 classes").waitFor();
}

/** What the page answers to what is on the paper. */
async function answer(page) {
  await page.locator("#bars .best").waitFor();
  await page.waitForTimeout(300); // the last call of the model
  return page.locator("#bars .best .of").textContent();
}

const isVisibleInWindow = (element) => {
  const box = element.getBoundingClientRect();
  return (
    box.width > 0 && box.left >= 0 && box.right <= innerWidth && box.top >= 0 && box.bottom <= innerHeight
  );
};

const scenarios = {
  async learn(page) {
    await teach(page, 3);
    const answers = {};
    for (const symbol of Object.keys(SYMBOLS)) {
      await draw(page, symbol, 77);
      answers[symbol] = await answer(page);
      await page.getByRole("button", { name: "Clear" }).click();
    }
    return { answers };
  },

  /** For the README. */
  async picture(page) {
    await teach(page, 3);
    await draw(page, "zigzag", 77);
    return { best: await answer(page) };
  },

  async phone(page) {
    await page.setViewportSize({ width: 390, height: 844 });
    const buttons = ["Undo", "Clear", "Learn"].map((name) => page.getByRole("button", { name }));
    const inWindow = [];
    for (const button of buttons) inWindow.push(await button.evaluate(isVisibleInWindow));
    await teach(page, 2);
    await draw(page, "circle", 77);
    const best = await answer(page);
    await page.evaluate(() => scrollTo(0, 0));
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    const bar = await page.locator("#bars .best").evaluate(isVisibleInWindow);
    return { inWindow, best, width, bar };
  },

  async empty(page) {
    await page.waitForTimeout(300);
    return {};
  },
};

const [scenario, executablePath, url, picture] = process.argv.slice(2);
const browser = await chromium.launch({
  executablePath,
  args: ["--disable-quic", "--disable-gpu"],
});
const requests = [];
const complaints = [];
try {
  const page = await browser.newPage({ viewport: { width: 1180, height: 800 } });
  page.setDefaultTimeout(60_000);
  page.on("request", (request) => requests.push(request.url()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  await page.goto(url);
  await page.locator("#status").getByText(/Loading/).waitFor({ state: "detached" });
  const seen = await scenarios[scenario](page);
  if (picture) await page.screenshot({ path: picture, fullPage: scenario === "picture" });
  console.log(JSON.stringify({ ...seen, requests, complaints }));
} catch (error) {
  console.error(error.message, complaints);
  process.exitCode = 1;
} finally {
  await browser.close();
}
