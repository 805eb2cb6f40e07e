import { useEffect, useRef, useState } from "preact/hooks";
import { post } from "./api.js";
import { html, Trouble, useAction } from "./ui.js";

export function SignIn({ onSignedIn, error }) {
  const [token, set] = useState("");
  const field = useRef();
  const action = useAction(onSignedIn);
  useEffect(() => {
    document.title = "Sign in · Organism";
    field.current.focus();
  }, []);
  const submit = (event) => {
    event.preventDefault();
    if (token.trim()) action.run(() => post("api/session", { token: token.trim() }));
  };
  return html`<main class="sign-in" id="main">
    <form class="card" onSubmit=${submit}>
      <img src="board/icon.svg" alt="" width="40" height="40" />
      <h1>Organism</h1>
      <p class="lead">Sign in with a token of this gateway.</p>
      <${Trouble} error=${action.error ?? error} />
      <input type="text" autocomplete="username" value="organism" hidden />
      <label for="token">Token</label>
      <input id="token" ref=${field} type="password" autocomplete="current-password" spellcheck=${false} value=${token} onInput=${(event) => set(event.target.value)} required />
      <button type="submit" class="primary" disabled=${action.busy}>Sign in</button>
      <p class="muted">On the machine of your stack, <code>organism ui</code> opens this page signed in. Otherwise the operator of the gateway has a token for you.</p>
    </form>
  </main>`;
}
