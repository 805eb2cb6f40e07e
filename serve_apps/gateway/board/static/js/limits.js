// Limits: what may run at once, begin or be spent within a period; set, remove, open again.

import { useState } from "preact/hooks";
import { get, post, usePoll } from "./api.js";
import { ago, count, duration, plural, visible } from "./format.js";
import { Dialog, Empty, html, Section, Table, Text, toast, Trouble, useAction } from "./ui.js";

const KINDS = { running: "at once", rate: "begin", cost: "units" };
const TITLES = { running: "Tasks that run at once", rate: "Tasks that begin in a period", cost: "Units that are spent in a period" };
const SHOWN_EXCEPTIONS = 10;
const perPeriod = (seconds) => (seconds == null ? "" : ` in ${duration(seconds * 1000)}`);

export function Limits({ operator }) {
  const { data, error, again } = usePoll(() => get("api/limits"), 10000);
  const [dialog, setDialog] = useState(null);
  if (!data) return html`<${Trouble} error=${error} />`;
  const close = () => setDialog(null);
  const open = async (one) => {
    try {
      await post("api/limits/open", { kind: one.kind, name: one.name, key: one.key });
      toast(`The ${one.kind} ${one.name} is open again`);
    } catch (wrong) {
      toast(wrong.message);
    }
    again();
  };
  const tools = operator && html`<button type="button" onClick=${() => setDialog({ set: null })}>Set a limit…</button>`;
  return html`<${Section} id="limits" title="Limits" note="on what runs at once, begins or is spent" tools=${tools}>
    <${Trouble} error=${error} stale />
    ${data.limits.length === 0
      ? html`<${Empty} title="Nothing is limited">Set a limit: <code>organism limits set NAME --running 5</code><//>`
      : html`<${Table} label="Limits" class="numbers" head=${["Limit", { title: "Types", class: "text" }, "Amount", { title: "Used most", class: "text" }, { title: html`<span class="visually-hidden">Actions</span>` }]}>
          ${data.limits.map((limit) => html`<tr key=${limit.name}>
            <th scope="row"><${Text} length=${60}>${limit.name}<//>${limit.declared && html` <span class="tag">from the organism's file</span>`}</th>
            <td class="text">${limit.types.length ? html`<${Text} length=${120}>${limit.types.join(", ")}<//>` : html`<span class="muted">every type</span>`}${limit.by_key && html` <span class="muted">by key</span>`}</td>
            <td>${limit.amount ? html`${count(limit.amount)} ${KINDS[limit.kind]}${perPeriod(limit.period_s)}` : html`<span class="tag warn">closed</span>`}</td>
            <td class="text"><${Use} of=${limit} /></td>
            <td class="actions">${operator && html`<button type="button" onClick=${() => setDialog({ set: limit })}>Change…<span class="visually-hidden"> ${visible(limit.name)}</span></button>
              <button type="button" onClick=${() => setDialog({ remove: limit })}>Remove…<span class="visually-hidden"> ${visible(limit.name)}</span></button>`}</td>
          </tr>`)}
        <//>`}
    ${data.closures.length > 0 && html`<h3>Closed</h3><ul class="rows">${data.closures.slice(0, 20).map((one) => html`<li><span>${one.kind === "limit" ? "Limit" : "Type"} <${Text} length=${60}>${one.name}<//>${one.key && html`, key <${Text} length=${60}>${one.key}<//>`} <span class="muted">opens ${ago(one.until)}${one.reason && html`: <${Text} length=${200}>${one.reason}<//>`}</span></span>${operator && html`<button type="button" onClick=${() => open(one)}>Open<span class="visually-hidden"> ${visible(one.name)} ${visible(one.key)}</span></button>`}</li>`)}</ul>`}
    ${dialog && "set" in dialog && html`<${SetDialog} before=${dialog.set} all=${data.limits} again=${again} onClose=${close} />`}
    ${dialog?.remove && html`<${RemoveDialog} limit=${dialog.remove} again=${again} onClose=${close} />`}
  <//>`;
}

