// A task: where it is and why, what happened to it, what it was given and returned.

import { useEffect, useState } from "preact/hooks";
import { follow, get, link, post, usePoll } from "./api.js";
import { ago, count, duration, firstLine, moment, visible } from "./format.js";
import { capital, Copy, Heading, html, isOperator, Loading, maySubmit, Said, Section, Status, statusWord, Text, Time, toast, Tree, Trouble, useAction } from "./ui.js";
import { WaitActions } from "./wait.js";

const FINISHED = ["completed", "failed", "cancelled"];
const CAUSES = {
  failed: "failed",
  permanent: "failed for good",
  timed_out: "timed out",
  interrupted: "interrupted",
  lease_lost: "its lane was lost",
  replica_lost: "its replica was lost",
  cancelled: "cancelled",
  redriven: "redriven",
  rejected: "rejected",
  snoozed: "put off by its handler",
};

export function TaskPage({ path, session }) {
  const id = path[1];
  const { data, error, again } = usePoll(
    async () => {
      const [task, why] = await Promise.all([get(`api/tasks/${encodeURIComponent(id)}`), get(`api/tasks/${encodeURIComponent(id)}/why`)]);
      return { task, why };
    },
    (seen) => (seen && FINISHED.includes(seen.task.status) ? 0 : 2000),
    [id],
  );
  if (!data)
    return html`<${Heading} title="Task" />${error ? html`<${Trouble} error=${error} /><p><a href="#/tasks">All tasks</a></p>` : html`<${Loading} />`}`;
  const { task, why } = data;
  return html`
    <p class="crumbs"><a href="#/tasks">Tasks</a> / <a href=${link("tasks", { type: task.type })}><${Text} length=${60}>${task.type}<//></a></p>
    <${Heading} title=${firstLine(task.type, 80)}><${Actions} task=${task} again=${again} session=${session} /><//>
    <p class="subtitle"><${Status} of=${task.status} /> <code>${task.id}</code> <${Copy} text=${task.id} label="id" /></p>
    <${Trouble} error=${error} stale />
    <section class="why ${task.status}" aria-label="Why it is where it is" aria-live="polite">
      <p><${Said}>${capital(sentence(why))}<//></p>
      ${why.next_step && html`<p class="next"><${Said}>${capital(why.next_step)}<//></p>`}
    </section>
    ${task.error && html`<${Section} id="error" title=${task.status === "failed" ? "Error" : "Error of the last attempt"} tools=${html`<${Copy} text=${task.error} label="error" />`}><${LongText} text=${task.error} kind="error" /><//>`}
    <div class="columns task">
      <div>
        <${Section} id="timeline" title="Timeline"><${Timeline} task=${task} /><//>
        <${Section} id="facts" title="Facts"><${Facts} task=${task} /><//>
      </div>
      <div>
        ${task.chunks > 0 && html`<${Stream} task=${task} />`}
        ${task.log && html`<${Section} id="log" title=${task.status === "completed" ? "Log" : "Log of the last attempt"} note="times in UTC" tools=${html`<${Copy} text=${task.log} label="log" />`}><${LongText} text=${task.log} kind="log" /><//>`}
        <${Section} id="params" title="Params" tools=${html`<${Copy} text=${JSON.stringify(task.params, null, 2)} label="params" />`}><div class="tree"><${Tree} value=${task.params} /></div><//>
        ${task.status === "completed" && html`<${Section} id="result" title="Result" tools=${html`<${Copy} text=${JSON.stringify(task.result, null, 2)} label="result" />`}><div class="tree"><${Tree} value=${task.result} /></div><//>`}
      </div>
    </div>`;
}

// The sentence names the task and its error, which this page shows already, and has moments in UTC.
function sentence(why) {
  const error = (why.error ?? "").split(/\s+/).filter(Boolean).join(" ");
  const shortened = error.length > 200 ? `${error.slice(0, 199)}…` : error;
  const text = why.sentence.replace(/^task [0-9a-f-]{36} /, "It ").replace(` because ${shortened}`, "");
  return firstLine(text.replace(/(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) UTC/g, (_, day, time) => moment(`${day}T${time}Z`).text), 1000);
}

// What its handler emits: texts one after the other, other values a line each.
function Stream({ task }) {
  const [text, set] = useState("");
  useEffect(() => {
    const close = follow(`api/tasks/${task.id}/stream`, {
      begin: () => set(""),
      chunk: ({ data }) => set((last) => last + (data[0] === '"' ? JSON.parse(data) : `${data}\n`)),
      end: () => close(),
      gone: () => close(),
    });
    return close;
  }, [task.id, task.claim]);
  return html`<${Section} id="stream" title="Stream" note=${FINISHED.includes(task.status) ? "" : "live"} tools=${html`<${Copy} text=${text} label="stream" />`}><${LongText} text=${text} kind="stream" end /><//>`;
}

