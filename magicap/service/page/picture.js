/** Pictures from a file, a drop, the clipboard or the camera, made small enough to send. */

export const MOST_BYTES = 32 * 1024 * 1024;
const LONGEST = 1600; // pixels; scorers see 448 at most, so nothing is lost

export class PictureError extends Error {}

function check(file) {
  if (file.size === 0) throw new PictureError("This file is empty.");
  if (file.size > MOST_BYTES) {
    const size = (file.size / 1024 / 1024).toFixed(0);
    throw new PictureError(`This file has ${size} MiB; the service takes pictures up to 32 MiB.`);
  }
}

async function scaled(bitmap) {
  const share = LONGEST / Math.max(bitmap.width, bitmap.height);
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * share));
  canvas.height = Math.max(1, Math.round(bitmap.height * share));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // JPEG has no transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve) => { canvas.toBlob(resolve, "image/jpeg", 0.9); });
}

async function shrink(file) {
  let bitmap = null;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
    if (Math.max(bitmap.width, bitmap.height) <= LONGEST) return file;
    return (await scaled(bitmap)) ?? file;
  } catch {
    return file; // a format that only the service reads
  } finally {
    bitmap?.close();
  }
}

/** What is shown and sent: `{blob, url, name}`. */
export async function pictureFrom(file, name = file.name || "picture") {
  check(file);
  const blob = await shrink(file);
  return { blob, url: URL.createObjectURL(blob), name };
}

export async function pictureAt(url, name) {
  const response = await fetch(url);
  if (!response.ok) throw new PictureError("The example could not be loaded.");
  return pictureFrom(await response.blob(), name);
}

const firstFile = (transfer) => transfer?.files?.[0] ?? null;
const carriesFile = (event) => event.dataTransfer?.types.includes("Files");

/** Listens for drops anywhere on the page and for pastes. */
export function listen(onFile) {
  let depth = 0; // dragenter and dragleave also fire for every child
  const mark = () => document.body.classList.toggle("dragging", depth > 0);
  document.addEventListener("dragenter", (event) => { if (carriesFile(event)) { depth += 1; mark(); } });
  document.addEventListener("dragleave", (event) => { if (carriesFile(event)) { depth = Math.max(depth - 1, 0); mark(); } });
  document.addEventListener("dragover", (event) => { if (carriesFile(event)) event.preventDefault(); });
  document.addEventListener("drop", (event) => {
    depth = 0;
    mark();
    const file = firstFile(event.dataTransfer);
    if (!file) return;
    event.preventDefault();
    onFile(file);
  });
  document.addEventListener("paste", (event) => {
    const file = firstFile(event.clipboardData);
    if (!file) return;
    event.preventDefault();
    onFile(file);
  });
}
