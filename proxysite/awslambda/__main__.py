"""`python -m proxysite.awslambda`: the entry point of the image on AWS Lambda."""

import gc

gc.disable()  # until the start is over (runtime.py): what is imported is no garbage

import asyncio  # noqa: E402

from proxysite.awslambda.runtime import Runtime, Site  # noqa: E402


def load() -> Site:
    # Here, and not at the head: what fails while it is imported is told to Lambda.
    from proxysite import onlambda

    return onlambda.site()


if __name__ == "__main__":
    asyncio.run(Runtime(load).run())
