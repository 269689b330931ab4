// A small web server: it serves the two pages and, to who has signed in, tokens of some minutes.
// Node.js 18 or newer, no package but the SDK that the pages load.
import { createServer } from "node:http";
import { readFile } from "node:fs/promises";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const sdk = process.env.SDK_DIR ?? join(here, "node_modules", "openai");
const port = Number(process.env.PORT ?? 3000);
const origin = process.env.ORIGIN ?? `http://localhost:${port}`;
const baseURL = process.env.OPENAI_BASE_URL ?? "http://127.0.0.1:8000/v1";
const model = process.env.MODEL ?? "echo";
// The publishable key goes to everybody, the secret one stays here.
const publishable = process.env.PUBLISHABLE_KEY ?? "";
const secret = process.env.OPENAI_API_KEY ?? "";

const types = { ".html": "text/html", ".mjs": "text/javascript", ".js": "text/javascript", ".json": "application/json" };

function send(response, status, body, type = "application/json") {
  response.writeHead(status, { "content-type": `${type}; charset=utf-8`, "cache-control": "no-store" });
  response.end(body);
}

async function file(response, path) {
  try {
    send(response, 200, await readFile(path), types[extname(path)] ?? "application/octet-stream");
  } catch {
    send(response, 404, "{}");
  }
}

// Here a real application asks its session who this is; the name must not come from the page.
function signedIn(request) {
  return /(?:^|; )user=([A-Za-z0-9_-]{1,64})/.exec(request.headers.cookie ?? "")?.[1];
}

async function token(request, response) {
  const user = signedIn(request);
  if (!user) return send(response, 401, "{}");
  const answer = await fetch(`${baseURL}/client_tokens`, {
    method: "POST",
    headers: { authorization: `Bearer ${secret}`, "content-type": "application/json" },
    body: JSON.stringify({ end_user: user, expires_in: 300, origin, aliases: [model], endpoints: ["chat.completions"] }),
  });
  if (!answer.ok) {
    console.error(`no token: ${answer.status} ${await answer.text()}`);
    return send(response, 502, "{}");
  }
  const { token, expires_at } = await answer.json();
  send(response, 200, JSON.stringify({ token, expires_at }));
}

createServer(async (request, response) => {
  const path = normalize(new URL(request.url, origin).pathname);
  // Another page may make a browser send this POST with the user's cookie, but it cannot read the answer.
  if (request.method === "POST" && path === "/token") return token(request, response);
  if (request.method !== "GET") return send(response, 405, "{}");
  if (path === "/config.json") return send(response, 200, JSON.stringify({ baseURL, apiKey: publishable, model }));
  if (path === "/") return file(response, join(here, "page.html"));
  if (path === "/signed-in") return file(response, join(here, "signed-in.html"));
  if (path.startsWith("/openai/")) return file(response, join(sdk, path.slice("/openai/".length)));
  send(response, 404, "{}");
}).listen(port, () => console.log(`listening on ${origin}`));
