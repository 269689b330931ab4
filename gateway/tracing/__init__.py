"""Traces for OpenTelemetry: a request's place in one, and what is sent of it; imported only where it is sent."""
