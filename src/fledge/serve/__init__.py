"""The engine as a service: the OpenAI-compatible API and the web app."""
