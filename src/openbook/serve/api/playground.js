"use strict"; // All that a model says is put on the page as text nodes: what it writes can never become a part of the page.
const one = (id) => document.getElementById(id);
const panes = [];
let cards = new Map(); // what the server says of each model
let running = null; // the AbortController of the requests under way

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

const NUMBERS = ["max_tokens", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "seed"];
const ABROAD = { chat: ["top_k", "min_p"], completion: ["top_k", "min_p", "response_format"] }; // what OpenAI's Python client does not know
const COUNTING = ["openbook", "vllm"]; // engines that tell the usage in each chunk, so that a stopped answer has one

const isChat = () => document.querySelector("[name=kind]:checked").value === "chat";
const active = () => panes.slice(0, one("compare").checked ? 2 : 1);
const path = () => (isChat() ? "v1/chat/completions" : "v1/completions");
const headers = () => (one("key").value ? { Authorization: `Bearer ${one("key").value}` } : {});

// Requests

/** Throws an Error that says which field is no JSON. */
function requestOf(pane) {
  const asked = { model: pane.field("model").value };
  const text = one("text").value;
  if (isChat()) {
    const system = one("system").value ? [{ role: "system", content: one("system").value }] : [];
    const call = pane.unanswered();
    const message = call ? { role: "tool", tool_call_id: call.id, content: text } : { role: "user", content: text };
    asked.messages = [...system, ...(text || !pane.sent.length ? [...pane.messages, message] : pane.sent)]; // without a text: the last one again
    const tools = jsonOf("tools");
    if (tools) {
      asked.tools = [tools].flat().map((tool) => (tool.type === "function" ? tool : { type: "function", function: tool }));
      asked.parallel_tool_calls = false; // one call at a time: the next message is its result
      if (one("required").checked && asked.messages.at(-1).role === "user") asked.tool_choice = "required";
    }
  } else {
    asked.prompt = text;
    if (!one("suffix-label").hidden && one("suffix").value) asked.suffix = one("suffix").value;
  }
  const schema = jsonOf("schema");
  if (schema) asked.response_format = { type: "json_schema", json_schema: { name: "answer", schema, strict: true } };
  for (const name of NUMBERS) {
    const value = pane.field(name).valueAsNumber;
    if (!Number.isNaN(value)) asked[name] = value;
  }
  const stop = pane.field("stop").value.split("\n").filter(Boolean);
  if (stop.length) asked.stop = stop.map((each) => each.replaceAll("\\n", "\n").replaceAll("\\t", "\t"));
  if (one("shown").checked) Object.assign(asked, isChat() ? { logprobs: true, top_logprobs: 5 } : { logprobs: 5 });
  return asked;
}

function jsonOf(id) {
  try {
    return one(id).value.trim() ? JSON.parse(one(id).value) : null;
  } catch (error) {
    throw new Error(`the ${id === "tools" ? "functions" : "schema"}: ${error.message}`);
  }
}

