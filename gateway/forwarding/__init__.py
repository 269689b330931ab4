"""From a grant to a reply: one attempt a route."""
