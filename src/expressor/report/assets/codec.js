// Unpacks what expressor/report/payload.py packed, and works out numbers from it.

const parseBase64 = (text) => Uint8Array.from(atob(text), (one) => one.charCodeAt(0));

const readFloats = (text) => new Float32Array(parseBase64(text).buffer);

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// One gene's layers as {name: Float64Array}, NaN where there is no value.
async function unpackGene(packed, record, count) {
  const planes = await inflate(parseBase64(record.data));
  const width = packed.bits / 8;
  const top = 2 ** packed.bits - 1;
  const layers = {};
  packed.layers.forEach((name, position) => {
    const start = position * count * width;
    const [low, high] = record.ranges[position];
    const values = new Float64Array(count);
    for (let i = 0; i < count; i++) {
      const step = width === 1 ? planes[start + i] : planes[start + i] * 256 + planes[start + count + i];
      values[i] = step === top ? NaN : low + ((high - low) * step) / (top - 1);
    }
    layers[name] = values;
  });
  return layers;
}

const subtract = (a, b) => a.map((value, i) => value - b[i]);

// What the panels show, made from the layers as they were packed.
function derive(layers) {
  const shown = { predicted: layers.predicted };
  if (layers.measured) {
    shown.measured = layers.measured;
    shown.error = subtract(layers.predicted, layers.measured);
  }
  if (layers.below) {
    shown.lower = subtract(layers.predicted, layers.below);
    shown.upper = layers.predicted.map((value, i) => value + layers.above[i]);
    shown.width = layers.below.map((value, i) => value + layers.above[i]);
  }
  return shown;
}

const finite = (values) => Array.from(values).filter(Number.isFinite);

function quantile(sorted, fraction) {
  const place = (sorted.length - 1) * fraction;
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}

// The same colour ranges as expressor/report/colours.py.
function valueRange(arrays, fraction = 0.99) {
  const known = arrays.filter(Boolean).flatMap(finite).sort((a, b) => a - b);
  if (!known.length) return [0, 1];
  const low = quantile(known, 1 - fraction);
  const high = quantile(known, fraction);
  return high > low ? [low, high] : [low, low + (Math.abs(low) || 1)];
}

// The one width of all spots where they differ by less than a hundredth, else null.
function constantWidth(values) {
  const known = finite(values);
  const [least, most] = known.reduce(([a, b], one) => [Math.min(a, one), Math.max(b, one)], [Infinity, -Infinity]);
  return most - least < 0.01 * most ? most : null;
}

function widthRange(values) {
  const known = finite(values).sort((a, b) => a - b);
  const top = known.length ? 1.25 * quantile(known, 0.995) : 1;
  return [0, top > 0 ? top : 1];
}

function errorRange(values) {
  const known = finite(values).map(Math.abs).sort((a, b) => a - b);
  const top = known.length ? quantile(known, 0.99) || 1 : 1;
  return [-top, top];
}

// Pearson correlation over the rows where both are known; NaN where it is not defined.
function correlation(a, b, rows) {
  const known = rows.filter((i) => Number.isFinite(a[i]) && Number.isFinite(b[i]));
  const mean = (values) => known.reduce((sum, i) => sum + values[i], 0) / known.length;
  const [ma, mb] = [mean(a), mean(b)];
  let [ab, aa, bb] = [0, 0, 0];
  for (const i of known) {
    ab += (a[i] - ma) * (b[i] - mb);
    aa += (a[i] - ma) ** 2;
    bb += (b[i] - mb) ** 2;
  }
  return known.length > 2 && aa > 1e-12 && bb > 1e-12 ? ab / Math.sqrt(aa * bb) : NaN;
}

// Numbers in words: a true minus sign, an en dash for "not known".
function say(value, digits = 2) {
  if (!Number.isFinite(value)) return "\u2013";
  const text = value.toFixed(digits);
  return Number(text) === 0 ? text.replace("-", "") : text.replace("-", "\u2212");
}

function niceStep(span, most) {
  const power = 10 ** Math.floor(Math.log10(span / most));
  return [1, 2, 5, 10].map((one) => one * power).find((one) => span / one <= most);
}

function ticksOf([low, high], most = 4) {
  const step = niceStep(high - low, most);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) ticks.push(k * step);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return ticks.map((value) => ({ value, text: say(value, digits) }));
}
