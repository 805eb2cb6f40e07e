// Parts that pages are made of.

import { h } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import htm from "htm";
import { ago, bytes, count, cut, moment, visible } from "./format.js";

export const html = htm.bind(h);

const WORDS = {
  created: "created",
  queued: "queued",
  waiting: "waiting",
  running: "running",
  retry: "retry",
  completed: "completed",
  failed: "dead letter",
  cancelled: "cancelled",
};
export const STATUSES = Object.keys(WORDS);

export const statusWord = (status) => WORDS[status] ?? status;

export const Status = ({ of }) => html`<span class="status ${of}">${statusWord(of)}</span>`;

// What users write: never HTML, in its own direction, with unseen characters written out.
export const Text = ({ children, length = 200 }) =>
  children == null || children === "" ? html`<span class="muted">–</span>` : html`<bdi>${cut(children, length)}</bdi>`;

export function Time({ at, relative = false }) {
  const { text, title } = moment(at);
  return title ? html`<time dateTime=${at} title=${title}>${relative ? ago(at) : text}</time>` : html`<span class="muted">–</span>`;
}

// Commands between backquotes are shown as such.
export const Said = ({ children }) =>
  String(children ?? "")
    .split("`")
    .map((part, i) => (i % 2 ? html`<code>${visible(part)}</code>` : visible(part)));

export const Trouble = ({ error, stale }) =>
  error &&
  html`<div class="notice bad" role="alert">
    <p><strong><${Said}>${error.title && error.title !== error.message ? `${error.title}. ` : ""}<//></strong><${Said}>${capital(error.message)}<//></p>
    ${error.next && html`<p class="next"><${Said}>${capital(error.next)}<//></p>`}
    ${stale && html`<p class="muted">What you see below is from before.</p>`}
  </div>`;

export const capital = (text) => (text ? text[0].toUpperCase() + text.slice(1) : text);

export const Empty = ({ title, children }) => html`<div class="empty"><p class="title">${title}</p>${children && html`<p>${children}</p>`}</div>`;

export const Loading = () => html`<div class="loading" role="status"><span class="visually-hidden">Loading</span></div>`;

export function Heading({ title, children, refresh }) {
  const here = useRef();
  useEffect(() => {
    document.title = `${title} · Organism`;
  }, [title]);
  return html`<header class="page">
    <h1 tabindex="-1" ref=${here}>${title}</h1>
    <div class="tools">${children}</div>
  </header>`;
}

export const Section = ({ title, note, tools, children, id }) => html`<section class="card" aria-labelledby=${id}>
  <header><h2 id=${id}>${title}</h2>${note && html`<span class="note">${note}</span>`}<div class="tools">${tools}</div></header>
  ${children}
