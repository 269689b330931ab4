// One round through the openai package, unchanged but for base URL and key; prints one line of JSON.
import OpenAI from 'openai';
import { VERSION } from 'openai/version';

const client = new OpenAI({ baseURL: process.env.GATEWAY_URL, apiKey: process.env.GATEWAY_KEY });
const stranger = new OpenAI({ baseURL: process.env.GATEWAY_URL, apiKey: 'sk-gw-nobody' });
const messages = [{ role: 'user', content: 'Hello!' }];

async function collect(stream) {
  const parts = [];
  for await (const part of stream) parts.push(part);
  return parts;
}

// What was thrown, as a user of the package sees it; parts are what a stream brought before.
async function thrown(work) {
  const parts = [];
  try {
    await work(parts);
  } catch (error) {
    return {
      class: error.constructor.name,
      status: error.status ?? null,
      code: error.code ?? null,
      param: error.param ?? null,
      type: error.type ?? null,
      message: error.message,
      hasRequestId: (error.requestID ?? '').startsWith('req_'),
      parts,
    };
  }
  return null;
}

const chat = await client.chat.completions.create({ model: 'fast', messages });
const usage = { stream_options: { include_usage: true } };
const models = [];
for await (const model of client.models.list()) models.push(model.id);
const gathered = client.chat.completions.stream({ model: 'lab/no-role', messages, ...usage });
const tools = client.chat.completions.stream({
  model: 'lab/tools',
  messages,
  tools: [{ type: 'function', function: { name: 'get_weather', parameters: { type: 'object', properties: {} } } }],
});

console.log(
  JSON.stringify({
    node: process.versions.node,
    version: VERSION,
    chat,
    requestId: chat._request_id,
    streamed: await collect(await client.chat.completions.create({ model: 'fast', messages, stream: true })),
    withUsage: await collect(
      await client.chat.completions.create({ model: 'fast', messages, stream: true, ...usage }),
    ),
    gathered: await gathered.finalChatCompletion(),
    tools: (await tools.finalChatCompletion()).choices[0],
    completion: await client.completions.create({ model: 'fast', prompt: 'Say this' }),
    completionStreamed: await collect(
      await client.completions.create({ model: 'fast', prompt: 'Say this', stream: true }),
    ),
    vectors: (await client.embeddings.create({ model: 'fast', input: 'hello' })).data[0].embedding,
    floats: (await client.embeddings.create({ model: 'fast', input: 'hello', encoding_format: 'float' })).data[0]
      .embedding,
    plainVectors: (await client.embeddings.create({ model: 'lab/plain', input: 'hello' })).data[0].embedding,
    models,
    model: await client.models.retrieve('lab/Llama-3:free'),
    unauthorized: await thrown(() => stranger.chat.completions.create({ model: 'fast', messages })),
    unknown: await thrown(() => client.chat.completions.create({ model: 'nope', messages })),
    limited: await thrown(() => client.chat.completions.create({ model: 'lab/limited', messages })),
    quota: await thrown(() => client.chat.completions.create({ model: 'lab/quota', messages })),
    refused: await thrown(() => client.chat.completions.create({ model: 'lab/too-long', messages })),
    midway: await thrown(async (parts) => {
      for await (const part of await client.chat.completions.create({ model: 'lab/boom', messages, stream: true }))
        parts.push(part.choices[0].delta.content);
    }),
    cut: await thrown(async (parts) => {
      for await (const part of await client.chat.completions.create({ model: 'lab/cut', messages, stream: true }))
        parts.push(part.choices[0].delta.content);
    }),
  }),
);
