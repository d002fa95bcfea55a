// Foreign text made visible, and numbers as people read them.

// Controls, marks that turn the direction of text, and lone surrogates: the characters of mpt_edge/_escapes.py.
const IN_TEXT = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]/gu;
const LETTERS = { "\t": "\\t", "\n": "\\n", "\r": "\\r" };

/** Return a text whose control characters are visible escapes; lines and tabs stay. */
export function escaped(text) {
  return String(text).replace(IN_TEXT, escape);
}

/** Return a text on one line, its line ends and tabs escaped too. */
export function oneLine(text) {
  return escaped(text).replace(/[\t\n]/g, escape);
}

/** Return a count with its noun. */
export function count(number, singular, plural = `${singular}s`) {
  return `${number.toLocaleString("en-US")} ${number === 1 ? singular : plural}`;
}

/** Return a time with three digits. */
export function time(milliseconds) {
  if (milliseconds >= 1000) return `${(milliseconds / 1000).toFixed(1)} s`;
  return `${milliseconds.toFixed(milliseconds < 100 ? 1 : 0)} ms`;
}

/** Return a score with three decimals. */
export function score(value) {
  return value.toFixed(3);
}

/** Return the share of a whole in percent. */
export function percent(value) {
  return `${Math.round(100 * value)} %`;
}

function escape(character) {
  const code = character.codePointAt(0);
  const [sign, width] = code < 256 ? ["x", 2] : ["u", 4];
  return LETTERS[character] ?? `\\${sign}${code.toString(16).padStart(width, "0")}`;
}
