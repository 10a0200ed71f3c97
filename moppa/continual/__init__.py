"""Continual learning: tasks arrive in sequence on one backbone, and all earlier ones are evaluated after each."""
