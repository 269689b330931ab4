"""An ASGI application on AWS Lambda, streaming: `python -m proxysite.awslambda` is the image's own runtime.

https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html
"""
