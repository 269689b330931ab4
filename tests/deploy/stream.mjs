// One streamed and one whole completion through the openai package; prints one line of JSON.
import OpenAI from 'openai';

const client = new OpenAI({ baseURL: process.env.GATEWAY_URL, apiKey: process.env.GATEWAY_KEY });
const messages = [{ role: 'user', content: 'Hello!' }];
const began = performance.now();
const parts = [];
const times = [];
for await (const part of await client.chat.completions.create({ model: 'fast', messages, stream: true })) {
  parts.push(part.choices[0]?.delta?.content ?? '');
  times.push(performance.now() - began);
}
const whole = await client.chat.completions.create({ model: 'fast', messages });
let refused = 0;
try {
  await new OpenAI({ baseURL: process.env.GATEWAY_URL, apiKey: 'nobody' }).models.list();
} catch (error) {
  refused = error.status;
}
console.log(JSON.stringify({ parts, times, whole: whole.choices[0].message.content, refused }));
