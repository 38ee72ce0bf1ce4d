// OpenAI's Node client with nothing told but an address: `node node.mjs URL MODEL`, where node_modules has openai.
import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const found = createRequire(`${process.cwd()}/`).resolve("openai");
const { default: OpenAI, toFile } = await import(pathToFileURL(found));
const [url, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "Hello" }];
const clock = { type: "function", function: { name: "clock", parameters: { type: "object", properties: {}, additionalProperties: false } } };
const verdict = { type: "object", properties: { answer: { enum: ["yes", "no"] } }, required: ["answer"], additionalProperties: false };

const text = await client.completions.create({ model, prompt: "def f(", suffix: ")", best_of: 3, max_tokens: 5, seed: 1 });
assert.equal(text.choices.length, 1);
const scored = await client.completions.create({ model, prompt: "naïve ✓", echo: true, logprobs: 1, max_tokens: 0 });
assert.equal(scored.choices[0].logprobs.token_logprobs[0], null);
let streamed = "";
for await (const chunk of await client.completions.create({ model, prompt: "def", max_tokens: 8, seed: 1, stream: true })) streamed += chunk.choices[0].text;
assert.equal(streamed, (await client.completions.create({ model, prompt: "def", max_tokens: 8, seed: 1 })).choices[0].text);

const whole = await client.chat.completions.create({ model, messages, max_tokens: 20, seed: 1, logprobs: true });
const stream = client.chat.completions.stream({ model, messages, max_tokens: 20, seed: 1, stream_options: { include_usage: true } });
assert.equal(await stream.finalContent(), whole.choices[0].message.content);
assert.equal((await stream.totalUsage()).completion_tokens, whole.usage.completion_tokens);
const calls = await client.chat.completions.create({ model, messages, tools: [clock], tool_choice: "required", max_tokens: 300, seed: 1 });
assert.equal(calls.choices[0].message.tool_calls[0].function.name, "clock");
const format = { type: "json_schema", json_schema: { name: "v", strict: true, schema: verdict } };
const formed = await client.chat.completions.parse({ model, messages, response_format: format, max_tokens: 60 });
assert.ok(["yes", "no"].includes(JSON.parse(formed.choices[0].message.content).answer));

const response = await client.responses.create({ model, input: "Hello", max_output_tokens: 20 });
assert.equal(typeof response.output_text, "string");
const events = [];
for await (const event of await client.responses.create({ model, input: "Hello", max_output_tokens: 20, stream: true })) events.push(event.type);
assert.equal(events[0], "response.created");
assert.equal((await client.embeddings.create({ model, input: ["a", "b"] })).data.length, 2);
assert.ok((await client.models.list()).data.some((entry) => entry.id === model));

const line = { custom_id: "1", method: "POST", url: "/v1/completions", body: { model, prompt: "a", max_tokens: 2 } };
const file = await client.files.create({ file: await toFile(Buffer.from(JSON.stringify(line)), "in.jsonl"), purpose: "batch" });
let batch = await client.batches.create({ input_file_id: file.id, endpoint: "/v1/completions", completion_window: "24h" });
while (!["completed", "failed"].includes(batch.status)) {
  await new Promise((resolve) => setTimeout(resolve, 50));
  batch = await client.batches.retrieve(batch.id);
}
const output = await (await client.files.content(batch.output_file_id)).text();
assert.equal(JSON.parse(output).response.status_code, 200);
await assert.rejects(client.completions.create({ model, prompt: "a", temperature: 9 }), (error) => error.status === 400 && error.param === "temperature");
await assert.rejects(client.models.retrieve("absent"), OpenAI.NotFoundError);
