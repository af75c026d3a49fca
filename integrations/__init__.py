"""Instrumentation of libraries, one file each; imported as `tracer.integrations`."""
