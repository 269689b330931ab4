"""What the client wants: the head, the path and the body of a request, read and checked."""
