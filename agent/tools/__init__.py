"""What the agent may call: MCP servers, custom Python tools, demo tools."""
