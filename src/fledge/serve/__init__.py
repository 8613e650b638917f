"""The service: an OpenAI-compatible API over live engines, and the web app."""
