// Numbers to words and to pixels.

const WORDS = { nats: "\u00a0nats", tokens: "\u00a0tokens", seconds: "\u00a0s", mb: "\u00a0MB" };

/** Write a number for a reader; `bare` leaves the unit's word out (axes). */
function write(value, unit, bare) {
  if (value === null || !Number.isFinite(value)) return "none";
  if (unit === "share") {
    const percent = 100 * value;
    return (Math.abs(percent) < 10 || Math.abs(percent - 100) < 1 ? percent.toFixed(1) : percent.toFixed(0)) + "\u00a0%";
  }
  const text = unit === "count" ? Math.round(value).toLocaleString("en-US") : plain(value, Math.abs(value));
  return text + (bare ? "" : WORDS[unit] || "");
}

/** Write a number with three significant digits at magnitude `size`. */
function plain(value, size) {
  if (size === 0) return "0";
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  return size < 0.001 ? value.toExponential(1) : value.toFixed(Math.max(0, 2 - Math.floor(Math.log10(size))));
}

/** Write a round number on an axis, without the zeros that only say how exactly a measurement is known. */
const writeTick = (value, unit) => write(value, unit, true).replace(/(\.\d*?)0+(?=\u00a0%|$)/, "$1").replace(/\.(?=\u00a0%|$)/, "");

function writeInterval(low, high, unit) {
  const size = Math.max(Math.abs(low), Math.abs(high));
  const said = (value) => (unit === "share" || unit === "count" ? write(value, unit, true) : plain(value, size));
  const dash = low >= 0 && !said(low).includes("e") ? "\u2013" : " to ";
  return said(low).replace(/\u00a0%$/, "") + dash + said(high);
}

/** Round steps (1, 2, 5 times a power of ten) that cover low..high in about `count` parts. */
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.75);
  const found = [];
  for (let place = Math.ceil(low / step - 1e-9); place * step <= high + step * 1e-9; place += 1) found.push(place * step);
  return found;
}

/** A scale from numbers to pixels; `root` spaces numbers by their square root and needs them to be >= 0. */
function scale(low, high, from, to, root) {
  const bend = root ? (value) => Math.sqrt(Math.max(0, value)) : (value) => value;
  const [start, end] = [bend(low), bend(high)];
  const place = (value) => from + ((bend(value) - start) / (end - start)) * (to - from);
  return Object.assign(place, { low, high });
}

/** The range of all numbers, widened so that nothing lies on the frame; fixed ends win. */
function range(values, axis, margin) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (value === null || !Number.isFinite(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low > high) [low, high] = [0, 1];
  const widen = high > low ? (high - low) * margin : Math.abs(high) * 0.1 || 0.5;
  const nonNegative = low >= 0;
  low = axis.low ?? (nonNegative ? Math.max(0, low - widen) : low - widen);
  high = axis.high ?? high + widen;
  return low < high ? [low, high] : [low - 0.5, high + 0.5];
}
