// Types: what each is limited to, who serves it, how long it takes; pause and resume.

import { useState } from "preact/hooks";
import { get, link, post, usePoll } from "./api.js";
import { ago, atLeast, count, duration, visible } from "./format.js";
import { Limits } from "./limits.js";
import { Dialog, Empty, Heading, html, isOperator, Loading, Section, Table, Text, toast, Trouble, useAction } from "./ui.js";

const POLICY = [
  ["max_attempts", "Attempts", "5", 1],
  ["timeout_s", "Timeout, in seconds", "the organ's", "any"],
  ["backoff_base_s", "First backoff, in seconds", "the queue's", "any"],
  ["backoff_cap_s", "Longest backoff, in seconds", "the queue's", "any"],
  ["max_interruptions", "Interruptions allowed", "any number", 1],
  ["max_snoozes", "Times a handler may put a task off", "100", 1],
  ["cost", "Cost of a task, in units of limits", "1", "any"],
  ["key_path", "Where params have the key", "params.customer_id"],
  ["cost_path", "Where params have the cost", "params.max_tokens"],
  ["aging_s", "Waiting that counts as one more priority, in seconds", "none", "any"],
  ["affinity_s", "Tasks of one key together; others wait, in seconds", "not together", "any"],
  ["affinity_keys", "Keys at a time", "2", 1],
];
const SWITCHES = [
  ["earliest_deadline", "Of equals, claim first what expires first"],
  ["timeout_by_deadline", "Stop an attempt when its task expires"],
];

