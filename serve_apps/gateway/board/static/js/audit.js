// Audit: who did what, when, and to how many.

import { get, go, link, usePoll } from "./api.js";
import { cut, count } from "./format.js";
import { Empty, Heading, html, Loading, Table, Text, Time, Trouble } from "./ui.js";

const ACTIONS = ["", "cancel", "retry", "run", "redrive", "pause", "resume", "policy", "limit", "limit removed", "closed", "opened", "weight", "verify"];

export function AuditPage({ query }) {
  const action = query.get("action") ?? "";
  const cursor = query.get("cursor") ?? undefined;
  const { data, error } = usePoll(() => get("api/audit", { action, cursor }), cursor ? 0 : 10000, [query.toString()]);
  return html`
    <${Heading} title="Audit" />
    <form class="filters" role="search" aria-label="Filter the audit" onSubmit=${(event) => event.preventDefault()}><div class="fields">
      <label class="field"><span>Action</span><select value=${action} onChange=${(event) => go("audit", { action: event.target.value })}>${ACTIONS.map((name) => html`<option value=${name}>${name || "Any"}</option>`)}</select></label>
    </div></form>
    <${Trouble} error=${error} stale=${data} />
    ${!data && !error && html`<${Loading} />`}
    ${data && !data.entries.length && html`<${Empty} title=${action ? "No such action is recorded" : "Nothing is recorded yet"}>Redrives and verifications leave a line here, and whatever is cancelled, retried, paused or set over HTTP.<//>`}
    ${data?.entries.length > 0 && html`<div class="card"><${Table} label="Audit" head=${["When", "Who", "Action", { title: "Tasks", class: "number" }, "Which"]}>
      ${data.entries.map((entry) => html`<tr key=${entry.id}><td class="nowrap"><${Time} at=${entry.at} /></td><th scope="row"><${Text} length=${80}>${entry.actor}<//></th><td><span class="tag"><${Text} length=${30}>${entry.action}<//></span></td><td class="number">${entry.tasks ? count(entry.tasks) : html`<span class="zero">–</span>`}</td><td><${Which} details=${entry.details} /></td></tr>`)}
    <//>
    <footer class="pages"><span class="muted">${cursor ? "" : "The newest first"}</span>${cursor && html`<button type="button" onClick=${() => history.back()}>Newer</button>`}${data.next && html`<a class="button" href=${link("audit", { action, cursor: data.next })}>Older</a>`}</footer></div>`}`;
}

function Which({ details }) {
  if (!details || typeof details !== "object") return html`<${Text}>${details}<//>`;
  const { id, ...others } = details;
  const shown = Object.entries(others).filter(([, value]) => value !== null && value !== false && value !== "");
  return html`${id && html`<a href=${link(`tasks/${id}`)}><code class="id">${cut(id, 8)}</code></a> `}${shown.map(([name, value]) => html`<span class="pair"><span class="muted">${cut(name, 40)}</span> <bdi>${cut(Array.isArray(value) ? value.join(", ") : typeof value === "string" ? value : JSON.stringify(value), 160)}</bdi></span> `)}`;
}
