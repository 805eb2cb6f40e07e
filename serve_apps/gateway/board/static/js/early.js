// What the first page asks for, asked before the rest of the board has loaded. That takes a new browser 0.15 s.

export const base = document.baseURI.split("#")[0].replace(/[^/]*$/, "");
const wanted = location.hash.startsWith("#sign-in=") ? [] : ["api/session"];
if (wanted.length && ["", "#", "#/"].includes(location.hash)) wanted.push("api/overview");

// An answer with what it holds, read to its end: whoever waits for it then goes on before the next paint.
export async function answered(url, options) {
  const answer = await fetch(url, { credentials: "same-origin", ...options });
  return { answer, json: await answer.json().catch(() => ({})) };
}

const asked = new Map(wanted.map((path) => [path, answered(base + path)]));
// Whoever takes an answer hears why there is none.
for (const answer of asked.values()) answer.catch(() => {});

// The answer to a request that is under way already, for the first who asks.
export function early(path) {
  const answer = asked.get(path);
  asked.delete(path);
  return answer;
}

// What was asked for without having signed in is of no use afterwards.
export const forgetEarly = () => asked.clear();
