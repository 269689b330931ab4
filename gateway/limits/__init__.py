"""Who may go on now: requests, tokens and calls at once, counted in memory, in SQL or in Redis."""