// The three keys that use most of it. Of a rate, those with the least left.
function Use({ of }) {
  const keys = Object.entries(useOf(of)).slice(0, 3);
  if (!keys.length) return html`<span class="zero">–</span>`;
  return keys.map(([key, n], i) => html`${i > 0 && ", "}${key && html`<${Text} length=${40}>${key}<//> `}${count(n)}${of.kind === "rate" && " left"}`);
}

const useOf = (limit) => ({ running: limit.running, rate: limit.left, cost: limit.spent })[limit.kind];

// What the API takes of a limit that it returned.
function asRequest({ name, kind, types, by_key, amount, period_s, burst, exceptions }) {
  return { name, kind, types, by_key, amount, exceptions, ...(period_s != null && { period_s }), ...(burst != null && { burst }) };
}

async function takeBack(before, name, again) {
  try {
    await (before ? post("api/limits", asRequest(before)) : post("api/limits/remove", { name }));
  } catch (wrong) {
    toast(wrong.message);
  }
  again();
}

const inWords = (limit) =>
  `${limit.amount ? `${count(limit.amount)} ${KINDS[limit.kind]}${perPeriod(limit.period_s)}` : "none at all"}${limit.by_key ? " for each key" : ""}, of ${limit.types.length ? limit.types.join(", ") : "every type"}`;

// What a change does to tasks that run or wait, before it is made.
function effects(limit, before, all) {
  const old = before ?? all.find((one) => one.name === limit.name);
  const said = [old ? `Now: ${inWords(old)}.` : "There is no limit of this name yet.", `Then: ${inWords(limit)}.`];
  if (!limit.amount) said.push("None of its tasks is claimed any more. They wait.");
  if (old && limit.kind === "running" && old.kind === "running") {
    const over = Object.entries(old.running).filter(([key, n]) => n > (limit.exceptions[key] ?? limit.amount));
    if (over.length) said.push(`${plural(over.reduce((sum, [, n]) => sum + n, 0), "task runs", "tasks run")} above it. They go on, and none begins until there is room.`);
  }
  if (old?.declared) said.push("The organism's file declares it: the next deployment sets it again.");
  return said;
}

const split = (text) => text.split(",").map((one) => one.trim()).filter(Boolean);

function SetDialog({ before, all, again, onClose }) {
  const [values, set] = useState({
    name: before?.name ?? "",
    kind: before?.kind ?? "running",
    types: before?.types.join(", ") ?? "",
    by_key: before?.by_key ?? false,
    amount: before?.amount ?? "",
    period_s: before?.period_s ?? "",
    burst: before?.burst ?? "",
    exceptions: Object.entries(before?.exceptions ?? {}).map(([key, amount]) => `${key}=${amount}`).join("\n"),
  });
  const limit = {
    name: values.name.trim(),
    kind: values.kind,
    types: split(values.types),
    by_key: values.by_key,
    amount: Number(values.amount),
    exceptions: values.by_key ? exceptionsOf(values.exceptions) : {},
    ...(values.kind !== "running" && { period_s: Number(values.period_s) }),
    ...(values.kind === "rate" && values.burst !== "" && { burst: Number(values.burst) }),
  };
  const old = before ?? all.find((one) => one.name === limit.name);
  const action = useAction(() => {
    toast(`The limit ${limit.name} is set`, () => takeBack(old, limit.name, again));
    again();
    onClose();
  });
  const submit = (event) => {
    event.preventDefault();
    action.run(() => post("api/limits", limit));
  };
  const change = (name) => (event) => set({ ...values, [name]: event.target.type === "checkbox" ? event.target.checked : event.target.value });
  const complete = limit.name && values.amount !== "" && (values.kind === "running" || values.period_s !== "");
  return html`<${Dialog} title=${before ? `Change ${before.name}` : "Set a limit"} onClose=${onClose}><form onSubmit=${submit}>
    <${Trouble} error=${action.error} />
    ${!before && html`<label class="field"><span>Name</span><input value=${values.name} required maxlength="100" onInput=${change("name")} /></label>`}
    <label class="field"><span>What it counts</span><select value=${values.kind} onChange=${change("kind")}>${Object.entries(TITLES).map(([kind, title]) => html`<option value=${kind}>${title}</option>`)}</select></label>
    <label class="field"><span>Amount</span><input type="number" required min="0" step="1" value=${values.amount} placeholder="0 is closed" onInput=${change("amount")} /></label>
    ${values.kind !== "running" && html`<label class="field"><span>Period, in seconds</span><input type="number" required min="0" step="any" value=${values.period_s} onInput=${change("period_s")} /></label>`}
    ${values.kind === "rate" && html`<label class="field"><span>Most that begin at one moment</span><input type="number" min="1" step="1" value=${values.burst} placeholder="those of a tenth of a second" onInput=${change("burst")} /></label>`}
    <label class="field"><span>Types, between commas</span><input value=${values.types} placeholder="every type" onInput=${change("types")} /></label>
    <div class="checks"><label><input type="checkbox" checked=${values.by_key} onChange=${change("by_key")} /> For each key</label></div>
    ${values.by_key && html`<label class="field"><span>Other amounts of single keys, one a line</span><textarea rows="3" value=${values.exceptions} placeholder="acme=10" onInput=${change("exceptions")}></textarea></label>`}
    ${complete && html`<ul class="plain-list" aria-label="What changes">${effects(limit, before, all).map((line) => html`<li class="muted"><${Text} length=${300}>${line}<//></li>`)}</ul>`}
    <div class="buttons"><button type="button" onClick=${onClose}>Back</button><button type="submit" class="primary" disabled=${action.busy}>Set</button></div>
  </form><//>`;
}

// The last "=" of a line stands before the amount: keys may have some.
function exceptionsOf(text) {
  const lines = text.split("\n").filter((line) => line.trim());
  return Object.fromEntries(lines.map((line) => {
    const place = line.lastIndexOf("=");
    return place < 0 ? [line.trim(), null] : [line.slice(0, place).trim(), Number(line.slice(place + 1))];
  }));
}

function RemoveDialog({ limit, again, onClose }) {
  const action = useAction(() => {
    toast(`The limit ${limit.name} is removed`, () => takeBack(limit, limit.name, again));
    again();
    onClose();
  });
  const exceptions = Object.keys(limit.exceptions).length;
  return html`<${Dialog} title=${`Remove ${limit.name}`} onClose=${onClose}>
    <${Trouble} error=${action.error} />
    <ul class="plain-list" aria-label="What changes">
      <li>Now: <${Text} length=${300}>${inWords(limit)}<//>.</li>
      <li>Then its tasks are claimed as if it had never been, within a second or two.</li>
      ${exceptions > 0 && html`<li>${plural(exceptions, "amount of a single key goes", "amounts of single keys go")} with it${exceptions <= SHOWN_EXCEPTIONS && html`: <${Text} length=${300}>${Object.keys(limit.exceptions).join(", ")}<//>`}.</li>`}
      ${limit.declared && html`<li>The organism's file declares it: the next deployment sets it again.</li>`}
    </ul>
    <div class="buttons"><button type="button" onClick=${onClose}>Keep it</button><button type="button" class="danger" disabled=${action.busy} onClick=${() => action.run(() => post("api/limits/remove", { name: limit.name }))}>Remove</button></div>
  <//>`;
}
