"""LangChain against the gateway: what it makes of each stream, as one JSON object. Run in an environment of its own."""

import json
import os
import sys
from importlib import import_module
from typing import Any

langchain_openai: Any = import_module("langchain_openai")  # not where these tests' types are checked
ChatOpenAI, OpenAIEmbeddings = langchain_openai.ChatOpenAI, langchain_openai.OpenAIEmbeddings

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
PLACE: Any = {"base_url": os.environ["GATEWAY_URL"], "api_key": os.environ["GATEWAY_KEY"], "max_retries": 0}


def chat(model: str) -> dict[str, Any]:
    asked: Any = ChatOpenAI(model=model, stream_usage=True, **PLACE)
    whole: Any = None
    if model.startswith("tools"):
        asked = asked.bind_tools([WEATHER])
    try:
        for chunk in asked.stream("Hi"):
            whole = chunk if whole is None else whole + chunk
    except Exception as exc:  # what the library raises is what is asked about
        return {"raised": type(exc).__name__, "message": str(exc)}
    return {
        "text": whole.content,
        "finish": whole.response_metadata.get("finish_reason"),
        "calls": [[call["name"], call["args"]] for call in whole.tool_calls],
        "usage": whole.usage_metadata and whole.usage_metadata["total_tokens"],
    }


def embeddings(**options: Any) -> Any:
    try:
        return OpenAIEmbeddings(model="embed", **PLACE, **options).embed_query("Hi")
    except Exception as exc:
        return {"raised": type(exc).__name__, "message": str(exc)}


said: dict[str, Any] = {model: chat(model) for model in json.loads(os.environ["MODELS"])}
said["whole"] = ChatOpenAI(model="whole", **PLACE).invoke("Hi").content
said["embedding"] = embeddings(check_embedding_ctx_length=False)
sys.stdout.write(json.dumps(said))
