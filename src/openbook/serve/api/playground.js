"use strict"; // All that a model says is put on the page as text nodes: what it writes can never become a part of the page.
const one = (id) => document.getElementById(id);
const panes = [];
let running = null; // the AbortController of the requests under way

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

const isChat = () => document.querySelector("[name=kind]:checked").value === "chat";
const active = () => panes.slice(0, one("compare").checked ? 2 : 1);
const path = () => (isChat() ? "v1/chat/completions" : "v1/completions");
const headers = () => (one("key").value ? { Authorization: `Bearer ${one("key").value}` } : {});

// Requests

function requestOf(pane) {
  const asked = { model: pane.field("model").value };
  if (isChat()) {
    const system = one("system").value ? [{ role: "system", content: one("system").value }] : [];
    const next = one("text").value || !pane.messages.length ? [{ role: "user", content: one("text").value }] : [];
    asked.messages = [...system, ...pane.messages, ...next];
  } else asked.prompt = one("text").value;
  for (const name of ["max_tokens", "temperature", "top_p", "seed"]) {
    const value = pane.field(name).valueAsNumber;
    if (!Number.isNaN(value)) asked[name] = value;
  }
  const stop = pane.field("stop").value.replaceAll("\\n", "\n").replaceAll("\\t", "\t");
  if (stop) asked.stop = [stop];
  if (one("shown").checked) Object.assign(asked, isChat() ? { logprobs: true, top_logprobs: 5 } : { logprobs: 5 });
  return asked;
}

async function fetched(where, options = {}) {
  const response = await fetch(where, { ...options, headers: { ...headers(), ...options.headers }, credentials: "omit", redirect: "error", cache: "no-store" });
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  throw new Error(`${response.status}: ${said.error?.message ?? response.statusText}`);
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("the connection ended before the answer did");
    const found = (rest + value).split(/\r?\n\r?\n/);
    rest = found.pop();
    for (const event of found) {
      const data = event.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim()).join("\n");
      if (data === "[DONE]") return;
      if (data) yield JSON.parse(data);
    }
  }
}

/** Text, tokens and end of a chunk of either kind: {text, tokens: [{token, logprob, top: [[token, logprob], …]}], reason}. */
function readChunk(choice) {
  const scores = choice.logprobs;
  if (choice.delta) {
    const tokens = (scores?.content ?? []).map((t) => ({ token: t.token, logprob: t.logprob, top: t.top_logprobs.map((o) => [o.token, o.logprob]) }));
    return { text: choice.delta.content ?? "", tokens, reason: choice.finish_reason };
  }
  const tokens = (scores?.tokens ?? []).map((token, i) => ({ token, logprob: scores.token_logprobs[i], top: Object.entries(scores.top_logprobs?.[i] ?? {}) }));
  return { text: choice.text ?? "", tokens, reason: choice.finish_reason };
}

async function ask(pane, asked, signal) {
  const began = performance.now();
  const facts = { tokens: 0, first: null, usage: null, reason: "stopped", text: "" };
  pane.out.setAttribute("aria-busy", "true");
  pane.tell("reading the prompt …");
  try {
    const body = JSON.stringify({ ...asked, stream: true, stream_options: { include_usage: true } });
    const response = await fetched(path(), { method: "POST", body, signal, headers: { "Content-Type": "application/json" } });
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      facts.usage = event.usage ?? facts.usage;
      if (!event.choices?.length) continue;
      const { text, tokens, reason } = readChunk(event.choices[0]);
      if (text && facts.first === null) facts.first = performance.now() - began;
      facts.tokens += tokens.length;
      facts.text += text;
      facts.reason = reason ?? facts.reason;
      pane.add(text, tokens);
      if (text) pane.tell(`${facts.tokens || "…"} tokens`);
    }
    pane.tell(told(facts, performance.now() - began));
  } catch (error) {
    if (error.name === "AbortError") pane.tell(told(facts, performance.now() - began));
    else pane.tell(error.message, true);
  } finally {
    pane.out.removeAttribute("aria-busy");
  }
  return facts.text;
}

