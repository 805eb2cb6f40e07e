// A task that waits for an event: send it, or make links by which a person does.

import { useState } from "preact/hooks";
import { post, Problem } from "./api.js";
import { Copy, Dialog, html, Text, Time, toast, Trouble, useAction } from "./ui.js";

const PERIODS = { 3600: "1 hour", 86400: "1 day", 604800: "7 days", 2592000: "30 days" };
const OUTCOMES = {
  resumed: "The event is sent, and the task continues",
  kept: "The event is kept until the task waits for it",
  duplicate: "The task has had this event: nothing changes",
};

export function WaitActions({ task, again }) {
  const [dialog, set] = useState(null);
  const { event } = task.waits_for;
  return html`
    <button type="button" class="primary" onClick=${() => set("event")}>Send event…</button>
    <button type="button" onClick=${() => set("links")}>Make links…</button>
    ${dialog === "event" && html`<${EventDialog} id=${task.id} event=${event} again=${again} onClose=${() => set(null)} />`}
    ${dialog === "links" && html`<${LinksDialog} id=${task.id} event=${event} onClose=${() => set(null)} />`}`;
}

const path = (id, kind, event) => `api/tasks/${id}/${kind}/${encodeURIComponent(event)}`;

function parsed(text) {
  if (!text.trim()) return null;
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Problem(0, { title: "The payload is not JSON", detail: error.message, next_step: 'Write text in quotes, such as "yes"' });
  }
}

function EventDialog({ id, event, again, onClose }) {
  const [payload, set] = useState("");
  const action = useAction((done) => {
    toast(OUTCOMES[done.outcome]);
    again();
    onClose();
  });
  const submit = (submitted) => {
    submitted.preventDefault();
    action.run(async () => post(path(id, "events", event), { payload: parsed(payload) }));
  };
  return html`<${Dialog} title=${`Send ${event}`} onClose=${onClose}><form onSubmit=${submit}>
    <${Trouble} error=${action.error} />
    <p class="muted">The task continues with the payload. The first event of this name counts; there is no undo.</p>
    <label class="field"><span>Payload (JSON)</span><textarea rows="4" spellcheck=${false} value=${payload} placeholder=${'{"choice": "approve"}'} onInput=${(typed) => set(typed.target.value)} /></label>
    <div class="buttons"><button type="button" onClick=${onClose}>Back</button><button type="submit" class="primary" disabled=${action.busy}>Send</button></div>
  </form><//>`;
}

function LinksDialog({ id, event, onClose }) {
  const [choices, setChoices] = useState("approve, reject");
  const [period, setPeriod] = useState("604800");
  const [made, setMade] = useState(null);
  const action = useAction(setMade);
  const submit = (submitted) => {
    submitted.preventDefault();
    const names = choices.split(",").map((name) => name.trim()).filter(Boolean);
    action.run(() => post(path(id, "links", event), { choices: names, expires_in_s: Number(period) }));
  };
  const back = html`<button type="button" onClick=${onClose}>${made ? "Close" : "Back"}</button>`;
  if (made)
    return html`<${Dialog} title=${`Links to answer ${event}`} onClose=${onClose}>
      <p class="muted">Whoever has a link can answer with it, without a token. The first answer counts. Valid until <${Time} at=${made.expires_at} />.</p>
      ${Object.entries(made.links).map(([choice, url]) => html`<div class="field"><label for=${`link-${choice}`}><${Text} length=${100}>${choice}<//></label><div class="link"><input id=${`link-${choice}`} readonly value=${url} onFocus=${(focused) => focused.target.select()} /><${Copy} text=${url} label=${choice} /></div></div>`)}
      <div class="buttons">${back}</div>
    <//>`;
  return html`<${Dialog} title=${`Links to answer ${event}`} onClose=${onClose}><form onSubmit=${submit}>
    <${Trouble} error=${action.error} />
    <p class="muted">Makes one link for each choice, to send to a person. It opens a page with one button, which sends the event.</p>
    <label class="field"><span>Choices</span><input value=${choices} required onInput=${(typed) => setChoices(typed.target.value)} /></label>
    <label class="field"><span>Valid for</span><select value=${period} onChange=${(chosen) => setPeriod(chosen.target.value)}>${Object.entries(PERIODS).map(([value, name]) => html`<option value=${value}>${name}</option>`)}</select></label>
    <div class="buttons">${back}<button type="submit" class="primary" disabled=${action.busy}>Make links</button></div>
  </form><//>`;
}