</section>`;

export function Table({ label, head, children, class: kind = "" }) {
  // Wide tables are scrolled on their own; the keyboard can reach what does so.
  return html`<div class="scroll" role="group" aria-label=${label} tabindex="0">
    <table class=${kind}>
      <thead><tr>${head.map((each) => (typeof each === "string" ? html`<th scope="col">${each}</th>` : html`<th scope="col" class=${each.class}>${each.title}</th>`))}</tr></thead>
      <tbody>${children}</tbody>
    </table>
  </div>`;
}

export function Dialog({ title, children, onClose, wide }) {
  const element = useRef();
  useEffect(() => {
    const dialog = element.current;
    const before = document.activeElement;
    dialog.showModal();
    return () => {
      dialog.close();
      if (before && document.contains(before)) before.focus();
    };
  }, []);
  return html`<dialog ref=${element} class=${wide ? "wide" : ""} aria-labelledby="dialog-title" onCancel=${(event) => {
    event.preventDefault();
    onClose();
  }} onClick=${(event) => event.target === element.current && onClose()}>
    <div class="inner"><h2 id="dialog-title">${cut(title, 200)}</h2>${children}</div>
  </dialog>`;
}

// A button that waits for what it does, and says what went wrong.
export function useAction(done = () => {}) {
  const [state, set] = useState({ busy: false, error: null });
  const run = async (action) => {
    set({ busy: true, error: null });
    try {
      const result = await action();
      set({ busy: false, error: null });
      done(result);
      return result;
    } catch (error) {
      set({ busy: false, error });
      return undefined;
    }
  };
  return { ...state, run };
}

let tell = () => {};
export const toast = (text, undo) => tell({ text, undo, id: Math.random() });

export function Toasts() {
  const [shown, set] = useState([]);
  const remove = (id) => set((all) => all.filter((one) => one.id !== id));
  useEffect(() => {
    tell = (one) => {
      set((all) => [...all.slice(-2), one]);
      setTimeout(() => remove(one.id), 10000);
    };
  }, []);
  return html`<div class="toasts" role="status" aria-live="polite">
    ${shown.map(
      (one) => html`<div class="toast" key=${one.id}>
        <span>${visible(one.text)}</span>
        ${one.undo && html`<button type="button" class="plain" onClick=${() => {
          remove(one.id);
          one.undo().catch((error) => toast(error.message));
        }}>Undo</button>`}
        <button type="button" class="plain" aria-label="Close" onClick=${() => remove(one.id)}>×</button>
      </div>`,
    )}
  </div>`;
}

export function Copy({ text, label }) {
  const [done, set] = useState(false);
  if (!navigator.clipboard) return null;
  return html`<button type="button" class="plain copy" onClick=${async () => {
    await navigator.clipboard.writeText(text);
    set(true);
    setTimeout(() => set(false), 1500);
  }}>${done ? "copied" : "copy"}<span class="visually-hidden"> ${label}</span></button>`;
}

const CHILDREN = 50;
const LONG = 400;

export function Tree({ value, name, depth = 0 }) {
  const [all, setAll] = useState(false);
  const label = name === undefined ? null : html`<span class="name"><bdi>${cut(name, 100)}</bdi>: </span>`;
  if (value === null || typeof value !== "object") {
    const text = typeof value === "string" ? value : JSON.stringify(value);
    const long = text !== undefined && text.length > LONG && !all;
    return html`<div class="leaf">${label}<span class=${value === null ? "null" : typeof value}><bdi>${typeof value === "string" ? "“" : ""}${visible(long ? `${text.slice(0, LONG)}…` : text)}${typeof value === "string" && !long ? "”" : ""}</bdi></span>
      ${long && html` <button type="button" class="plain" onClick=${() => setAll(true)}>show all ${bytes(text.length)}</button>`}</div>`;
  }
  const entries = Array.isArray(value) ? value.map((each, i) => [i, each]) : Object.entries(value);
  const kind = Array.isArray(value) ? `${count(entries.length)} ${entries.length === 1 ? "item" : "items"}` : `${count(entries.length)} ${entries.length === 1 ? "field" : "fields"}`;
  if (!entries.length) return html`<div class="leaf">${label}<span class="null">${Array.isArray(value) ? "empty list" : "empty"}</span></div>`;
  const shown = all ? entries : entries.slice(0, CHILDREN);
  const inner = () => html`<div class="branch">${shown.map(([key, each]) => html`<${Tree} key=${key} name=${key} value=${each} depth=${depth + 1} />`)}
    ${shown.length < entries.length && html`<button type="button" class="plain" onClick=${() => setAll(true)}>show ${count(entries.length - shown.length)} more</button>`}</div>`;
  if (name === undefined) return inner();
  return html`<${Branch} label=${label} kind=${kind} open=${depth < 2 && entries.length <= 20} inner=${inner} />`;
}

function Branch({ label, kind, open, inner }) {
  // What is closed is not made: a result may have a hundred thousand values.
  const [shown, set] = useState(open);
  return html`<details open=${open} onToggle=${(event) => set(event.target.open)}><summary>${label}<span class="muted">${kind}</span></summary>${shown && inner()}</details>`;
}

export const isOperator = (session) => session.scope === "operate";
export const maySubmit = (session) => session.scope !== "read";
