// Vercel's AI SDK against the gateway: what it makes of each stream, as one JSON object.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateText, streamText, jsonSchema, tool } from "ai";

const provider = createOpenAICompatible({
  name: "gateway",
  baseURL: process.env.GATEWAY_URL,
  apiKey: process.env.GATEWAY_KEY,
  includeUsage: true,
});
const tools = {
  get_weather: tool({
    inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } }, required: ["city"] }),
  }),
};

async function stream(model, options = {}) {
  const failed = [];
  const result = streamText({
    model: provider(model), prompt: "Hi", maxRetries: 0, onError: ({ error }) => failed.push(String(error.message ?? error)), ...options,
  });
  const kinds = [];
  let text = "", reasoning = "";
  for await (const part of result.fullStream) {
    kinds.push(part.type);
    if (part.type === "text-delta") text += part.text ?? part.delta;
    if (part.type === "reasoning-delta") reasoning += part.text ?? part.delta;
  }
  if (failed.length) return { text, failed };
  const usage = await result.totalUsage;
  const calls = (await result.toolCalls).map((call) => [call.toolName, call.input]);
  return {
    text, reasoning, calls, finish: await result.finishReason,
    usage: [usage.inputTokens, usage.outputTokens], errors: kinds.filter((kind) => kind === "error").length,
  };
}

const said = {};
for (const model of JSON.parse(process.env.MODELS)) {
  said[model] = await stream(model, model.startsWith("tools") ? { tools } : {});
}
said.whole = (await generateText({ model: provider("whole"), prompt: "Hi", maxRetries: 0 })).text;
said.embedding = (await embed({ model: provider.textEmbeddingModel("embed"), value: "Hi", maxRetries: 0 })).embedding;
try {
  await generateText({ model: provider("refused"), prompt: "Hi", maxRetries: 0 });
} catch (error) {
  said.refused = { status: error.statusCode, message: error.message };
}
console.log(JSON.stringify(said));
