"""Text from models: sampling, the engine, the assistant."""
