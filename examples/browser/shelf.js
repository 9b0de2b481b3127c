/** What was learned, kept in this browser between visits: one head for each model. */

const SHELF = "anil-tf heads";
const place = (manifest) => `kept/${manifest.backbone_sha256}.npz`;

/** Keep the bytes of a head in place of those before. Without a secure origin nothing is kept. */
export async function keep(manifest, bytes) {
  if (!globalThis.caches) return;
  const shelf = await caches.open(SHELF);
  await shelf.put(place(manifest), new Response(bytes));
}

/** The bytes of the head that was kept for a model; null if there is none. */
export async function recall(manifest) {
  if (!globalThis.caches) return null;
  const kept = await (await caches.open(SHELF)).match(place(manifest));
  return kept ? new Uint8Array(await kept.arrayBuffer()) : null;
}
