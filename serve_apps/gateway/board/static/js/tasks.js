// Tasks: a list by filters that live in the address.

import { useEffect, useState } from "preact/hooks";
import { get, go, link, post, remember, remembered, usePoll } from "./api.js";
import { count, duration, firstLine, plural } from "./format.js";
import { Dialog, Empty, Heading, html, isOperator, Loading, Status, STATUSES, statusWord, Table, Text, Time, toast, Trouble, useAction } from "./ui.js";

const FIELDS = ["type", "domain", "key", "error", "dedup_key", "organ", "lane", "run"];
const LABELS = { type: "Type", domain: "Domain", key: "Key", dedup_key: "Dedup key", error: "Text in error", organ: "Organ", lane: "Lane", run: "Run" };
const AGES = { "": "Any time", 900: "Last 15 minutes", 3600: "Last hour", 86400: "Last day", 604800: "Last week" };
const COLUMNS = {
  id: "Id",
  type: "Type",
  status: "Status",
  domain: "Domain",
  attempts: "Attempts",
  created_at: "Created",
  finished_at: "Finished",
  took: "Took",
  error: "Error",
};
const SHOWN = ["type", "status", "id", "domain", "created_at", "took", "error"];
const UNFINISHED = ["created", "queued", "waiting", "running", "retry"];
const ENDED = ["failed", "cancelled"];
const LIMIT = 50;

export function filterOf(query) {
  const filter = { status: query.getAll("status").filter((status) => STATUSES.includes(status)) };
  for (const name of FIELDS) if (query.get(name)) filter[name] = query.get(name);
  if (query.get("since")) filter.since = query.get("since");
  if (query.get("before")) filter.before = query.get("before");
  return filter;
}

// What the API takes. `since` in the address is an age in seconds, or a moment.
function conditions(filter) {
  const { since, before, ...others } = filter;
  const age = /^\d+$/.test(since ?? "") ? new Date(Date.now() - since * 1000).toISOString() : since;
  return { ...others, created_since: age, created_until: before };
}

export function TasksPage({ query, session }) {
  const filter = filterOf(query);
  const cursor = query.get("cursor") ?? undefined;
  const key = query.toString();
  const { data, error, loading, again } = usePoll(() => get("api/tasks", { ...conditions(filter), limit: LIMIT, cursor }), cursor ? 0 : 5000, [key]);
  const [columns, setColumns] = useState(remembered("columns", SHOWN));
  const [dialog, setDialog] = useState(null);
  const change = (changed) => go("tasks", { ...filter, ...changed });
  const given = Object.entries(filter).some(([, value]) => (Array.isArray(value) ? value.length : value));
  const tooBroad = error && (error.status === 503 || error.status === 504) && given;
  return html`
    <${Heading} title="Tasks">
      ${isOperator(session) && html`<button type="button" onClick=${() => setDialog("cancel")} disabled=${!given}>Cancel these…</button>
      <button type="button" onClick=${() => setDialog("retry")} disabled=${!given}>Retry these…</button>`}
      <button type="button" onClick=${() => setDialog("columns")}>Columns</button>
    <//>
    <${Filters} key=${key.replace(/&?cursor=[^&]*/, "")} filter=${filter} change=${change} given=${given} />
    ${tooBroad
      ? html`<div class="notice warn" role="alert"><p><strong>This is too broad.</strong> The database did not find a page of tasks in time.</p><p class="next">Choose a status and a type, or a later time.</p></div>`
      : html`<${Trouble} error=${error} stale=${data} />`}
    ${!data && !error && html`<${Loading} />`}
    ${data && !tooBroad && html`<${List} data=${data} columns=${columns} filter=${filter} given=${given} loading=${loading} cursor=${cursor} />`}
    ${dialog === "columns" && html`<${Columns} columns=${columns} set=${(chosen) => { setColumns(chosen); remember("columns", chosen); }} onClose=${() => setDialog(null)} />`}
    ${dialog in BULK && html`<${BulkDialog} key=${dialog} action=${dialog} filter=${filter} again=${again} onClose=${() => { setDialog(null); again(); }} />`}
  `;
}

