"""A folder for the import path: what a session of the platform has there, as far as a launch."""
