"""The pieces every model here is built from."""
