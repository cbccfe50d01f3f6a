"""A conformance run for clients in any language: ``python -m chatapi.testing.conformance -- COMMAND …``."""
