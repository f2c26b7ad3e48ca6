/** A picture with a heat map over it. */

import { el } from "./dom.js";

// Inferno's colours: [share, red, green, blue, opacity]; dark where a word does not fit.
const RAMP = [
  [0, 10, 8, 36, 0.64],
  [0.5, 96, 24, 106, 0.5],
  [0.78, 229, 92, 48, 0.48],
  [1, 252, 222, 110, 0.5],
];

function colour(share) {
  const above = Math.max(RAMP.findIndex(([at]) => share <= at), 1);
  const [low, high] = [RAMP[above - 1], RAMP[above]];
  const part = (share - low[0]) / (high[0] - low[0]);
  return low.slice(1).map((value, i) => value + part * (high[i + 1] - value));
}

function range(map) {
  const values = map.flat();
  const low = Math.min(...values);
  return { low, span: Math.max(...values) - low || 1 };
}

/** The map as a canvas of one pixel a place. */
function grid(map) {
  const canvas = el("canvas", { width: map[0].length, height: map.length });
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  const { low, span } = range(map);
  map.flat().forEach((value, i) => {
    const [red, green, blue, opacity] = colour((value - low) / span);
    image.data.set([red, green, blue, opacity * 255], 4 * i);
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

export function isWhole(seen) {
  return !seen || (seen[0] < 0.005 && seen[1] < 0.005 && seen[2] > 0.995 && seen[3] > 0.995);
}

/** `seen` is the part of the picture that the map covers, in shares of its width and height. */
function draw(canvas, map, seen) {
  const context = canvas.getContext("2d");
  const { width, height } = canvas;
  const [left, top, right, bottom] = seen ?? [0, 0, 1, 1];
  const box = [left * width, top * height, (right - left) * width, (bottom - top) * height];
  context.clearRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  if (!isWhole(seen)) {
    context.fillStyle = "rgba(20, 22, 26, 0.72)";
    context.fillRect(0, 0, width, height);
    context.clearRect(...box);
  }
  context.drawImage(grid(map), ...box);
  if (!isWhole(seen)) outline(context, box);
}

function outline(context, box) {
  context.strokeStyle = "rgba(255, 255, 255, 0.85)";
  context.lineWidth = 2;
  context.setLineDash([8, 6]);
  context.strokeRect(box[0] + 1, box[1] + 1, box[2] - 2, box[3] - 2);
}

const PLACES = [
  ["upper left", "top", "upper right"],
  ["left", "centre", "right"],
  ["lower left", "bottom", "lower right"],
];

const third = (share) => Math.min(Math.max(Math.floor(3 * share), 0), 2);

/** Where a map is largest, in words. */
export function place(map, area) {
  const seen = area ?? [0, 0, 1, 1];
  const values = map.flat();
  const best = values.indexOf(Math.max(...values));
  const [rows, columns] = [map.length, map[0].length];
  const x = seen[0] + ((best % columns) + 0.5) / columns * (seen[2] - seen[0]);
  const y = seen[1] + (Math.floor(best / columns) + 0.5) / rows * (seen[3] - seen[1]);
  return PLACES[third(y)][third(x)];
}

export function createPictureView(stage) {
  const image = el("img", { alt: "" });
  const canvas = el("canvas", { class: "heat", "aria-hidden": "true" });
  const frame = el("div", { class: "frame", hidden: true }, image, canvas);
  const unreadable = el("p", { class: "empty", hidden: true, text: "This browser cannot show the picture; the service may still read it." });
  stage.append(frame, unreadable);

  image.addEventListener("load", () => {
    const { naturalWidth: width, naturalHeight: height } = image;
    frame.style.setProperty("--ratio", String(width / height));
    const scale = 960 / Math.max(width, height);
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    frame.hidden = false;
    unreadable.hidden = true;
  });
  image.addEventListener("error", () => {
    frame.hidden = true;
    unreadable.hidden = false;
  });

  return {
    show(picture) {
      canvas.classList.remove("on");
      image.alt = `The picture to caption: ${picture.name}`;
      if (image.src !== picture.url) image.src = picture.url;
    },
    heat(map, seen) {
      draw(canvas, map, seen);
      canvas.classList.add("on");
    },
    clear() {
      canvas.classList.remove("on");
    },
  };
}
