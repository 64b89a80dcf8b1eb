// Between numbers and what is seen: canvases, picture files, drawings.

const LARGEST_FILE = 50e6; // bytes

/** Puts a picture [height, width, channels], values in [-range, range], on a canvas of its own size. */
export function paint(canvas, data, [height, width, channels], range = 1) {
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = Math.round((data[i * channels + (c % channels)] / range + 1) * 127.5);
    image.data[4 * i + 3] = 255;
  }
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** How far the values of x_t reach: noise to about 2.5, a picture to 1. */
export const reach = (model, t) => 1 + 1.5 * Math.sqrt(1 - model.alpha_bar[t]);

/** A picture as an element that says what it shows. */
export function element(data, shape, label, range = 1) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", label);
  if (data) paint(canvas, data, shape, range);
  else [canvas.height, canvas.width] = shape;
  return canvas;
}

/** The n-th of several pictures that lie in one array. */
export const nth = (data, n, size) => data.slice(n * size, (n + 1) * size);

/** Rows of pictures as one PNG, each of their points a square of several pixels. */
export async function png(rows, shape) {
  const [height, width] = shape;
  const scale = Math.max(1, Math.round(224 / Math.max(height, width)));
  const across = Math.max(...rows.map((row) => row.length));
  const canvas = new OffscreenCanvas(across * width * scale, rows.length * height * scale);
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = false;
  rows.forEach((row, down) =>
    row.forEach((data, place) => {
      if (!data) return;
      pen.drawImage(element(data, shape, ""), place * width * scale, down * height * scale, width * scale, height * scale);
    }),
  );
  return canvas.convertToBlob({ type: "image/png" });
}

/** What a canvas, or the middle of a picture of any size, is to the network: values in [-1, 1]. */
export function read(source, [height, width, channels]) {
  const canvas = new OffscreenCanvas(width, height);
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  const scale = Math.max(width / source.width, height / source.height); // the whole of the shorter side
  const [w, h] = [source.width * scale, source.height * scale];
  pen.fillRect(0, 0, width, height); // black where the picture is transparent
  pen.imageSmoothingQuality = "high";
  pen.drawImage(source, (width - w) / 2, (height - h) / 2, w, h);
  const { data } = pen.getImageData(0, 0, width, height);
  return Float32Array.from({ length: height * width * channels }, (_, i) => {
    const at = 4 * Math.floor(i / channels);
    const value = channels === 1 ? 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2] : data[at + (i % channels)];
    return value / 127.5 - 1;
  });
}

/** The picture in a file. Throws an Error that says in words why there is none. */
export async function readFile(file, shape) {
  const refuse = (why) => new Error(`“${file.name}” was not opened: ${why}`);
  if (file.size === 0) throw refuse("it is empty.");
  if (file.size > LARGEST_FILE) throw refuse(`it has ${Math.round(file.size / 1e6)} MB; choose one of at most 50 MB.`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw refuse("it is no picture that this browser can read. PNG, JPEG and WebP will do.");
  }
  return read(bitmap, shape);
}

/** A picture as text for a link, one byte a value, and back; null where the text is none. */
export function toText(data) {
  const bytes = Array.from(data, (value) => String.fromCharCode(Math.min(255, Math.max(0, Math.round((value + 1) * 127.5)))));
  return btoa(bytes.join("")).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

export function fromText(text, size) {
  try {
    const bytes = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    return bytes.length === size ? Float32Array.from(bytes, (byte) => byte.charCodeAt(0) / 127.5 - 1) : null;
  } catch {
    return null;
  }
}