function told({ usage, tokens, first, reason }, milliseconds) {
  const drawn = usage?.completion_tokens ?? tokens; // a stopped stream tells no usage
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  const seconds = (value) => `${(value / 1000).toFixed(2)} s`;
  const speed = first !== null && drawn > 1 && milliseconds > first ? `${((drawn - 1) / ((milliseconds - first) / 1000)).toFixed(0)} tokens/s` : "";
  const read = usage ? `${usage.prompt_tokens} tokens read${cached ? ` (${cached} cached)` : ""}` : "";
  return [read, drawn ? `${drawn} written` : "", first !== null ? `first after ${seconds(first)}` : "", seconds(milliseconds), speed, `end: ${reason}`].filter(Boolean).join(" · ");
}

async function send() {
  if (running) return;
  running = new AbortController();
  const chat = isChat();
  const text = one("text").value;
  one("send").disabled = true;
  one("stop").disabled = false;
  const answers = active().map(async (pane) => {
    const asked = requestOf(pane);
    pane.begin(chat, text);
    const { turn } = pane;
    const said = await ask(pane, asked, running.signal);
    if (chat && said && turn === pane.turn) pane.messages = [...asked.messages.filter((m) => m.role !== "system"), { role: "assistant", content: said }];
    return said;
  });
  if (chat) one("text").value = "";
  const said = await Promise.all(answers);
  if (chat && !said.some(Boolean) && !one("text").value) one("text").value = text; // nothing came of it: to be sent again
  running = null;
  one("send").disabled = false;
  one("stop").disabled = true;
  showCode();
}

// A pane: settings, an answer, its tokens

class Pane {
  constructor(name) {
    const root = one("pane").content.cloneNode(true).firstElementChild;
    Object.assign(this, { root, out: root.querySelector(".out"), detail: root.querySelector(".token"), messages: [], at: null, turn: 0 });
    root.setAttribute("aria-label", `Answer ${name}`);
    this.out.setAttribute("aria-label", `Text of answer ${name}`);
    this.out.addEventListener("pointerover", (event) => this.point(event.target));
    this.out.addEventListener("click", (event) => this.point(event.target));
    this.out.addEventListener("keydown", (event) => this.step(event));
    for (const button of root.querySelectorAll("[data-copy]")) button.onclick = () => copy(root.querySelector(`.${button.dataset.copy}`));
    one("panes").append(root);
  }
  field(name) { return this.root.querySelector(`[name=${name}]`); }
  tell(text, wrong = false) {
    const line = this.root.querySelector(".usage");
    line.textContent = text;
    line.classList.toggle("wrong", wrong);
  }
  clear() {
    this.messages = [];
    this.turn += 1; // an answer still under way is no part of the next conversation
    this.out.replaceChildren();
    this.tell("");
  }
  begin(chat, text) {
    if (!chat || !this.messages.length) this.out.replaceChildren();
    if (chat) this.out.append(element("span", "You", "who"), element("span", text, "said"), element("span", "Model", "who"));
    else this.out.append(element("span", text, "said"));
  }
  /** Appends a text whose tokens are known by their spelling; what no token spells goes to the one before it. */
  add(text, tokens) {
    const atEnd = this.out.scrollHeight - this.out.scrollTop - this.out.clientHeight < 40;
    let from = 0;
    let last = tokens.length ? null : element("span");
    for (const scores of tokens) {
      const found = scores.token ? text.indexOf(scores.token, from) : -1;
      const begin = found < 0 ? from : found;
      if (last) last.textContent += text.slice(from, begin);
      from = found < 0 ? from : found + scores.token.length;
      const p = Math.exp(scores.logprob ?? 0);
      last = element("span", found < 0 ? "" : scores.token, `t p${[0.9, 0.5, 0.2, 0.05].filter((bound) => p < bound).length}`);
      last.scores = scores;
      this.out.append(last);
    }
    last.textContent += text.slice(from);
    if (!tokens.length && text) this.out.append(last);
    if (atEnd) this.out.scrollTop = this.out.scrollHeight;
  }
  point(token) {
    if (!token.scores) return;
    this.at?.classList.remove("at");
    this.at = token;
    token.classList.add("at");
    const table = element("table");
    const { scores } = token;
    const others = scores.top.filter(([other]) => other !== scores.token);
    for (const [text, logprob] of [[scores.token, scores.logprob], ...others].sort((a, b) => b[1] - a[1])) {
      const row = element("tr", "", text === scores.token ? "it" : "");
      row.append(element("td", visible(text)), element("td", logprob === null ? "–" : `${(100 * Math.exp(logprob)).toFixed(2)} %`));
      table.append(row);
    }
    this.detail.replaceChildren(table);
  }
  step(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const tokens = [...this.out.querySelectorAll(".t")];
    if (!by || !tokens.length) return;
    event.preventDefault();
    const now = tokens.indexOf(this.at);
    const next = tokens[Math.min(tokens.length - 1, Math.max(0, now < 0 ? 0 : now + by))];
    this.point(next);
    next.scrollIntoView({ block: "nearest" });
  }
}

