// Lanes and organism: who claims, who runs, and the flows in Prefect.

import { link } from "./api.js";
import { perSecond } from "./charts.js";
import { ago, count, duration } from "./format.js";
import { LaneName, useOverview } from "./now.js";
import { capital, Empty, Heading, html, Loading, Said, Section, Table, Text, Time, Trouble } from "./ui.js";

const UUID = /^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$/;
const FLOWS = [
  ["dispatch", "starts the lanes, and keeps them going"],
  ["watchdog", "takes back tasks of lost lanes, prunes, alerts"],
  ["verify", "checks every part"],
  ["redrive", "queues dead letters again"],
  ["submit", "submits tasks and files"],
];

export function SystemPage() {
  const { data, error } = useOverview();
  const heading = html`<${Heading} title="Lanes and organism" />`;
  if (!data) return html`${heading}${error ? html`<${Trouble} error=${error} />` : html`<${Loading} />`}`;
  const { queue, organism, prefect_url: prefect } = data;
  return html`${heading}
    <${Trouble} error=${error} stale />
    ${!queue && html`<div class="notice bad" role="alert"><p><strong>${data.attention[0]?.what ?? "Postgres does not answer"}</strong></p><p class="next"><${Said}>${capital(data.attention[0]?.next_step)}<//></p></div>`}
    ${queue && html`<${Section} id="lanes" title="Lanes" note="claim tasks and settle them">
      ${queue.lanes.length === 0
        ? html`<${Empty} title="No lane runs">Start some: <code>organism schedule dispatch on</code><//>`
        : html`<${Table} label="Lanes" class="numbers" head=${["Lane", { title: "Run", class: "text" }, { title: "Host", class: "text" }, "Started", "Heartbeat", "Holds", { title: "Windows", class: "text" }, "Settled", "Per second"]}>
            ${queue.lanes.map((lane) => html`<tr key=${lane.id}>
              <th scope="row"><${LaneName} lane=${lane} /></th>
              <td class="text"><${Run} of=${lane.run} prefect=${prefect} /></td>
              <td class="text"><${Text} length=${40}>${lane.host}<//> <span class="muted">pid ${lane.pid}</span></td>
              <td><${Time} at=${lane.started_at} /></td>
              <td class=${lane.state === "silent" ? "bad" : ""}>${duration(lane.heartbeat_s * 1000)} ago</td>
              <td>${lane.held ? html`<a href=${link("tasks", { status: "running", lane: lane.id })}>${count(lane.held)}</a>` : html`<span class="zero">0</span>`}</td>
              <td class="text"><${Windows} of=${lane.windows} /></td>
              <td>${count(lane.settled)}</td>
              <td>${perSecond(lane.per_s)}</td>
            </tr>`)}
          <//>`}
    <//>`}
    <${Section} id="organism" title="Organism" note=${html`<span class="tag ${{ healthy: "good", degraded: "warn", unhealthy: "bad" }[organism.status] ?? ""}">${organism.status}</span>`}>
      ${organism.reason && html`<div class="notice ${organism.status === "degraded" ? "warn" : organism.status === "unknown" ? "" : "bad"}"><p><${Said}>${capital(organism.reason)}<//></p>${organism.next_step && html`<p class="next"><${Said}>${capital(organism.next_step)}<//></p>`}</div>`}
      ${organism.organs.length > 0 && html`<${Table} label="Organs" class="numbers" head=${["Organ", { title: "Handler", class: "text" }, { title: "Types", class: "text" }, "Replicas", "In flight", "Waiting", "Completed", "Failed"]}>
        ${organism.organs.map((organ) => html`<tr key=${organ.id}>
          <th scope="row"><${Text} length=${40}>${organ.id}<//></th>
          <td class="text handler"><${Text} length=${90}>${organ.handler}<//>${organ.versions.map((version) => html` <span class="tag"><${Text} length=${40}>${version}<//></span>`)}</td>
          <td class="text">${organ.task_types.slice(0, 6).map((type, i) => html`${i > 0 && ", "}<a href=${link("tasks", { type })}><${Text} length=${40}>${type}<//></a>`)}${organ.task_types.length > 6 && html` <span class="muted">and ${organ.task_types.length - 6} more</span>`}</td>
          <td>${count(organ.replicas)}</td><td>${count(organ.in_flight)}</td><td>${count(organ.waiting)}</td><td>${count(organ.completed)}</td><td>${count(organ.failed)}</td>
        </tr>`)}
      <//>
      <p class="muted more">Counts of the replicas that have answered within the last minute, since they started.</p>`}
    <//>
    <${Section} id="flows" title="Schedules and flows" note="in Prefect">
      ${prefect
        ? html`<ul class="rows">${FLOWS.map(([name, says]) => html`<li><span><a href=${`${prefect}/runs?flow-run-search=${name}`} rel="noreferrer" target="_blank">${name}<span class="visually-hidden"> in Prefect, in a new tab</span></a> <span class="muted">${says}</span></span></li>`)}
            <li><span><a href=${`${prefect}/deployments`} rel="noreferrer" target="_blank">deployments<span class="visually-hidden"> in Prefect, in a new tab</span></a> <span class="muted">schedules, parameters, runs of your own</span></span></li></ul>`
        : html`<${Empty} title="Prefect's pages are not known here">Set PREFECT_UI_URL where the gateway starts, or run it with <code>organism up</code>.<//>`}
    <//>
    <${Section} id="verification" title="Last verification">
      ${queue?.verification ? html`<p><span class="tag ${{ ok: "good", degraded: "warn", failed: "bad" }[queue.verification.status]}">${queue.verification.status}</span> ${ago(queue.verification.at)}: <${Text} length=${1000}>${queue.verification.line}<//> <${PrefectRun} of=${queue.verification.run} prefect=${prefect} text="Its run in Prefect" /></p>` : html`<${Empty} title="None is recorded"><code>organism verify</code> checks every part, and says what to do about each.<//>`}
    <//>
    <p class="footnote muted">A window is the number of tasks of a type that a lane may hold at once.</p>
    <p class="footnote muted">organism-flows ${data.version}</p>`;
}

const Run = ({ of, prefect }) =>
  of && html`<a href=${link("tasks", { run: of })}><code class="id"><${Text} length=${9}>${of.slice(0, 8)}<//></code><span class="visually-hidden">: the tasks that its lanes hold</span></a> <${PrefectRun} of=${of} prefect=${prefect} />`;

const PrefectRun = ({ of, prefect, text = "in Prefect" }) =>
  of && UUID.test(of) && prefect && html`<a href=${`${prefect}/runs/flow-run/${of}`} rel="noreferrer" target="_blank">${text}<span class="visually-hidden">, in a new tab</span></a>`;

const WINDOWS = 3;

function Windows({ of }) {
  const all = Object.entries(of);
  if (!all.length) return html`<span class="zero">–</span>`;
  return html`${all.slice(0, WINDOWS).map(([type, size], i) => html`${i > 0 && ", "}<${Text} length=${30}>${type}<//> ${count(size)}`)}${all.length > WINDOWS && html` <span class="muted">and ${all.length - WINDOWS} more</span>`}`;
}