function Filters({ filter, change, given }) {
  const [text, set] = useState(Object.fromEntries(FIELDS.map((name) => [name, filter[name] ?? ""])));
  const [more, setMore] = useState(Boolean(filter.key || filter.dedup_key || filter.organ || filter.lane || filter.run));
  const apply = (event) => {
    event.preventDefault();
    change(text);
  };
  const toggle = (status) => change({ ...text, status: filter.status.includes(status) ? filter.status.filter((one) => one !== status) : [...filter.status, status] });
  const field = (name, first) => html`<label class="field"><span>${LABELS[name]}</span>
    <input value=${text[name]} onInput=${(event) => set({ ...text, [name]: event.target.value })} onChange=${apply} maxlength=${name === "error" ? 500 : 200} data-first-filter=${first || null} spellcheck=${false} /></label>`;
  return html`<form class="filters" role="search" aria-label="Filter tasks" onSubmit=${apply}>
    <div class="chips" role="group" aria-label="Status">
      ${STATUSES.map((status) => html`<button type="button" class="chip ${status}" aria-pressed=${filter.status.includes(status)} onClick=${() => toggle(status)}>${statusWord(status)}</button>`)}
    </div>
    <div class="fields">
      ${field("type", true)}${field("domain")}${field("error")}
      <label class="field"><span>Created</span><select value=${filter.since ?? ""} onChange=${(event) => change({ ...text, since: event.target.value, before: undefined })}>
        ${Object.entries(AGES).sort((a, b) => a[0] - b[0]).map(([value, name]) => html`<option value=${value}>${name}</option>`)}
        ${filter.since && !(filter.since in AGES) && html`<option value=${filter.since}>since ${firstLine(filter.since, 30)}</option>`}
      </select></label>
      ${more && html`${field("key")}${field("dedup_key")}${field("organ")}${field("lane")}${field("run")}`}
      <div class="buttons"><button type="submit" class="visually-hidden">Find</button>
      ${!more && html`<button type="button" class="plain" onClick=${() => setMore(true)}>More filters</button>`}
      ${given && html`<a href="#/tasks">Clear</a>`}</div>
    </div>
  </form>`;
}

function List({ data, columns, filter, given, loading, cursor }) {
  if (!data.tasks.length)
    return given
      ? html`<${Empty} title="No task fits">Take one of the conditions away, or <a href="#/tasks">clear them all</a>.<//>`
      : html`<${Empty} title="No tasks yet">Submit the first one: <code>organism submit echo --params '{"n": 1}'</code><//>`;
  const shown = Object.keys(COLUMNS).filter((name) => columns.includes(name));
  const order = [...SHOWN, ...shown.filter((name) => !SHOWN.includes(name))].filter((name) => shown.includes(name));
  const numbers = ["attempts", "took"];
  return html`<div class="card" aria-busy=${loading}>
    <${Table} label="Tasks" class="tasks" head=${order.map((name) => ({ title: COLUMNS[name], class: numbers.includes(name) ? "number" : "" }))}>
      ${data.tasks.map((task) => html`<tr key=${task.id}>${order.map((name, i) => (i === 0 ? html`<th scope="row"><a class="row" href=${link(`tasks/${task.id}`)}>${cellOf(task, name)}</a></th>` : html`<td class=${numbers.includes(name) ? "number" : `c-${name}`}>${cellOf(task, name)}</td>`))}</tr>`)}
    <//>
    <footer class="pages">
      <span class="muted">${cursor ? `${count(data.tasks.length)} tasks` : `The newest ${plural(data.tasks.length, "task", "tasks")}${data.next ? "; there are more" : ""}`}</span>
      ${cursor && html`<button type="button" onClick=${() => history.back()}>Newer</button>`}
      ${data.next && html`<a class="button" href=${link("tasks", { ...filter, cursor: data.next })}>Older</a>`}
    </footer>
  </div>`;
}

function cellOf(task, name) {
  switch (name) {
    case "id":
      return html`<code class="id">${task.id.slice(0, 8)}…${task.id.slice(-6)}</code>`;
    case "status":
      return html`<${Status} of=${task.status} />`;
    case "created_at":
    case "finished_at":
      return html`<${Time} at=${task[name]} />`;
    case "took":
      return task.finished_at ? duration(Math.max(0, Date.parse(task.finished_at) - Date.parse(task.created_at))) : html`<span class="zero">–</span>`;
    case "attempts":
      return count(task.attempts);
    case "error":
      return task.error ? html`<bdi class="error">${firstLine(task.error, 160)}</bdi>` : "";
    default:
      return task[name] ? html`<${Text} length=${60}>${task[name]}<//>` : html`<span class="zero">–</span>`;
  }
}

