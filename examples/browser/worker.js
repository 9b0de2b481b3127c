/**
 * The page without a network: whatever the page has loaded once is kept, and used where the network
 * fails. With a network everything comes from there, so that a new version is never missed.
 */

const CACHE = "anil-tf page";
const PAGE = [
  "./", "index.html", "style.css", "page.webmanifest", "icon.svg", "app.js", "camera.js",
  "bundles.json", "fewshot.js", "head.js", "paper.js", "photos.js", "pixels.js", "shelf.js",
  "node_modules/fflate/esm/browser.js",
];

addEventListener("install", (event) => {
  const keepAll = (cache) => Promise.allSettled(PAGE.map((file) => cache.add(file)));
  event.waitUntil(caches.open(CACHE).then(keepAll));
  skipWaiting();
});

addEventListener("activate", (event) => event.waitUntil(clients.claim()));

addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  const ours = method === "GET" && new URL(url).origin === location.origin;
  if (ours) event.respondWith(load(event));
});

async function load(event) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(event.request);
    if (response.ok) event.waitUntil(cache.put(event.request, response.clone()));
    return response;
  } catch (error) {
    const kept = await cache.match(event.request);
    if (kept) return kept;
    throw error;
  }
}
