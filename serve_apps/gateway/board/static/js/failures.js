// Failures: dead letters by type and error, and the way back into the queue.

import { useEffect, useState } from "preact/hooks";
import { get, go, link, post, usePoll } from "./api.js";
import { Spark } from "./charts.js";
import { ago, atLeast, count, firstLine, plural, visible } from "./format.js";
import { Dialog, Empty, Heading, html, isOperator, Loading, Table, Text, Time, toast, Trouble, useAction } from "./ui.js";

const AGES = { "": "Any time", 3600: "Last hour", 86400: "Last day", 604800: "Last week" };

export function FailuresPage({ query, session }) {
  const filter = { type: query.get("type") ?? "", domain: query.get("domain") ?? "", since: query.get("since") ?? "" };
  // A whole minute, so that all who look share one read.
  const since = filter.since && new Date(Math.floor((Date.now() - filter.since * 1000) / 60000) * 60000).toISOString();
  const { data, error, again } = usePoll(() => get("api/failures", { type: filter.type, domain: filter.domain, since }), 10000, [query.toString()]);
  const [redrive, setRedrive] = useState(null);
  const given = filter.type || filter.domain || filter.since;
  const total = data?.groups.reduce((sum, group) => sum + group.tasks, 0);
  return html`
    <${Heading} title="Failures">${isOperator(session) && (filter.type || filter.domain) && total > 0 && html`<button type="button" onClick=${() => setRedrive({ type: filter.type || undefined, domain: filter.domain || undefined })}>Redrive all of these…</button>`}<//>
    <${Filters} key=${query.toString()} filter=${filter} given=${given} />
    <${Trouble} error=${error} stale=${data} />
    ${!data && !error && html`<${Loading} />`}
    ${data && !data.groups.length && (given ? html`<${Empty} title="No dead letter fits">Take one of the conditions away, or <a href="#/failures">clear them all</a>.<//>` : html`<${Empty} title="No dead letters">Every task that ended has completed, or was cancelled.<//>`)}
    ${data?.groups.length > 0 && html`<p class="summary">${atLeast(total, data.more)} dead letters in ${plural(data.groups.length, "group", "groups")}${data.more ? html` <span class="muted">of the newest ${count(data.read)}; older ones are not counted</span>` : ""}</p>
      <ul class="groups">${data.groups.map((group) => html`<${Group} key=${group.type + group.pattern} group=${group} list=${data} session=${session} filter=${filter} redrive=${() => setRedrive({ type: group.type, domain: filter.domain || undefined, error: group.pattern })} />`)}</ul>`}
    ${redrive && html`<${RedriveDialog} filter=${redrive} onClose=${() => { setRedrive(null); again(); }} />`}`;
}

function Filters({ filter, given }) {
  const [text, set] = useState({ type: filter.type, domain: filter.domain });
  const apply = (event) => {
    event.preventDefault();
    go("failures", { ...filter, ...text });
  };
  const field = (name, title) => html`<label class="field"><span>${title}</span><input value=${text[name]} maxlength="200" spellcheck=${false} onInput=${(event) => set({ ...text, [name]: event.target.value })} onChange=${apply} /></label>`;
  return html`<form class="filters" role="search" aria-label="Filter failures" onSubmit=${apply}><div class="fields">
    ${field("type", "Type")}${field("domain", "Domain")}
    <label class="field"><span>Failed</span><select value=${filter.since} onChange=${(event) => go("failures", { ...filter, ...text, since: event.target.value })}>${Object.entries(AGES).sort((a, b) => a[0] - b[0]).map(([value, name]) => html`<option value=${value}>${name}</option>`)}</select></label>
    <div class="buttons"><button type="submit" class="visually-hidden">Find</button>${given && html`<a href="#/failures">Clear</a>`}</div>
  </div></form>`;
}

function Group({ group, list, session, filter, redrive }) {
  return html`<li class="card group">
    <div class="head">
      <div class="what"><a class="type" href=${link("tasks", { status: "failed", type: group.type })}><${Text} length=${60}>${group.type}<//></a>
        <p class="error"><bdi>${visible(group.error) || "no error was recorded"}</bdi></p></div>
      <div class="trend"><${Spark} values=${group.trend} tone="bad" label=${`Trend since ${ago(list.since)}: ${group.trend.join(", ")}`} /></div>
      <div class="count"><strong>${count(group.tasks)}</strong><span class="muted">${group.tasks === 1 ? "task" : "tasks"}</span></div>
    </div>
    <div class="foot"><span>last <${Time} at=${group.last_at} relative /></span><span>first <${Time} at=${group.first_at} relative /></span>
      ${group.sample && html`<a href=${link(`tasks/${group.sample}`)}>Newest of them</a>`}
      <span class="space"></span>
      ${isOperator(session) && html`<button type="button" onClick=${redrive}>Redrive…<span class="visually-hidden"> ${firstLine(group.error, 60)}</span></button>`}</div>
  </li>`;
}

function RedriveDialog({ filter, onClose }) {
  const [found, setFound] = useState(null);
  const look = useAction(setFound);
  const action = useAction((done) => {
    toast(`${plural(done.redriven, "task is", "tasks are")} queued again${done.kept_out ? `; ${count(done.kept_out)} left out: an unfinished task has their dedup key` : ""}${done.complete ? "" : "; there are more"}`);
    onClose();
  });
  const body = Object.fromEntries(Object.entries(filter).filter(([, value]) => value));
  useEffect(() => {
    look.run(() => post("api/tasks/redrive", { ...body, dry_run: true }));
  }, []);
  return html`<${Dialog} title="Redrive dead letters" wide onClose=${onClose}>
    <${Trouble} error=${look.error ?? action.error} />
    ${look.busy && html`<${Loading} />`}
    <dl class="facts">${Object.entries(body).map(([name, value]) => html`<dt>${{ type: "Type", domain: "Domain", error: "Error like" }[name]}</dt><dd><code><bdi>${visible(value)}</bdi></code></dd>`)}</dl>
    ${found && (found.found === 0
      ? html`<p>No dead letter fits any more.</p>`
      : html`<p><strong>${plural(found.found, "dead letter", "dead letters")}</strong> will be queued again, with all attempts before ${found.found === 1 ? "it" : "them"}. The first to finish:</p>
        <${Table} label="Tasks to redrive" head=${["Task", "Finished", "Error"]}>${found.sample.slice(0, 5).map((task) => html`<tr><th scope="row"><code class="id">${task.id.slice(0, 8)}…${task.id.slice(-6)}</code></th><td><${Time} at=${task.finished_at} /></td><td class="error"><bdi class="error">${firstLine(task.error, 120)}</bdi></td></tr>`)}<//>`)}
    <div class="buttons"><button type="button" onClick=${onClose}>Leave them</button>
      ${found?.found > 0 && html`<button type="button" class="primary" disabled=${action.busy} onClick=${() => action.run(() => post("api/tasks/redrive", { ...body, dry_run: false }))}>Redrive ${plural(found.found, "task", "tasks")}</button>`}</div>
  <//>`;
}