export function TypesPage({ session }) {
  const { data, error, again } = usePoll(() => get("api/types"), 10000);
  const pauses = usePoll(() => get("api/pauses"), 10000);
  const [dialog, setDialog] = useState(null);
  const changed = () => {
    again();
    pauses.again();
  };
  const close = () => setDialog(null);
  const resume = async (kind, name) => {
    try {
      await post("api/pauses/resume", { kind, name });
      toast(`The ${kind} ${name} is claimed again`);
    } catch (wrong) {
      toast(wrong.message);
    }
    changed();
  };
  const domains = pauses.data?.pauses.filter((pause) => pause.kind === "domain") ?? [];
  const operator = isOperator(session);
  return html`
    <${Heading} title="Types">${operator && html`<button type="button" onClick=${() => setDialog({ pause: { kind: "domain", name: "" } })}>Pause a domain…</button>`}<//>
    <${Trouble} error=${error} stale=${data} />
    ${!data && !error && html`<${Loading} />`}
    ${domains.length > 0 && html`<${Section} id="domains" title="Paused domains">
      <ul class="rows">${domains.map((pause) => html`<li><span><${Text}>${pause.name}<//> ${pause.reason && html`<span class="muted"><${Text} length=${300}>${pause.reason}<//></span>`} <span class="muted">${ago(pause.paused_at)}</span></span>${operator && html`<button type="button" onClick=${() => resume("domain", pause.name)}>Resume</button>`}</li>`)}</ul>
    <//>`}
    ${data && !data.types.length && html`<${Empty} title="No types yet">A type is known when a task has it, or an organ serves it.<//>`}
    ${data?.types.length > 0 && html`<div class="card"><${Table} label="Types" class="numbers types" head=${["Type", { title: "Served by", class: "text" }, "Ready", "Running", "Dead", "Median", "95 %", "Attempts", "Timeout", { title: html`<span class="visually-hidden">Actions</span>` }]}>
      ${data.types.map((type) => html`<tr key=${type.name}>
        <th scope="row"><a href=${link("tasks", { type: type.name })}><${Text} length=${60}>${type.name}<//></a>
          ${type.pause && html`<p class="pause"><span class="tag warn">paused</span> ${ago(type.pause.paused_at)}${type.pause.by && html` by <${Text} length=${60}>${type.pause.by}<//>`}${type.pause.reason && html`: <${Text} length=${200}>${type.pause.reason}<//>`}</p>`}</th>
        <td class="text">${type.organ ? html`<${Text} length=${40}>${type.organ}<//>${type.handler && html`<p class="muted handler"><${Text} length=${80}>${type.handler}<//>${type.version && html` <span class="tag"><${Text} length=${40}>${type.version}<//></span>`}</p>`}` : type.served === false ? html`<span class="tag bad">no organ</span>` : type.served ? html`<span class="muted">default organ</span>` : html`<span class="muted">not known</span>`}</td>
        <td>${type.load ? atLeast(type.load.ready, type.load.more) : 0}</td>
        <td>${count(type.load?.running ?? 0)}</td>
        <td>${type.load?.dead ? html`<a href=${link("failures", { type: type.name })}>${count(type.load.dead)}</a>` : html`<span class="zero">0</span>`}</td>
        <td>${duration(type.load?.latency?.total_ms[0])}</td><td>${duration(type.load?.latency?.total_ms[1])}</td>
        <td>${type.policy?.max_attempts ?? html`<span class="muted">5</span>`}</td>
        <td>${type.policy?.timeout_s != null ? duration(type.policy.timeout_s * 1000) : html`<span class="muted">organ's</span>`}</td>
        <td class="actions">${operator && html`${type.pause
          ? html`<button type="button" onClick=${() => resume("type", type.name)}>Resume<span class="visually-hidden"> ${visible(type.name)}</span></button>`
          : html`<button type="button" onClick=${() => setDialog({ pause: { kind: "type", name: type.name } })}>Pause…<span class="visually-hidden"> ${visible(type.name)}</span></button>`}
          <button type="button" onClick=${() => setDialog({ policy: type })}>Policy…<span class="visually-hidden"> ${visible(type.name)}</span></button>`}</td>
      </tr>`)}
    <//></div>
    <p class="footnote muted">Times are from submission to completion, of the newest tasks that completed within the last hour.</p>`}
    <${Limits} operator=${operator} />
    ${dialog?.pause && html`<${PauseDialog} of=${dialog.pause} onClose=${close} changed=${changed} undo=${resume} />`}
    ${dialog?.policy && html`<${PolicyDialog} type=${dialog.policy} onClose=${close} changed=${changed} />`}`;
}

function PauseDialog({ of, onClose, changed, undo }) {
  const [name, setName] = useState(of.name);
  const [reason, setReason] = useState("");
  const action = useAction(() => {
    toast(`The ${of.kind} ${name} is paused`, () => undo(of.kind, name));
    changed();
    onClose();
  });
  const submit = (event) => {
    event.preventDefault();
    action.run(() => post("api/pauses", { kind: of.kind, name, reason: reason.trim() || null }));
  };
  return html`<${Dialog} title=${of.name ? `Pause ${of.name}` : `Pause a ${of.kind}`} onClose=${onClose}><form onSubmit=${submit}>
    <${Trouble} error=${action.error} />
    <p class="muted">No task of this ${of.kind} is claimed until somebody resumes it. Tasks that run go on.</p>
    ${!of.name && html`<label class="field"><span>Domain</span><input value=${name} required maxlength="200" onInput=${(event) => setName(event.target.value)} /></label>`}
    <label class="field"><span>Reason</span><input value=${reason} maxlength="1000" placeholder="shown to whoever asks why tasks wait" onInput=${(event) => setReason(event.target.value)} /></label>
    <div class="buttons"><button type="button" onClick=${onClose}>Back</button><button type="submit" class="primary" disabled=${action.busy}>Pause</button></div>
  </form><//>`;
}

function PolicyDialog({ type, onClose, changed }) {
  const [values, set] = useState(Object.fromEntries(POLICY.map(([name]) => [name, type.policy?.[name] ?? ""])));
  const [switches, turn] = useState(Object.fromEntries(SWITCHES.map(([name]) => [name, type.policy?.[name] ?? false])));
  const action = useAction(() => {
    toast(`The policy of ${type.name} is set`);
    changed();
    onClose();
  });
  const submit = (event) => {
    event.preventDefault();
    const policy = Object.fromEntries(Object.entries(values).filter(([, value]) => value !== "").map(([name, value]) => [name, name.endsWith("_path") ? value : Number(value)]));
    action.run(() => post("api/types/policy", { type: type.name, ...policy, ...switches }));
  };
  return html`<${Dialog} title=${`Policy of ${type.name}`} onClose=${onClose}><form onSubmit=${submit}>
    <${Trouble} error=${action.error} />
    <p class="muted">Applies at once, also to waiting tasks that have no values of their own.</p>
    ${POLICY.map(([name, title, usual, step]) => html`<label class="field"><span>${title}</span><input type=${step ? "number" : "text"} min="0" step=${step} placeholder=${usual} value=${values[name]} onInput=${(event) => set({ ...values, [name]: event.target.value })} /></label>`)}
    ${SWITCHES.map(([name, title]) => html`<label class="field"><span>${title}</span><input type="checkbox" checked=${switches[name]} onChange=${(event) => turn({ ...switches, [name]: event.target.checked })} /></label>`)}
    <div class="buttons"><button type="button" onClick=${onClose}>Back</button><button type="submit" class="primary" disabled=${action.busy}>Set</button></div>
  </form><//>`;
}
