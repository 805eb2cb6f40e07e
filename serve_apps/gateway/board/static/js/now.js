// Now: is all well, and if not, what to do.

import { useState } from "preact/hooks";
import { get, link, usePoll } from "./api.js";
import { perSecond, Spark, Throughput } from "./charts.js";
import { ago, atLeast, count, duration, firstLine, plural } from "./format.js";
import { capital, Empty, Heading, html, Loading, Said, Section, Table, Text, Trouble } from "./ui.js";

export const useOverview = () => usePoll(() => get("api/overview"), (seen) => Math.max(3000, (seen?.refresh_s ?? 3) * 1000));

const LEVELS = { bad: "Problem", warn: "Warning", info: "Note" };

export function NowPage() {
  const { data, error } = useOverview();
  if (!data) return html`<${Heading} title="Now" />${error ? html`<${Trouble} error=${error} />` : html`<${Loading} />`}`;
  const { queue, throughput } = data;
  return html`
    <${Heading} title="Now"><span class="muted live">updated ${ago(data.at)}</span><//>
    <${Trouble} error=${error} stale />
    <${Verdict} attention=${data.attention} queue=${queue} />
    ${queue && html`<${Tiles} queue=${queue} throughput=${throughput} />
      <${Section} id="throughput" title="Last hour" note="tasks by minute"><${Throughput} points=${throughput.points} since=${throughput.since} /><//>
      <${Loads} queue=${queue} />
      <div class="columns">
        <${LanesCard} queue=${queue} />
        <${OrgansCard} organism=${data.organism} />
      </div>
      <${Verification} last=${queue.verification} />`}
  `;
}

function Verdict({ attention, queue }) {
  const serious = attention.filter((one) => one.level !== "info");
  const worst = serious.some((one) => one.level === "bad") ? "bad" : serious.length ? "warn" : "good";
  const idle = queue && !queue.types.length && !queue.lanes.length;
  const title = serious.length
    ? `${serious.length === 1 ? "One thing needs" : `${serious.length} things need`} attention`
    : "All is well";
  return html`<section class="verdict ${worst}" aria-labelledby="verdict" aria-live="polite">
    <h2 id="verdict">${title}</h2>
    ${!serious.length && html`<p class="muted">${idle ? "Nothing has been submitted yet." : "Nothing waits longer than it should, and nothing fails."}</p>`}
    ${attention.length > 0 && html`<ul>
      ${attention.map((one) => html`<li class=${one.level}>
        <span class="level">${LEVELS[one.level]}</span>
        <div><p class="what"><${Said}>${capital(firstLine(one.what, 400))}<//></p>${one.next_step && html`<p class="next"><${Said}>${capital(one.next_step)}<//></p>`}</div>
        ${one.link && html`<a class="button" href=${one.link}>Show<span class="visually-hidden">: ${firstLine(one.what, 80)}</span></a>`}
      </li>`)}
    </ul>`}
  </section>`;
}

function Tiles({ queue, throughput }) {
  const sum = (name) => queue.types.reduce((total, one) => total + one[name], 0);
  const more = queue.types.some((one) => one.more);
  const oldest = Math.max(...queue.types.map((one) => one.oldest_ready_s ?? -1));
  const total = queue.latency?.total_ms;
  const handler = queue.latency?.handler_ms;
  return html`<dl class="tiles">
    <${Tile} name="Ready" value=${atLeast(sum("ready"), more)} note=${oldest >= 0 ? `oldest waits ${duration(oldest * 1000)}` : "nothing waits"} href=${link("tasks", { status: ["queued", "retry"] })} />
    <${Tile} name="Running" value=${count(sum("running"))} note=${plural(queue.lanes.filter((lane) => lane.state === "live").length, "lane claims", "lanes claim")} href=${link("tasks", { status: "running" })} />
    <${Tile} name="Retrying" value=${atLeast(sum("retrying"), more)} note="wait for their next attempt" href=${link("tasks", { status: "retry" })} />
    <${Tile} name="Scheduled" value=${atLeast(sum("scheduled"), more)} note="not due yet" href=${link("tasks", { status: "queued" })} />
    ${sum("waiting") > 0 && html`<${Tile} name="Waiting" value=${atLeast(sum("waiting"), more)} note="for an event" href=${link("tasks", { status: "waiting" })} />`}
    <${Tile} name="Dead letters" tone=${queue.dead_last_hour ? "bad" : ""} value=${atLeast(queue.dead, queue.dead_more)} note=${queue.dead_last_hour ? `${count(queue.dead_last_hour)} in the last hour` : "none in the last hour"} href=${link("failures")} />
    <${Tile} name="Completed" value=${perSecond(throughput.completed_per_s)} note="in the last minute"
      spark=${throughput.points.length > 1 && html`<${Spark} values=${throughput.points.slice(-30).map((p) => p.completed)} label="Completed by minute" />`} />
    <${Tile} name="Submit to done" value=${total ? duration(total[0]) : "–"} note=${total ? `95 % within ${duration(total[1])}${handler ? `; handler ${duration(handler[0])}` : ""}` : "nothing completed in the last hour"} />
  </dl>`;
}

const Tile = ({ name, value, note, href, tone = "", spark }) => html`<div class="tile ${tone}">
  <dt>${href ? html`<a href=${href}>${name}</a>` : name}</dt>
  <dd><span class="value">${value}</span>${spark}<span class="note">${note}</span></dd>
</div>`;

function Loads({ queue }) {
  const [by, set] = useState("types");
  const filter = by === "types" ? "type" : "domain";
  const loads = [...queue[by]].sort((a, b) => b.ready + b.running + b.dead_last_hour - (a.ready + a.running + a.dead_last_hour) || a.name.localeCompare(b.name));
  const paused = new Map(queue.pauses.filter((pause) => pause.kind === filter).map((pause) => [pause.name, pause]));
  const tools = html`<div class="toggle" role="group" aria-label="Group by">
    ${["types", "domains"].map((each) => html`<button type="button" aria-pressed=${by === each} onClick=${() => set(each)}>${each === "types" ? "By type" : "By domain"}</button>`)}
  </div>`;
  const waits = loads.some((load) => load.waiting);
  const cell = (load, name, query) =>
    load[name] ? html`<a href=${link("tasks", { ...query, [filter]: load.name })}>${name === "running" ? count(load[name]) : atLeast(load[name], load.more && name !== "dead")}</a>` : html`<span class="zero">0</span>`;
  return html`<${Section} id="loads" title="Work" note=${by === "types" ? "by task type" : "by domain"} tools=${tools}>
    ${loads.length === 0
      ? html`<${Empty} title="No tasks yet">Submit the first one: <code>organism submit echo --params '{"n": 1}'</code><//>`
      : html`<${Table} label="Work" class="numbers" head=${[filter === "type" ? "Type" : "Domain", "Ready", "Running", "Retrying", "Scheduled", ...(waits ? ["Waiting"] : []), "Dead, last hour", "Oldest ready", ...(by === "types" ? ["Median", "95 %"] : [])]}>
          ${loads.map((load) => html`<tr>
            <th scope="row">${load.name || by === "types" ? html`<a href=${link("tasks", { [filter]: load.name })}><${Text} length=${60}>${load.name}<//></a>` : html`<span class="muted">no domain</span>`}
              ${paused.has(load.name) && html` <span class="tag warn">paused</span>`}</th>
            <td>${cell(load, "ready", { status: ["queued", "retry"] })}</td>
            <td>${cell(load, "running", { status: "running" })}</td>
            <td>${cell(load, "retrying", { status: "retry" })}</td>
            <td>${cell(load, "scheduled", { status: "queued" })}</td>
            ${waits && html`<td>${cell(load, "waiting", { status: "waiting" })}</td>`}
            <td class=${load.dead_last_hour ? "bad" : ""}>${load.dead_last_hour ? html`<a href=${link("failures", { [filter]: load.name })}>${count(load.dead_last_hour)}</a>` : html`<span class="zero">0</span>`}</td>
            <td>${load.oldest_ready_s == null ? html`<span class="zero">–</span>` : duration(load.oldest_ready_s * 1000)}</td>
            ${by === "types" && html`<td>${load.latency ? duration(load.latency.total_ms[0]) : html`<span class="zero">–</span>`}</td><td>${load.latency ? duration(load.latency.total_ms[1]) : html`<span class="zero">–</span>`}</td>`}
          </tr>`)}
        <//>`}
  <//>`;
}

function LanesCard({ queue }) {
  return html`<${Section} id="lanes" title="Lanes" tools=${html`<a href="#/system">All about lanes</a>`}>
    ${queue.lanes.length === 0
      ? html`<${Empty} title="No lane runs">Start one: <code>organism schedule dispatch on</code><//>`
      : html`<${Table} label="Lanes" class="numbers" head=${["Lane", "Heartbeat", "Holds", "Per second"]}>
          ${queue.lanes.slice(0, 8).map((lane) => html`<tr>
            <th scope="row"><${LaneName} lane=${lane} /></th>
            <td class=${lane.state === "silent" ? "bad" : ""}>${duration(lane.heartbeat_s * 1000)}</td>
            <td>${lane.held ? html`<a href=${link("tasks", { status: "running", lane: lane.id })}>${count(lane.held)}</a>` : html`<span class="zero">0</span>`}</td>
            <td>${lane.per_s == null ? "–" : perSecond(lane.per_s)}</td>
          </tr>`)}
        <//>
        ${queue.lanes.length > 8 && html`<p class="muted more">and ${count(queue.lanes.length - 8)} more</p>`}`}
  <//>`;
}

