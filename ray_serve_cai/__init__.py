"""Serve LLMs with vLLM on Ray Serve behind one OpenAI-compatible endpoint."""

__version__ = "0.1.0"
