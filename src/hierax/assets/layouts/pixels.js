/**
 * The pixels of hierax and of transformers in Python, for pipelines of transformers.js.
 *
 * transformers.js resizes images in another way than Python (in Node.js without averaging the pixels that become one, in
 * browsers as the canvas does), so its pixels are other ones than those that the model was trained on. Here images are
 * resized and cropped as Pillow does it, value by value.
 *
 *     import { exactPixels } from "./pixels.js";
 *     const classify = exactPixels(await pipeline("image-classification", "model"));
 */

const BITS = 22; // weights are whole numbers in 1 / 2^22
const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const inside = (x, reach, value) => (x < reach ? value(x) : 0);

/** Filters by Pillow's numbers: how far they reach, and their weight at a distance. 0, the nearest pixel, has none. */
const FILTERS = {
  1: [3, (x) => inside(x, 3, (d) => sinc(d) * sinc(d / 3))],
  2: [1, (x) => inside(x, 1, (d) => 1 - d)],
  3: [2, (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : inside(x, 2, (d) => ((-0.5 * d + 2.5) * d - 4) * d + 2))],
  4: [0.5, (x) => (x <= 0.5 ? 1 : 0)],
  5: [1, (x) => inside(x, 1, (d) => sinc(d) * (0.54 + 0.46 * Math.cos(Math.PI * d)))],
};

/** For each pixel of the result along one axis: the first pixel that it is made of, and the weights from there on. */
function weightsFor(before, after, resample) {
  const ratio = before / after;
  if (resample === 0) {
    let center = -0.5 * ratio; // added up as Pillow does, because rounding errors decide at the edges of pixels
    return Array.from({ length: after }, () => [Math.floor((center += ratio)), [2 ** BITS]]);
  }
  const [reach, filter] = FILTERS[resample];
  const stretch = Math.max(ratio, 1); // a filter that is as wide as what becomes one pixel
  return Array.from({ length: after }, (_, i) => {
    const center = (i + 0.5) * ratio;
    const first = Math.max(Math.trunc(center - reach * stretch + 0.5), 0);
    const last = Math.min(Math.trunc(center + reach * stretch + 0.5), before);
    const weights = [];
    for (let n = first; n < last; ++n) weights.push(filter(Math.abs((n - center + 0.5) / stretch)));
    const sum = weights.reduce((a, b) => a + b, 0);
    return [first, weights.map((weight) => Math.trunc((weight / sum) * 2 ** BITS + (weight < 0 ? -0.5 : 0.5)))];
  });
}

/** `lines` rows of `before` pixels, of which `after` are made; steps are distances in the data. */
function resizeAxis(data, result, { lines, before, after, step, lineStep, newStep, newLineStep, channels, resample }) {
  weightsFor(before, after, resample).forEach(([first, weights], i) => {
    for (let line = 0; line < lines; ++line) {
      for (let channel = 0; channel < channels; ++channel) {
        let sum = 2 ** (BITS - 1); // rounds to the nearest
        let from = line * lineStep + first * step + channel;
        for (const weight of weights) {
          sum += weight * data[from];
          from += step;
        }
        result[line * newLineStep + i * newStep + channel] = Math.floor(sum / 2 ** BITS); // clamped to 0..255
      }
    }
  });
  return result;
}

function resizeRows(image, width, resample) {
  const { data, height, channels } = image;
  const result = resizeAxis(data, new Uint8ClampedArray(width * height * channels), {
    lines: height, before: image.width, after: width, channels, resample,
    step: channels, lineStep: image.width * channels, newStep: channels, newLineStep: width * channels,
  });
  return new image.constructor(result, width, height, channels);
}

function resizeColumns(image, height, resample) {
  const { data, width, channels } = image;
  const result = resizeAxis(data, new Uint8ClampedArray(width * height * channels), {
    lines: width, before: image.height, after: height, channels, resample,
    step: width * channels, lineStep: channels, newStep: width * channels, newLineStep: channels,
  });
  return new image.constructor(result, width, height, channels);
}

/**
 * An image resized as by Pillow 13: first its rows, then its columns (the other way round if far more rows than columns
 * go), with whole gray levels between.
 */
export function resize(image, width, height, resample) {
  const columnsFirst = image.height - height > Math.max(0, 2 * (image.width - width));
  const steps = [
    (part) => (width === part.width ? part : resizeRows(part, width, resample)),
    (part) => (height === part.height ? part : resizeColumns(part, height, resample)),
  ];
  return (columnsFirst ? steps.reverse() : steps).reduce((part, step) => step(part), image);
}

/** The center of an image. What is outside of the image is black. */
export function crop(image, width, height) {
  const { channels } = image;
  const [left, top] = [Math.floor((image.width - width) / 2), Math.floor((image.height - height) / 2)];
  const data = new Uint8ClampedArray(width * height * channels);
  const [from, to] = [Math.max(left, 0), Math.min(left + width, image.width)];
  for (let row = Math.max(top, 0); row < Math.min(top + height, image.height); ++row) {
    const start = row * image.width;
    const part = image.data.subarray((start + from) * channels, (start + to) * channels);
    data.set(part, ((row - top) * width + from - left) * channels);
  }
  return new image.constructor(data, width, height, channels);
}

/** Lets a pipeline of images resize and crop as Python does, and returns it. */
export function exactPixels(pipeline) {
  const processor = pipeline.processor.image_processor ?? pipeline.processor;
  const { do_resize, do_center_crop, size, crop_size, resample } = processor;
  processor.resize = async (image) => {
    if (do_resize) {
      const short = Math.min(image.width, image.height);
      const scaled = (side) => Math.floor((size.shortest_edge * side) / short);
      const [width, height] = size.shortest_edge
        ? [scaled(image.width), scaled(image.height)]
        : [size.width, size.height];
      image = resize(image, width, height, resample);
    }
    return do_center_crop ? crop(image, crop_size.width, crop_size.height) : image;
  };
  processor.do_resize = true;
  processor.do_center_crop = false;
  return pipeline;
}