const Columns = ({ columns, set, onClose }) => html`<${Dialog} title="Columns" onClose=${onClose}>
  <fieldset class="checks"><legend class="visually-hidden">Columns</legend>
    ${Object.entries(COLUMNS).map(([name, title]) => html`<label><input type="checkbox" checked=${columns.includes(name)} disabled=${columns.length === 1 && columns.includes(name)} onChange=${(event) => set(event.target.checked ? [...columns, name] : columns.filter((one) => one !== name))} /> ${title}</label>`)}
  </fieldset>
  <div class="buttons"><button type="button" onClick=${onClose}>Close</button></div>
<//>`;

// What can be done to all tasks of a filter. `undo` returns what takes it back, where that can be.
const BULK = {
  cancel: {
    title: "Cancel these tasks",
    statuses: UNFINISHED,
    none: "Nothing to cancel: every task that fits has ended.",
    what: ["unfinished task fits", "unfinished tasks fit"],
    note: (matched) =>
      `Those that wait will never run. Those that run are asked to stop. ${undoable(matched) ? "Undo queues those that waited again, due at once and with fresh attempts." : matched.created ? "There is no undo, because some were only created." : "There is no undo for more than 1,000."}`,
    back: "Keep them",
    button: "Cancel",
    said: (done) => `${plural(done.cancelled, "task is", "tasks are")} cancelled${done.requested ? `, ${plural(done.requested, "is", "are")} asked to stop` : ""}`,
    undo: (done) => done.undo.length > 0 && (() => post("api/tasks/retry", { ids: done.undo, dry_run: false })),
  },
  retry: {
    title: "Retry these tasks",
    statuses: ENDED,
    none: "Nothing to retry: no task that fits has failed or was cancelled.",
    what: ["task fits that failed or was cancelled", "tasks fit that failed or were cancelled"],
    note: () => "They are due at once, with fresh attempts, and continue from their checkpoints. Their history stays. There is no undo: what has run again has run.",
    back: "Leave them",
    button: "Retry",
    said: (done) => `${plural(done.retried, "task is", "tasks are")} queued again${done.kept_out ? `, ${plural(done.kept_out, "is", "are")} left out: an unfinished task has the same dedup key` : ""}`,
    undo: () => undefined,
  },
};

const undoable = (matched) => !matched.created && (matched.queued ?? 0) + (matched.retry ?? 0) <= 1000;

function BulkDialog({ action: name, filter, again, onClose }) {
  const bulk = BULK[name];
  const body = Object.fromEntries(Object.entries(conditions(filter)).filter(([, value]) => value !== undefined && value !== ""));
  const [found, setFound] = useState(null);
  const look = useAction(setFound);
  const action = useAction((done) => {
    const undo = bulk.undo(done);
    toast(`${bulk.said(done)}${done.complete ? "" : "; there are more"}`, undo && (() => undo().then(again)));
    onClose();
  });
  useEffect(() => {
    look.run(() => post(`api/tasks/${name}`, { ...body, dry_run: true }));
  }, []);
  const total = found && Object.values(found.matched).reduce((sum, n) => sum + n, 0);
  return html`<${Dialog} title=${bulk.title} onClose=${onClose}>
    <${Trouble} error=${look.error ?? action.error} />
    ${look.busy && html`<${Loading} />`}
    ${found && (total === 0
      ? html`<p>${bulk.none}</p>`
      : html`<p>${plural(total, ...bulk.what)}:</p>
        <ul class="plain-list">${bulk.statuses.filter((status) => found.matched[status]).map((status) => html`<li><${Status} of=${status} /> ${count(found.matched[status])}</li>`)}</ul>
        <p class="muted">${bulk.note(found.matched)}</p>`)}
    <div class="buttons"><button type="button" onClick=${onClose}>${bulk.back}</button>
      ${total > 0 && html`<button type="button" class=${name === "cancel" ? "danger" : "primary"} disabled=${action.busy} onClick=${() => action.run(() => post(`api/tasks/${name}`, { ...body, dry_run: false }))}>${bulk.button} ${plural(total, "task", "tasks")}</button>`}</div>
  <//>`;
}
