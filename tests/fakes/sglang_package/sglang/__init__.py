"""A stand-in for SGLang: its command line, and its protocols over an echo."""