const CHARACTERS_SHOWN = 4000;

function LongText({ text, kind, end }) {
  const [all, set] = useState(false);
  const long = text.length > CHARACTERS_SHOWN && !all;
  return html`<pre class=${kind} tabindex="0"><bdi>${visible(long ? (end ? text.slice(-CHARACTERS_SHOWN) : text.slice(0, CHARACTERS_SHOWN)) : text)}</bdi></pre>${long && html`<button type="button" class="plain" onClick=${() => set(true)}>Show all ${count(text.length)} characters</button>`}`;
}

function Actions({ task, again, session }) {
  const action = useAction(() => again());
  const answer = task.waits_for && maySubmit(session) && html`<${WaitActions} task=${task} again=${again} />`;
  if (!isOperator(session)) return answer || html`<span class="muted">Your token may only look</span>`;
  const steer = (verb) => post(`api/tasks/${task.id}/${verb}`, {});
  const cancel = () =>
    action.run(async () => {
      const done = await steer("cancel");
      const undo = done.outcome === "cancelled" && task.status !== "created" ? () => steer("retry").then(again) : undefined;
      toast(done.outcome === "requested" ? "Its handler is asked to stop" : "The task is cancelled", undo);
    });
  return html`
    ${action.error && html`<span class="bad" role="alert">${firstLine(action.error.message)}</span>`}
    ${answer}
    ${task.status === "created" && html`<button type="button" class="primary" disabled=${action.busy} onClick=${() => action.run(() => steer("run"))}>Run</button>`}
    ${["failed", "cancelled"].includes(task.status) && html`<button type="button" class="primary" disabled=${action.busy} onClick=${() => action.run(async () => { await steer("retry"); toast("The task is queued again"); })}>Retry</button>`}
    ${!FINISHED.includes(task.status) && html`<button type="button" disabled=${action.busy || task.cancel_requested} onClick=${cancel}>${task.cancel_requested ? "Stopping…" : "Cancel"}</button>`}`;
}

// How far an attempt got, and what ran it.
function reach({ handler_version: version, resumed_step: resumed, reached_step: reached, fraction }) {
  const parts = [];
  if (reached != null) parts.push(resumed == null ? `reached step ${count(reached)}` : reached === resumed ? `stayed at step ${count(reached)}` : `step ${count(resumed)} to ${count(reached)}`);
  if (fraction != null) parts.push(`${Math.floor(fraction * 100)} % done`);
  if (version) parts.push(`handler ${version}`);
  return parts.join(" · ");
}

