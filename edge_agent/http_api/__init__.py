"""The agent behind a local HTTP endpoint that any OpenAI client can use."""