const escaped = (text) => text.replace(/[\0-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
const visible = (text) => escaped(text.replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥"));

// Code: what is invisible is escaped, so that pasting it does what it looks like

function showCode() {
  for (const pane of active()) {
    const asked = requestOf(pane);
    const base = new URL("v1", location.href).href;
    const quoted = escaped(JSON.stringify(asked)).replaceAll("'", "'\\''");
    const key = one("key").value ? ` \\\n  -H "Authorization: Bearer $OPENBOOK_API_KEY"` : "";
    pane.root.querySelector(".curl").textContent = `curl ${base.slice(0, -2)}${path()} \\\n  -H 'Content-Type: application/json'${key} \\\n  -d '${quoted}'`;
    const given = Object.entries(asked).map(([name, value]) => `    ${name}=${python(value)},`).join("\n");
    const secret = one("key").value ? 'os.environ["OPENBOOK_API_KEY"]' : '"none"';
    const call = isChat() ? "chat.completions" : "completions";
    const said = isChat() ? "message.content" : "text";
    pane.root.querySelector(".python").textContent = `${one("key").value ? "import os\n\n" : ""}from openai import OpenAI\n\nclient = OpenAI(base_url="${base}", api_key=${secret})\nanswer = client.${call}.create(\n${given}\n)\nprint(answer.choices[0].${said})`;
  }
}

function python(value) {
  if (Array.isArray(value)) return `[${value.map(python).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([name, inner]) => `${python(name)}: ${python(inner)}`).join(", ")}}`;
  return typeof value === "boolean" ? (value ? "True" : "False") : escaped(JSON.stringify(value));
}

function copy(from) {
  if (navigator.clipboard) navigator.clipboard.writeText(from.textContent);
  else getSelection().selectAllChildren(from); // a page over plain HTTP may not write the clipboard
}

// The page

async function loadModels() {
  try {
    const { data } = await (await fetched("v1/models")).json();
    panes.forEach((pane, index) => {
      const before = pane.field("model").value;
      pane.field("model").replaceChildren(...data.map(({ id }) => Object.assign(element("option", id), { value: id })));
      pane.field("model").value = data.some(({ id }) => id === before) ? before : data[Math.min(index, data.length - 1)]?.id ?? "";
    });
    one("note").textContent = "";
  } catch (error) {
    one("note").textContent = `the models cannot be listed: ${error.message}`;
  }
  showCode();
}

function arrange() {
  one("system-label").hidden = !isChat();
  one("text-label").textContent = isChat() ? "Message" : "Text to continue";
  panes[1].root.hidden = !one("compare").checked;
  one("key-to").hidden = !one("shown").checked;
  for (const pane of panes) pane.out.classList.toggle("shown", one("shown").checked);
  showCode();
}

panes.push(new Pane("A"), new Pane("B"));
one("send").onclick = send;
one("stop").onclick = () => running?.abort();
one("clear").onclick = () => { running?.abort(); panes.forEach((pane) => pane.clear()); one("text").focus(); };
one("key").onchange = loadModels;
document.addEventListener("input", showCode);
document.addEventListener("change", (event) => {
  if (event.target.name === "kind") { running?.abort(); panes.forEach((pane) => pane.clear()); }
  arrange();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); send(); }
  if (event.key === "Escape") running?.abort();
});
arrange();
loadModels();