export const LaneName = ({ lane }) => html`<span class="dot ${lane.state}" aria-hidden="true"></span><${Text} length=${40}>${lane.id}<//>${lane.state !== "live" && html` <span class="tag ${lane.state === "silent" ? "bad" : "warn"}">${lane.state}</span>`}`;

function OrgansCard({ organism }) {
  return html`<${Section} id="organs" title="Organs" tools=${html`<a href="#/system">All about organs</a>`}>
    ${organism.organs.length === 0
      ? html`<${Empty} title=${organism.status === "unknown" ? "The gateway does not know where the organism is" : organism.status === "unhealthy" ? "The organism does not answer" : "No organ reports"}><${Said}>${organism.next_step ? capital(organism.next_step) : "Set ORGANISM_URL, or run `organism up`"}<//><//>`
      : html`<${Table} label="Organs" class="numbers" head=${["Organ", "Replicas", "In flight", "Waiting"]}>
          ${organism.organs.slice(0, 8).map((organ) => html`<tr><th scope="row"><${Text} length=${40}>${organ.id}<//></th><td>${count(organ.replicas)}</td><td>${count(organ.in_flight)}</td><td>${count(organ.waiting)}</td></tr>`)}
        <//>
        ${organism.organs.length > 8 && html`<p class="muted more">and ${count(organism.organs.length - 8)} more</p>`}`}
  <//>`;
}

const Verification = ({ last }) =>
  last
    ? html`<p class="footnote"><span class="dot ${last.status === "ok" ? "live" : last.status === "failed" ? "silent" : "leaving"}" aria-hidden="true"></span> Verified ${ago(last.at)}: <${Text} length=${300}>${last.line}<//></p>`
    : html`<p class="footnote muted">No verification is recorded. <code>organism verify</code> checks every part.</p>`;
