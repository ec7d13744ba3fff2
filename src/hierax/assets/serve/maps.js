// Maps of features in the browser: cosine similarity, colors, and drawing over an image.

import { bytesOf } from "./dom.js";

// base64 of float32 [C, h, w], little-endian -> unit vectors [h * w, C], so that a similarity is one product.
export function unitVectors(data, [channels, height, width]) {
  const bytes = bytesOf(data);
  const view = new DataView(bytes.buffer);
  const cells = height * width;
  const vectors = new Float32Array(cells * channels);
  for (let c = 0; c < channels; c += 1) {
    for (let i = 0; i < cells; i += 1) vectors[i * channels + c] = view.getFloat32(4 * (c * cells + i), true);
  }
  for (let i = 0; i < cells; i += 1) {
    let sum = 0;
    for (let c = i * channels; c < (i + 1) * channels; c += 1) sum += vectors[c] * vectors[c];
    const scale = sum > 0 ? 1 / Math.sqrt(sum) : 0;
    for (let c = i * channels; c < (i + 1) * channels; c += 1) vectors[c] *= scale;
  }
  return { vectors, channels, height, width };
}

// float32 [h * w]: the cosine of every cell with the cell (row, column).
export function similarity({ vectors, channels, height, width }, row, column) {
  const values = new Float32Array(height * width);
  const from = (row * width + column) * channels;
  const point = vectors.subarray(from, from + channels);
  for (let i = 0, at = 0; i < values.length; i += 1) {
    let sum = 0;
    for (let c = 0; c < channels; c += 1, at += 1) sum += vectors[at] * point[c];
    values[i] = sum;
  }
  return values;
}

// The range of the colors: from the value that a tenth of the cells lie below, so that a few odd cells do not
// take all the contrast, to the largest.
export function range(values) {
  const sorted = Float32Array.from(values).sort();
  return [sorted[Math.floor(0.1 * (sorted.length - 1))], sorted[sorted.length - 1]];
}

// Dark violet to pale yellow, even in lightness: readable without color vision, and in both themes.
const STOPS = [[13, 8, 35], [68, 15, 104], [131, 38, 106], [188, 55, 84], [229, 92, 48], [251, 155, 6], [246, 215, 70], [252, 255, 194]];
export const HEAT = Array.from({ length: 256 }, (_, i) => {
  const at = (i / 255) * (STOPS.length - 1);
  const k = Math.min(Math.floor(at), STOPS.length - 2);
  return STOPS[k].map((low, c) => Math.round(low + (STOPS[k + 1][c] - low) * (at - k)));
});

// Draws values [h * w] over the whole canvas. `strength` 0..1 is how much the colors cover the image.
export function drawHeat(canvas, values, [height, width], { low, high, strength, cells }) {
  const small = new OffscreenCanvas(width, height);
  const paint = small.getContext("2d");
  const pixels = paint.createImageData(width, height);
  const scale = high > low ? 255 / (high - low) : 0;
  for (let i = 0; i < values.length; i += 1) {
    const level = Math.max(0, Math.min(255, Math.round((values[i] - low) * scale)));
    pixels.data.set(HEAT[level], 4 * i);
    pixels.data[4 * i + 3] = Math.round(255 * strength);
  }
  paint.putImageData(pixels, 0, 0);
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.imageSmoothingEnabled = !cells;
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

// Sets the pixels of a canvas to those of its box on this screen; true if they changed.
export function fit(canvas) {
  const box = canvas.getBoundingClientRect();
  const dense = Math.min(window.devicePixelRatio || 1, 2);
  const [width, height] = [Math.max(1, Math.round(box.width * dense)), Math.max(1, Math.round(box.height * dense))];
  if (canvas.width === width && canvas.height === height) return false;
  Object.assign(canvas, { width, height });
  return true;
}
