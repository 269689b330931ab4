"""`python -m proxysite.awslambda`: the entry point of the image on AWS Lambda."""

import asyncio

from proxysite.awslambda.runtime import Runtime, Site


def load() -> Site:
    # Here, and not at the head: what fails while it is imported is told to Lambda.
    from proxysite import onlambda

    return onlambda.site()


if __name__ == "__main__":
    asyncio.run(Runtime(load).run())
