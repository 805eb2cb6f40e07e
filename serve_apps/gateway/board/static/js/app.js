// The frame around the pages: who is signed in, which page is shown, keys.

import { render } from "preact";
import { useEffect, useLayoutEffect, useState } from "preact/hooks";
import { get, onSignedOut, place, post, Problem, remember, remembered } from "./api.js";
import { NowPage } from "./now.js";
import { SignIn } from "./sign-in.js";
import { Dialog, Heading, html, Loading, Toasts, Trouble } from "./ui.js";

// Pages that are loaded when they are first wanted, or once the first page is shown: to compile all of them takes
// longer than to show that one.
const lazy = [];
function later(load) {
  let page;
  const loaded = async () => {
    page ??= await load();
  };
  lazy.push(loaded);
  return (props) => {
    const [error, setError] = useState(null);
    const [shown, show] = useState(Boolean(page));
    useLayoutEffect(() => {
      if (page) return;
      const why = { title: "This page could not be loaded", detail: "This page could not be loaded", next_step: "Reload it." };
      loaded().then(() => show(true), () => setError(new Problem(0, why)));
    }, []);
    // A reader of the screen hears that it is there.
    useEffect(() => shown && void document.querySelector("main h1")?.focus({ preventScroll: true }), [shown]);
    if (error) return html`<${Trouble} error=${error} />`;
    return page ? html`<${page} ...${props} />` : html`<${Loading} />`;
  };
}

const AuditPage = later(async () => (await import("./audit.js")).AuditPage);
const FailuresPage = later(async () => (await import("./failures.js")).FailuresPage);
const SystemPage = later(async () => (await import("./system.js")).SystemPage);
const TaskPage = later(async () => (await import("./task.js")).TaskPage);
const TasksPage = later(async () => (await import("./tasks.js")).TasksPage);
const TypesPage = later(async () => (await import("./types.js")).TypesPage);
const PAGES = [
  { path: "", title: "Now", key: "n", page: NowPage },
  { path: "tasks", title: "Tasks", key: "t", page: TasksPage },
  { path: "failures", title: "Failures", key: "f", page: FailuresPage },
  { path: "types", title: "Types", key: "y", page: TypesPage },
  { path: "system", title: "Lanes and organism", key: "l", page: SystemPage },
  { path: "audit", title: "Audit", key: "a", page: AuditPage },
];
const THEMES = { auto: "Auto", light: "Light", dark: "Dark" };

function useTheme() {
  const [theme, set] = useState(remembered("theme", "auto"));
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    remember("theme", theme);
  }, [theme]);
  return [theme, set];
}

function App() {
  const [session, setSession] = useState(undefined);
  const [error, setError] = useState(null);
  const [here, setHere] = useState(place());
  const [keys, showKeys] = useState(false);
  const [theme, setTheme] = useTheme();

  useLayoutEffect(() => {
    const moved = () => setHere(place());
    addEventListener("hashchange", moved);
    onSignedOut(() => setSession(null));
    enter(setSession, setError);
    return () => removeEventListener("hashchange", moved);
  }, []);

  useEffect(() => {
    let waiting = false;
    const pressed = (event) => {
      const target = event.target;
      if (event.ctrlKey || event.metaKey || event.altKey || target.closest("input, select, textarea, dialog")) return;
      if (waiting) {
        waiting = false;
        const found = PAGES.find((one) => one.key === event.key);
        if (found) location.hash = `#/${found.path}`;
      } else if (event.key === "g") waiting = true;
      else if (event.key === "?") showKeys(true);
      else if (event.key === "/") {
        event.preventDefault();
        if (place().path[0] === "tasks") document.querySelector("[data-first-filter]")?.focus();
        else location.hash = "#/tasks";
      }
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);

  const first = here.path[0];
  useEffect(() => {
    // A reader of the screen hears that there is another page.
    scrollTo(0, 0);
    document.querySelector("main h1")?.focus({ preventScroll: true });
  }, [here.path.join("/")]);

  if (session === undefined) return error ? html`<main class="sign-in"><div class="card"><${Trouble} error=${error} /></div></main>` : html`<${Loading} />`;
  if (session === null) return html`<${SignIn} error=${error} onSignedIn=${(one) => { setError(null); setSession(one); }} />`;

  const current = PAGES.find((one) => one.path === first);
  const Page = first === "tasks" && here.path[1] ? TaskPage : current?.page;
  return html`
    <a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.querySelector("main h1")?.focus(); }}>Skip to content</a>
    <nav class="side" aria-label="Pages">
      <div class="head"><a class="brand" href="#/"><img src="board/icon.svg" alt="" width="24" height="24" />Organism</a>
      <ul>
        ${PAGES.map((one) => html`<li><a href=${`#/${one.path}`} aria-current=${one === current ? "page" : null}>${one.title}</a></li>`)}
      </ul></div>
      <div class="foot">
        <label class="theme"><span class="visually-hidden">Colours</span>
          <select value=${theme} onChange=${(event) => setTheme(event.target.value)}>
            ${Object.entries(THEMES).map(([name, title]) => html`<option value=${name}>${title}</option>`)}
          </select>
        </label>
        <button type="button" class="plain" onClick=${() => showKeys(true)}>Keys</button>
        <p class="who"><bdi>${session.name}</bdi>${session.scope !== "operate" && html`<span class="muted"> · ${session.scope === "read" ? "may look" : "may look and submit"}</span>`}</p>
        ${session.tokens && html`<button type="button" class="plain" onClick=${() => post("api/session/sign-out", {}).finally(() => setSession(null))}>Sign out</button>`}
      </div>
    </nav>
    <main id="main">
      ${Page ? html`<${Page} key=${first === "tasks" && here.path[1] ? `task ${here.path[1]}` : first} query=${here.query} path=${here.path} session=${session} />` : html`<${Heading} title="There is no such page" /><p><a href="#/">Now</a> is where everything begins.</p>`}
    </main>
    <${Toasts} />
    ${keys && html`<${Dialog} title="Keys" onClose=${() => showKeys(false)}>
      <dl class="keys">
        ${PAGES.map((one) => html`<dt><kbd>g</kbd> <kbd>${one.key}</kbd></dt><dd>${one.title}</dd>`)}
        <dt><kbd>/</kbd></dt><dd>Find tasks</dd>
        <dt><kbd>Esc</kbd></dt><dd>Close a dialog</dd>
        <dt><kbd>?</kbd></dt><dd>These keys</dd>
      </dl>
      <div class="buttons"><button type="button" onClick=${() => showKeys(false)}>Close</button></div>
    <//>`}`;
}

// `organism ui` opens the page with a code that signs in once.
async function enter(setSession, setError) {
  const code = /^#sign-in=([\w-]+)$/.exec(location.hash)?.[1];
  if (code) {
    history.replaceState(null, "", "#/");
    dispatchEvent(new HashChangeEvent("hashchange"));
  }
  try {
    setSession(code ? await post("api/session", { code }) : await get("api/session"));
  } catch (error) {
    if (error.status === 401) setSession(null);
    if (error.status !== 401 || code) setError(error);
  }
}

render(html`<${App} />`, document.getElementById("board"));
setTimeout(() => lazy.forEach((load) => load().catch(() => {})), 1000);
