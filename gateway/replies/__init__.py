"""What a provider said: read, mended where clients would trip, and refused where it is an error."""
