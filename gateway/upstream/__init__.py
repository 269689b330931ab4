"""Calls to providers: the client, its transport and the wire."""
