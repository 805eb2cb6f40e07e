// Text of numbers, times and whatever a task may hold.

const locale = undefined; // The reader's own.
const whole = new Intl.NumberFormat(locale);
const short = new Intl.NumberFormat(locale, { maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const minutes = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const day = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short" });
const full = new Intl.DateTimeFormat(locale, { dateStyle: "full", timeStyle: "long" });

// The server's clock minus the browser's, in milliseconds: a browser's clock may be an hour wrong.
let skew = 0;

export function heardAt(header) {
  const server = Date.parse(header);
  // Dates of HTTP are whole seconds: less than two is no difference.
  if (server) skew = Math.abs(server - Date.now()) < 2000 ? 0 : server - Date.now();
}

export const now = () => Date.now() + skew;

export const count = (n) => (n == null ? "–" : whole.format(n));

export const atLeast = (n, more) => (more ? `${count(n)}+` : count(n));

export function rate(n) {
  if (n == null) return "–";
  if (n === 0) return "0";
  return n < 0.1 ? "<0.1" : n < 10 ? short.format(n) : whole.format(Math.round(n));
}

// Its parts stay on one line.
export const duration = (ms) => span(ms).replaceAll(" ", "\u00a0");

function span(ms) {
  if (ms == null) return "–";
  if (ms < 1) return "<1 ms";
  if (ms < 1000) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.round(s)} s`;
  const m = Math.floor(s / 60);
  if (m < 60) return s % 60 >= 1 && m < 10 ? `${m} min ${Math.floor(s % 60)} s` : `${m} min`;
  const h = Math.floor(m / 60);
  if (h < 48) return m % 60 && h < 10 ? `${h} h ${m % 60} min` : `${h} h`;
  return `${whole.format(Math.floor(h / 24))} d`;
}

export function moment(iso) {
  const date = new Date(iso);
  if (!iso || Number.isNaN(date.getTime())) return { text: "–", title: "" };
  const year = date.getFullYear();
  if (year < 1971) return { text: "long ago", title: iso };
  if (year > 9998) return { text: "never", title: iso };
  const today = new Date(now()).toDateString() === date.toDateString();
  const thisYear = new Date(now()).getFullYear() === year;
  const text = today
    ? clock.format(date)
    : `${day.format(date)}${thisYear ? "" : ` ${year}`}, ${minutes.format(date)}`;
  return { text, title: full.format(date) };
}

export const minute = (iso) => minutes.format(new Date(iso));

export function ago(iso) {
  const ms = now() - Date.parse(iso);
  if (Number.isNaN(ms)) return "–";
  // The server's clock is known to about two seconds: its Date has no fractions, and takes a while to come.
  if (ms < -2500) return `in ${duration(-ms)}`;
  return ms < 5000 ? "just now" : `${duration(ms)} ago`;
}

// Characters that have no shape, or change the direction of those after them, are written out.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

export const visible = (text) =>
  String(text).replace(UNSEEN, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);

export function cut(text, length) {
  const seen = String(text);
  return visible(seen.length > length ? `${seen.slice(0, length)}…` : seen);
}

export const firstLine = (text, length = 200) => cut(String(text ?? "").split("\n", 1)[0], length);

export const plural = (n, one, many) => `${count(n)} ${n === 1 ? one : many}`;

export function bytes(n) {
  return n < 1000 ? `${n} characters` : n < 1e6 ? `${short.format(n / 1000)} k characters` : `${short.format(n / 1e6)} M characters`;
}
