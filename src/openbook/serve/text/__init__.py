"""What stands between text and token ids: chat templates, fill-in-the-middle, grammars, tool calls. It knows nothing of HTTP."""
