"""A buffered background telemetry tracer for LLM agents."""
