"""Which target is tried first, which is out of order, and where what has an id is."""
