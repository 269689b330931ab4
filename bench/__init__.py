"""The side-by-side benchmark: this gateway, the same relay without a framework, and nginx, in one run."""
