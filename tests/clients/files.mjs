// Uploads and downloads through the openai package, unchanged but for base URL and key; prints one line of JSON.
import { createHash } from 'node:crypto';
import { createReadStream, openAsBlob } from 'node:fs';
import OpenAI, { toFile } from 'openai';

const client = new OpenAI({ baseURL: process.env.GATEWAY_URL, apiKey: process.env.GATEWAY_KEY, maxRetries: 0 });
const sound = process.env.SOUND;
const image = (name) => toFile(createReadStream(sound), name, { type: 'image/png' });
const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

async function thrown(work) {
  try {
    await work();
  } catch (error) {
    return { class: error.constructor.name, status: error.status ?? null, code: error.code ?? null };
  }
  return null;
}

// The file first, as its user names it first; a stream has no length that anybody knows.
const transcription = await client.audio.transcriptions.create({
  file: createReadStream(sound),
  model: 'fast',
  response_format: 'verbose_json',
  timestamp_granularities: ['word', 'segment'],
});
const text = await client.audio.transcriptions.create({
  file: createReadStream(sound),
  model: 'fast',
  response_format: 'text',
});
const edited = await client.images.edit({
  model: 'fast',
  image: [await image('a.png'), await image('b.png')],
  prompt: 'put them together',
});
const speech = await client.audio.speech.create({ model: 'fast', voice: 'alloy', input: 'Hello' });
const file = await client.files.create({ file: await openAsBlob(sound), purpose: 'assistants' });
const content = await client.files.content(file.id);

console.log(
  JSON.stringify({
    transcription,
    text,
    edited,
    speech: { type: speech.headers.get('content-type'), sha256: sha256(Buffer.from(await speech.arrayBuffer())) },
    file,
    content: { type: content.headers.get('content-type'), sha256: sha256(Buffer.from(await content.arrayBuffer())) },
    twice: await thrown(() =>
      client.post('/audio/transcriptions', {
        body: (() => {
          const form = new FormData();
          form.append('model', 'fast');
          form.append('file', new Blob(['RIFF']), 'a.wav');
          form.append('model', 'dear');
          return form;
        })(),
      }),
    ),
  }),
);