/** The requests of the panes; null if a field is no JSON, which is told. */
function prepared() {
  one("note").textContent = "";
  try {
    return active().map(requestOf);
  } catch (error) {
    one("note").textContent = error.message;
    return null;
  }
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

/** Text, tokens, calls and end of a chunk of either kind: {text, tokens: [{token, logprob, top: [[token, logprob], …]}], calls, reason}. */
function readChunk(choice) {
  const scores = choice.logprobs;
  if (choice.delta) {
    const tokens = (scores?.content ?? []).map((t) => ({ token: t.token, logprob: t.logprob, top: t.top_logprobs.map((o) => [o.token, o.logprob]) }));
    return { text: choice.delta.content ?? "", tokens, calls: choice.delta.tool_calls ?? [], reason: choice.finish_reason };
  }
  const tokens = (scores?.tokens ?? []).map((token, i) => ({ token, logprob: scores.token_logprobs[i], top: Object.entries(scores.top_logprobs?.[i] ?? {}) }));
  return { text: choice.text ?? "", tokens, calls: [], reason: choice.finish_reason };
}

/** Shows the answer as it comes, and returns it as a message of the conversation; null if nothing came. */
async function ask(pane, asked, signal) {
  const began = performance.now();
  const facts = { tokens: 0, first: null, usage: null, reason: "stopped", asked: asked.model, model: asked.model };
  const message = { role: "assistant", content: "" };
  pane.out.setAttribute("aria-busy", "true");
  pane.tell("reading the prompt …");
  try {
    const counting = COUNTING.includes(cards.get(asked.model)?.owned_by) ? { continuous_usage_stats: true } : {};
    const body = JSON.stringify({ ...asked, stream: true, stream_options: { include_usage: true, ...counting } });
    const response = await fetched(path(), { method: "POST", body, signal, headers: { "Content-Type": "application/json" } });
    for await (const event of events(response.body)) {
      if (event.error) throw new Error(event.error.message);
      facts.usage = event.usage ?? facts.usage;
      if (!event.choices?.length) continue;
      const { text, tokens, calls, reason } = readChunk(event.choices[0]);
      const shown = text + calls.map((call) => called(message, call)).join("");
      if (shown && facts.first === null) facts.first = performance.now() - began;
      facts.tokens += tokens.length || Boolean(shown);
      facts.model = event.model ?? facts.model;
      facts.reason = reason ?? facts.reason;
      message.content += text;
      pane.add(shown, tokens);
      if (shown) pane.tell(`${facts.usage?.completion_tokens ?? facts.tokens} tokens`);
    }
    pane.tell(told(facts, performance.now() - began));
  } catch (error) {
    if (error.name === "AbortError") pane.tell(told(facts, performance.now() - began));
    else pane.tell(error.message, true);
  } finally {
    pane.out.removeAttribute("aria-busy");
  }
  if (!["tool_calls", "stop"].includes(facts.reason)) delete message.tool_calls; // cut short, its arguments are no JSON
  return message.content || message.tool_calls ? message : null;
}

/** Takes a piece of a function's call into the message, and returns how it is shown. */
function called(message, { index, id, function: { name, arguments: piece } }) {
  message.tool_calls ??= [];
  message.tool_calls[index] ??= { id, type: "function", function: { name, arguments: "" } };
  message.tool_calls[index].function.arguments += piece ?? "";
  return (name ? `${message.content ? "\n" : ""}→ ${name} ` : "") + (piece ?? "");
}

function told({ usage, tokens, first, reason, asked, model }, milliseconds) {
  const drawn = usage?.completion_tokens ?? tokens; // of an engine that does not count as it goes: what has come, at least
  const cached = usage?.prompt_tokens_details?.cached_tokens;
  const seconds = (value) => `${(value / 1000).toFixed(2)} s`;
  const speed = first !== null && drawn > 1 && milliseconds > first ? `${((drawn - 1) / ((milliseconds - first) / 1000)).toFixed(0)} tokens/s` : "";
  const read = usage ? `${usage.prompt_tokens} tokens read${cached ? ` (${cached} cached)` : ""}` : "";
  return [model === asked ? "" : `from ${model}`, read, drawn ? `${drawn} written` : "", first !== null ? `first after ${seconds(first)}` : "", seconds(milliseconds), speed, `end: ${reason}`].filter(Boolean).join(" · ");
}

async function send() {
  const requests = running ? null : prepared();
  if (!requests) return;
  running = new AbortController();
  const chat = isChat();
  const text = one("text").value;
  one("send").disabled = true;
  one("stop").disabled = false;
  const answers = active().map(async (pane, index) => {
    const asked = requests[index];
    pane.begin(chat, text, asked.suffix ?? "");
    const { turn } = pane;
    const said = await ask(pane, asked, running.signal);
    if (chat && said && turn === pane.turn) {
      pane.sent = asked.messages.filter((m) => m.role !== "system");
      pane.messages = [...pane.sent, said];
    }
    return said;
  });
  if (chat) one("text").value = "";
  const said = await Promise.all(answers);
  if (chat && !said.some(Boolean) && !one("text").value) one("text").value = text; // nothing came of it: to be sent again
  running = null;
  one("send").disabled = false;
  one("stop").disabled = true;
  arrange();
}

// A pane: settings, an answer, its tokens

class Pane {
  constructor(name) {
    const root = one("pane").content.cloneNode(true).firstElementChild;
    const out = root.querySelector(".out");
    Object.assign(this, { root, out, answer: out, detail: root.querySelector(".token"), messages: [], sent: [], at: null, turn: 0 });
    this.hint = this.detail.textContent;
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
    this.messages = this.sent = [];
    this.turn += 1; // an answer still under way is no part of the next conversation
    this.out.replaceChildren();
    this.detail.textContent = this.hint;
    this.tell("");
  }
  /** The call whose result the next message is, if any. */
  unanswered() { return this.messages.at(-1)?.tool_calls?.[0]; }
  begin(chat, text, suffix) {
    if (!chat || !this.messages.length) this.out.replaceChildren();
    const call = this.unanswered();
    const who = !text && this.sent.length ? "Again" : call ? `Result of ${call.function.name}` : "You";
    const asked = chat ? [element("span", who, "who")] : [];
    this.answer = element("span");
    this.out.append(...asked, element("span", text, "said"), ...(chat ? [element("span", "Model", "who")] : []), this.answer, element("span", suffix, "said"));
  }
  /** Appends a text whose tokens are known by their spelling; what no token spells goes to the one before it. */
  add(text, tokens) {
    const atEnd = this.out.scrollHeight - this.out.scrollTop - this.out.clientHeight < 40;
    let from = 0;
    let last = element("span");
    this.answer.append(last);
    for (const scores of tokens) {
      const found = scores.token ? text.indexOf(scores.token, from) : -1;
      const begin = found < 0 ? from : found;
      last.textContent += text.slice(from, begin);
      from = found < 0 ? from : found + scores.token.length;
      const p = Math.exp(scores.logprob ?? 0);
      last = element("span", found < 0 ? "" : scores.token, `t p${[0.9, 0.5, 0.2, 0.05].filter((bound) => p < bound).length}`);
      last.scores = scores;
      this.answer.append(last);
    }
    last.textContent += text.slice(from);
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
  (prepared() ?? []).forEach((asked, index) => {
    const pane = active()[index];
    const base = new URL("v1", location.href).href;
    const quoted = escaped(JSON.stringify(asked)).replaceAll("'", "'\\''");
    const key = one("key").value ? ` \\\n  -H "Authorization: Bearer $OPENBOOK_API_KEY"` : "";
    pane.root.querySelector(".curl").textContent = `curl ${base.slice(0, -2)}${path()} \\\n  -H 'Content-Type: application/json'${key} \\\n  -d '${quoted}'`;
    const abroad = Object.entries(asked).filter(([name]) => ABROAD[isChat() ? "chat" : "completion"].includes(name));
    const known = Object.entries(asked).filter((entry) => !abroad.some(([name]) => name === entry[0]));
    if (abroad.length) known.push(["extra_body", Object.fromEntries(abroad)]);
    const given = known.map(([name, value]) => `    ${name}=${python(value, "    ")},`).join("\n");
    const secret = one("key").value ? 'os.environ["OPENBOOK_API_KEY"]' : '"none"';
    const call = isChat() ? "chat.completions" : "completions";
    const said = isChat() ? `message${asked.tools ? "" : ".content"}` : "text";
    pane.root.querySelector(".python").textContent = `${one("key").value ? "import os\n\n" : ""}from openai import OpenAI\n\nclient = OpenAI(base_url="${base}", api_key=${secret})\nanswer = client.${call}.create(\n${given}\n)\nprint(answer.choices[0].${said})`;
  });
}

function python(value, indent = "") {
  if (value === null) return "None";
  if (Array.isArray(value)) {
    const inner = value.map((each) => python(each));
    return indent && typeof value[0] === "object" ? `[\n${inner.map((each) => `${indent}    ${each},\n`).join("")}${indent}]` : `[${inner.join(", ")}]`;
  }
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
    cards = new Map(data.map((card) => [card.id, card]));
    panes.forEach((pane, index) => {
      const before = pane.field("model").value;
      pane.field("model").replaceChildren(...data.map(({ id }) => Object.assign(element("option", id), { value: id })));
      pane.field("model").value = data.some(({ id }) => id === before) ? before : data[Math.min(index, data.length - 1)]?.id ?? "";
    });
  } catch (error) {
    one("note").textContent = `the models cannot be listed: ${error.message}`;
    return;
  }
  arrange();
}

/** An alias whose models do not all say whether they can fill in does not say it either: then the answer will. */
const fillsIn = (card) => card?.fill_in ?? card?.owned_by === "openbook";

function arrange() {
  one("system-label").hidden = !isChat();
  const call = isChat() && active().map((pane) => pane.unanswered()).find(Boolean);
  one("text-label").textContent = call ? `Result of ${call.function.name}` : isChat() ? "Message" : "Text to continue";
  one("suffix-label").hidden = isChat() || !active().some((pane) => fillsIn(cards.get(pane.field("model").value)));
  one("tools-row").hidden = !isChat();
  const used = one("schema").value.trim() || (isChat() && one("tools").value.trim());
  one("structure").firstElementChild.textContent = `${isChat() ? "Functions and form" : "Form"} of the answer${used ? ": set" : ""}`;
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
document.addEventListener("input", arrange);
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
