// Requests to the gateway's public API, and state that pages share.

import { answered, base, early, forgetEarly } from "./early.js";
import { heardAt } from "./format.js";
import { useLayoutEffect, useRef, useState } from "preact/hooks";

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || "The gateway refuses this");
    this.status = status;
    this.title = body.title;
    this.next = body.next_step;
  }
}

let signedOut = () => {};

export const onSignedOut = (action) => {
  signedOut = action;
};

async function request(method, path, body) {
  let sent;
  try {
    const options = {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    };
    sent = await ((method === "GET" && early(path)) || answered(base + path, options));
  } catch {
    throw new Problem(0, {
      title: "The gateway does not answer",
      detail: "The gateway does not answer",
      next_step: "See `organism status` on its machine. This page tries again by itself.",
    });
  }
  const { answer, json } = sent;
  if (answer.status === 401) forgetEarly();
  heardAt(answer.headers.get("date"));
  if (answer.ok) return json;
  const problem = new Problem(answer.status, json);
  if (answer.status === 401 && path !== "api/session") signedOut();
  throw problem;
}

export const get = (path, query = {}) => {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query))
    for (const each of Array.isArray(value) ? value : [value])
      if (each !== undefined && each !== null && each !== "") given.append(name, each);
  const text = given.toString();
  return request("GET", text ? `${path}?${text}` : path);
};

// Server-sent events: `on` has what to do with each kind. The browser connects again by itself.
export function follow(path, on) {
  const source = new EventSource(base + path);
  for (const [kind, act] of Object.entries(on)) source.addEventListener(kind, act);
  return () => source.close();
}

export const post = (path, body) => request("POST", path, body);

// Ask again and again while the page is seen. What was heard last stays when an answer fails.
export function usePoll(ask, pause, inputs = []) {
  const [state, set] = useState({ data: null, error: null, loading: true });
  const again = useRef(() => {});
  // Before the next paint: `useEffect` waits for it, which takes a new page up to 0.1 s.
  useLayoutEffect(() => {
    let timer;
    let over = false;
    let asking = false;
    const look = async () => {
      if (asking) return;
      clearTimeout(timer);
      asking = true;
      let data;
      try {
        data = await ask();
        if (!over) set({ data, error: null, loading: false });
      } catch (error) {
        if (!over) set((last) => ({ data: last.data, error, loading: false }));
      }
      asking = false;
      const wait = typeof pause === "function" ? pause(data) : pause;
      if (!over && wait) timer = setTimeout(() => document.hidden || look(), wait);
    };
    const seen = () => document.hidden || look();
    set((last) => ({ ...last, loading: true }));
    again.current = look;
    look();
    if (pause) document.addEventListener("visibilitychange", seen);
    return () => {
      over = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, inputs);
  return { ...state, again: () => again.current() };
}

// The place is the part of the address after #: the gateway may be mounted anywhere, and no path of the board
// can be taken for one of the API.
export function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { path: path.split("/").map(decodeSafely), query: new URLSearchParams(query) };
}

function decodeSafely(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function link(path, query = {}) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query))
    for (const each of Array.isArray(value) ? value : [value])
      if (each !== undefined && each !== null && each !== "") given.append(name, each);
  const text = given.toString();
  return `#/${path}${text ? `?${text}` : ""}`;
}

export const go = (path, query) => {
  location.hash = link(path, query).slice(1);
};

export const replace = (path, query) => {
  history.replaceState(null, "", link(path, query));
  dispatchEvent(new HashChangeEvent("hashchange"));
};

export function remembered(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(`organism.${name}`)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`organism.${name}`, JSON.stringify(value));
  } catch {
    // A browser that keeps nothing still shows everything.
  }
}
