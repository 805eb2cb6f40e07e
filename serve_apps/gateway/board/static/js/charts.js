// Small charts as SVG.

import { h } from "preact";
import htm from "htm";
import { count, minute, rate } from "./format.js";

const html = htm.bind(h);

export function Spark({ values, label, tone = "accent" }) {
  const top = Math.max(...values, 1);
  const width = 100 / values.length;
  return html`<svg class="spark ${tone}" viewBox="0 0 100 24" preserveAspectRatio="none" role="img" aria-label=${label}>
    ${values.map((value, i) => {
      const height = value ? Math.max((value / top) * 23, 1.5) : 0.75;
      return html`<rect class=${value ? "" : "none"} x=${i * width} y=${24 - height} width=${width * 0.72} height=${height} />`;
    })}
  </svg>`;
}

function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 2.5, 5, 10].map((n) => n * power).find((n) => n >= value) ?? value;
}

export function Throughput({ points, since }) {
  const width = 720;
  const height = 132;
  const bottom = height - 18;
  const slots = 60;
  const top = niceTop(Math.max(...points.map((p) => p.completed + p.failed), 2));
  const step = width / slots;
  const x = (i) => (slots - points.length + i) * step;
  const y = (value) => (value / top) * (bottom - 12);
  // Dead letters are seen, however few they are among the others.
  const deadHeight = (value) => (value >= 1 ? Math.max(y(value), 3) : 0);
  const done = points.reduce((sum, p) => sum + p.completed, 0);
  const dead = points.reduce((sum, p) => sum + p.failed, 0);
  const label = `Tasks by minute over the last hour: ${count(done)} completed, ${count(dead)} became dead letters`;
  return html`<figure class="throughput">
    <svg viewBox="0 0 ${width} ${height}" role="img" aria-label=${label} preserveAspectRatio="none">
      ${[0.5, 1].map((part) => html`<line class="grid" x1="0" x2=${width} y1=${bottom - y(top * part)} y2=${bottom - y(top * part)} />`)}
      <line class="axis" x1="0" x2=${width} y1=${bottom} y2=${bottom} />
      ${points.map(
        (p, i) => html`<g>
          <title>${minute(p.at)}: ${count(Math.round(p.completed))} completed, ${count(Math.round(p.failed))} dead letters, ${count(Math.round(p.retried))} retries</title>
          <rect class="hit" x=${x(i)} y="0" width=${step} height=${bottom} />
          <rect class="done" x=${x(i) + 1} y=${bottom - y(p.completed)} width=${step - 2} height=${y(p.completed)} />
          <rect class="dead" x=${x(i) + 1} y=${bottom - y(p.completed) - deadHeight(p.failed)} width=${step - 2} height=${deadHeight(p.failed)} />
        </g>`,
      )}
    </svg>
    <div class="scale" aria-hidden="true"><span>${count(top)}</span><span>${count(top / 2)}</span></div>
    <div class="axis-labels" aria-hidden="true"><span>60 min ago</span><span>30</span><span>now</span></div>
    <figcaption>
      <span class="key done">${count(Math.round(done))} completed</span>
      <span class="key dead">${count(Math.round(dead))} dead letters</span>
      ${points.length < slots && html`<span class="muted">${points.length ? `known since ${minute(since)}, when this gateway started` : "the first minute is not over yet"}</span>`}
    </figcaption>
  </figure>`;
}

export const perSecond = (n) => (n == null ? "–" : `${rate(n)}/s`);
