"""What is counted: the families (docs/metrics.md), a process's page of counters, and the forms that others read."""
