"""Chat at the command line: `OPENAI_BASE_URL=... OPENAI_API_KEY=... python chat.py "Hello, gateway!"`.

For a machine of one's own, which may hold a secret key, or an ephemeral token that somebody has sent (`pip install
openai`). A question that is asked again after the line broke off is paid once.
"""

import argparse
import sys
import uuid

import openai


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("question")
    parser.add_argument("--model", default="echo")
    options = parser.parse_args()
    client = openai.OpenAI()
    try:
        stream = client.chat.completions.create(
            model=options.model,
            messages=[{"role": "user", "content": options.question}],
            stream=True,
            extra_headers={"Idempotency-Key": str(uuid.uuid4())},
        )
        for chunk in stream:
            if chunk.choices:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
    except openai.RateLimitError as error:
        print(f"Too much for now: {error.message}", file=sys.stderr)
        return 1
    except openai.APIStatusError as error:
        print(f"{error.status_code} {error.code}: {error.message} ({error.request_id})", file=sys.stderr)
        return 1
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
