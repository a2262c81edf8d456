"""Declared tools: YAML files in TOOLS_DIR that name a command, a request or a query, and what may vary in it."""
