"use strict";
// From an image of any size to the networks' input, byte for byte as tutelage.data.images does it:
// grey or colour first, then the largest centred square at the wanted size, by Pillow's bilinear
// filter, which averages where it makes smaller and rounds to bytes after each direction.

const PRECISION = 22;

function triangle(x) {
  const distance = Math.abs(x);
  return distance < 1 ? 1 - distance : 0;
}

// For each output place the first input place and the whole-number weights from there on.
function makeWeights(inputSize, low, high, outputSize) {
  const scale = (high - low) / outputSize;
  const support = Math.max(scale, 1);
  return Array.from({ length: outputSize }, (_, place) => {
    const centre = low + (place + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - support + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support + 0.5), inputSize);
    const shares = [];
    for (let x = first; x < end; x++) shares.push(triangle((x - centre + 0.5) / support));
    const sum = shares.reduce((total, share) => total + share, 0);
    const weights = shares.map((share) => Math.trunc(0.5 + (share / sum) * 2 ** PRECISION));
    return { first, weights };
  });
}

function weigh(values, start, stride, weights) {
  let sum = 2 ** (PRECISION - 1);
  for (let i = 0; i < weights.length; i++) sum += values[start + i * stride] * weights[i];
  return Math.min(Math.max(Math.floor(sum / 2 ** PRECISION), 0), 255);
}

// One channel: the box of the image (left, top, side) as size by size bytes.
function resizeChannel(values, width, height, box, size) {
  const across = makeWeights(width, box.left, box.left + box.side, size);
  const down = makeWeights(height, box.top, box.top + box.side, size);
  const narrow = new Uint8Array(height * size);
  const firstRow = down[0].first;
  const endRow = down[size - 1].first + down[size - 1].weights.length;
  for (let y = firstRow; y < endRow; y++)
    for (let x = 0; x < size; x++)
      narrow[y * size + x] = weigh(values, y * width + across[x].first, 1, across[x].weights);
  const result = new Uint8Array(size * size);
  for (let y = 0; y < size; y++)
    for (let x = 0; x < size; x++)
      result[y * size + x] = weigh(narrow, down[y].first * size + x, size, down[y].weights);
  return result;
}

// Pillow's grey of a colour; alpha is dropped.
function toGrey(red, green, blue) {
  return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
}

function splitChannels(rgba, channels) {
  const count = rgba.length / 4;
  const split = Array.from({ length: channels }, () => new Uint8Array(count));
  for (let i = 0; i < count; i++) {
    if (channels === 1) split[0][i] = toGrey(rgba[4 * i], rgba[4 * i + 1], rgba[4 * i + 2]);
    else for (let c = 0; c < 3; c++) split[c][i] = rgba[4 * i + c];
  }
  return split;
}

// ImageData of any size to channels × size × size bytes.
function toPixels({ data, width, height }, channels, size) {
  const side = Math.min(width, height);
  const box = { left: (width - side) / 2, top: (height - side) / 2, side };
  const pixels = new Uint8Array(channels * size * size);
  splitChannels(data, channels).forEach((values, channel) => {
    pixels.set(resizeChannel(values, width, height, box, size), channel * size * size);
  });
  return pixels;
}

// The same bytes as an image to be shown.
function toImageData(pixels, channels, size) {
  const shown = new ImageData(size, size);
  const area = size * size;
  for (let i = 0; i < area; i++) {
    for (let c = 0; c < 3; c++) shown.data[4 * i + c] = pixels[channels === 1 ? i : c * area + i];
    shown.data[4 * i + 3] = 255;
  }
  return shown;
}