function Timeline({ task }) {
  const events = [{ at: task.created_at, what: "Submitted" }];
  let last = null;
  for (const attempt of task.history) {
    const took = attempt.started_at ? Date.parse(attempt.ended_at) - Date.parse(attempt.started_at) : null;
    if (attempt.started_at) events.push({ at: attempt.started_at, what: html`Claimed${attempt.lane && html` by lane <${Text} length=${60}>${attempt.lane}<//>`}` });
    events.push({
      at: attempt.ended_at,
      tone: attempt.cause === "redriven" ? "" : ["interrupted", "lease_lost", "replica_lost", "cancelled", "snoozed"].includes(attempt.cause) ? "warn" : "bad",
      what: html`${attempt.cause === "redriven" ? "Redriven" : html`Attempt ${count(attempt.attempt)}: ${CAUSES[attempt.cause] ?? firstLine(attempt.cause, 40)}`}${took > 0 && html` <span class="muted">after ${duration(took)}</span>`}`,
      reach: reach(attempt),
      // Said once, if it is the same each time.
      error: attempt.error === last ? null : attempt.error,
    });
    last = attempt.error;
  }
  if (task.locked_at && (task.status === "running" || task.status === "completed"))
    events.push({ at: task.locked_at, what: html`Claimed${task.locked_by && html` by lane <${Text} length=${60}>${task.locked_by}<//>`}` });
  if (task.status === "running" && task.begun_at && task.begun_at >= task.locked_at) events.push({ at: task.begun_at, what: "Its handler began" });
  if (task.finished_at)
    events.push({
      at: task.finished_at,
      tone: { completed: "good", failed: "bad" }[task.status] ?? "warn",
      what: html`${capital(statusWord(task.status))}${task.status === "completed" && task.elapsed_ms != null && html` <span class="muted">handler took ${duration(task.elapsed_ms)}</span>`}`,
    });
  else if (["queued", "retry"].includes(task.status)) events.push({ at: task.run_after, tone: "next", what: task.attempts ? "Next attempt is due" : "Due" });
  else if (task.waits_for?.until) events.push({ at: task.waits_for.until, tone: "next", what: task.waits_for.or_fail ? "Fails without its event" : "Continues without its event" });
  if (task.expires_at && ["created", "queued", "waiting", "retry"].includes(task.status)) events.push({ at: task.expires_at, tone: "next", what: "Expires, if it has not begun" });
  events.sort((a, b) => (a.tone === "next") - (b.tone === "next") || Date.parse(a.at) - Date.parse(b.at));
  return html`<ol class="timeline">
    ${events.map((event) => html`<li class=${event.tone ?? ""}><${Time} at=${event.at} /><div>${event.what}${event.reach && html`<p class="muted"><${Text} length=${200}>${event.reach}<//></p>`}${event.error && html`<p class="error"><bdi>${firstLine(event.error)}</bdi></p>`}</div></li>`)}
  </ol>`;
}

function progressOf(progress) {
  if (!progress) return "";
  const parts = [progress.fraction != null && `${Math.floor(progress.fraction * 100)} %`, progress.note, progress.step > 0 && `step ${count(progress.step)}`, progress.resumed_step > 0 && `continued from step ${count(progress.resumed_step)}`];
  return parts.filter(Boolean).join(" · ");
}

function Facts({ task }) {
  const facts = [
    ["Description", task.description],
    ["Domain", task.domain && html`<a href=${link("tasks", { domain: task.domain })}><${Text} length=${80}>${task.domain}<//></a>`],
    ["Key", task.key && html`<a href=${link("tasks", { key: task.key })}><${Text} length=${80}>${task.key}<//></a>`],
    ["Priority", task.priority !== 0 && count(task.priority)],
    ["Attempts", `${count(task.attempts)} of ${count(task.max_attempts)}`],
    ["Waits for", task.waits_for?.event],
    ["Waits since", task.waits_for && html`<${Time} at=${task.waits_for.since} /> <span class="muted">${ago(task.waits_for.since)}</span>`],
    ["Dedup key", task.dedup_key],
    ["Timeout", task.timeout_s != null && duration(task.timeout_s * 1000)],
    ["Organ", task.organ_id && html`<a href=${link("tasks", { organ: task.organ_id })}><${Text} length=${80}>${task.organ_id}<//></a>`],
    ["Handler", task.handler_version],
    ["Path", task.path],
    ["Progress", progressOf(task.progress)],
    ["Lane", task.locked_by && html`<a href=${link("tasks", { lane: task.locked_by })}><${Text} length=${80}>${task.locked_by}<//></a>`],
    ["Handler took", task.elapsed_ms != null && duration(task.elapsed_ms)],
    ["Timed out", task.timed_out > 0 && `${count(task.timed_out)} times`],
    ["Interrupted", task.interrupted > 0 && `${count(task.interrupted)} times`],
    ["Leases lost", task.lease_lost > 0 && count(task.lease_lost)],
    ["Replicas that died with it", task.suspicion > 0 && count(task.suspicion)],
    ["Trace", /^00-[0-9a-f]{32}-/.test(task.traceparent ?? "") && html`<code>${task.traceparent.slice(3, 35)}</code> <${Copy} text=${task.traceparent.slice(3, 35)} label="trace id" />`],
    ["Drift score", task.drift_score !== 0 && String(task.drift_score)],
  ].filter(([, value]) => value);
  return html`<dl class="facts">${facts.map(([name, value]) => html`<dt>${name}</dt><dd>${typeof value === "string" ? html`<${Text} length=${300}>${value}<//>` : value}</dd>`)}</dl>`;
}
