"""Protocols and small models, by several systems of secure computation on the same inputs."""
